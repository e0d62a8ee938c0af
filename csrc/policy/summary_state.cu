// A warp takes a row of a layer, so that all multiprocessors read weights. Every block looks for the state's mean
// square by itself.
#include "common/cuda_kernels.h"
#include "common/warp.cuh"
#include "policy/summary_state.h"

namespace ltd::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;

// 1 / the root of the state's mean square; for a whole block.
template <typename T>
__device__ float state_scale(Pointer<const T> state, int size) {
  using Sums = Array<float, kWarps>;
  LTD_SHARED(Sums, squares);
  float sum = 0.0f;
#pragma unroll 4
  for (int i = threadIdx.x; i < size; i += kThreads) sum = fmaf(to_float(state[i]), to_float(state[i]), sum);
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) squares[threadIdx.x / kWarp] = sum;
  __syncthreads();
  sum = 0.0f;
  for (int warp = 0; warp < kWarps; ++warp) sum += squares[warp];
  return 1.0f / sqrtf(sum / static_cast<float>(size) + kStateEpsilon);
}

// Of a row's weights and the state; a lane reads kWeights at a time. For a whole warp.
template <int kWeights, typename T>
__device__ float state_product(Pointer<const float> weights, Pointer<const T> state, int size) {
  float sum = 0.0f;
#pragma unroll 4
  for (int first = threadIdx.x % kWarp * kWeights; first < size; first += kWarp * kWeights) {
    const Pack<float, kWeights> values = load_pack<kWeights>(weights + first);
#pragma unroll
    for (int i = 0; i < kWeights; ++i) sum = fmaf(values[i], to_float(state[first + i]), sum);
  }
  return warp_sum(sum);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) sum_states(SummaryState a) {
  await_earlier_kernels();
  const int64_t row_blocks = ceil_div(a.outputs(), kWarps);
  const int64_t b = blockIdx.x / row_blocks;
  const int size = static_cast<int>(a.state_size);
  const Pointer<const T> state = a.states.at<T>(b, 0);
  const float scale = size > 0 ? state_scale(state, size) : 0.0f;
  const int64_t output = blockIdx.x % row_blocks * kWarps + threadIdx.x / kWarp;
  if (output >= a.outputs()) return;
  const bool of_size = output >= a.layers[0].outputs;
  const PolicyLayer& layer = of_size ? a.layers[1] : a.layers[0];
  const int64_t row = of_size ? output - a.layers[0].outputs : output;
  const Pointer<const float> weights = global(layer.weight) + row * layer.inputs + a.state_from;
  const float product = size % 4 == 0 && is_aligned(weights, 16) ? state_product<4, T>(weights, state, size)
                                                                 : state_product<1, T>(weights, state, size);
  if (threadIdx.x % kWarp == 0) a.sums[b][output] = global(layer.bias)[row] + scale * product;
}

}  // namespace

int64_t summary_state_workspace(const SummaryState&) { return 0; }

void summary_state(const SummaryState& a) {
  if (a.batch * a.outputs() == 0) return;
  const dim3 blocks(static_cast<unsigned>(a.batch * ceil_div(a.outputs(), kWarps)));
  with_type(a.states.dtype, [&](auto type) {
    launch<kStartsEarly>(sum_states<decltype(type)>, blocks, kThreads, 0, a.launch.stream, a);
  });
}

}  // namespace ltd::cuda
