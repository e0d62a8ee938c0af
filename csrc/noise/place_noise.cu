#include "common/cuda_kernels.h"
#include "noise/noise.cuh"
#include "noise/place_noise.h"

namespace ltd::cuda {
namespace {

__global__ void __launch_bounds__(kNoiseThreads) make_place_noise(PlaceNoise a) {
  await_earlier_kernels();
  make_noise(NoisePlace(global(a.seed), a.row, a.position), a.vocabulary, blockIdx.x, gridDim.x, global(a.noise));
}

}  // namespace

int64_t place_noise_workspace(const PlaceNoise&) { return 0; }

void place_noise(const PlaceNoise& a) {
  launch<kStartsEarly>(make_place_noise, dim3(noise_blocks(a.vocabulary)), kNoiseThreads, 0, a.launch.stream, a);
}

}  // namespace ltd::cuda
