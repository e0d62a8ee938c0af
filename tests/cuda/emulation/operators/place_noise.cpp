#include "noise/place_noise.h"

#include "common/cuda_kernels.h"
#include "emulation/run.h"

namespace ltd::emulation {

void place_noise(const PlaceNoise& a) {
  Memory memory;
  memory.may_read(a.seed, 1);
  memory.may_write(a.noise, a.vocabulary);
  run(memory, a, cuda::place_noise_workspace, cuda::place_noise);
}

}  // namespace ltd::emulation
