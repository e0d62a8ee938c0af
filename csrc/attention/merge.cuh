// Puts the partial results of the splits of tree_attention together.
#pragma once

#include "attention/results.cuh"
#include "common/warp.cuh"

namespace ltd::cuda {
namespace {

using WarpFloats = Array<float, kWarps>;
using SplitFloats = Array<float, kMaxSplits>;

// One row per block.
template <typename T>
__global__ __launch_bounds__(kThreads) void merge(TreeAttention a, Plan plan) {
  constexpr int kElements = kThreads;  // of the output that are summed at a time
  constexpr int kLaneElements = kElements / kWarp;
  LTD_SHARED(WarpFloats, warp_peaks);
  LTD_SHARED(SplitFloats, sums);
  LTD_SHARED(SplitFloats, weights);
  using PartialSums = Array<float, kWarps * kElements>;
  LTD_SHARED(PartialSums, partial_sums);
  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;
  const int row = blockIdx.x % plan.rows;
  const int64_t kv_head = blockIdx.x / plan.rows % a.kv_heads;
  const int64_t batch = blockIdx.x / plan.rows / a.kv_heads;
  const Partials partials(a, plan);

  const int64_t first = Partials::row(a, plan, batch, kv_head, 0, row);
  const float own_peak = thread < plan.splits ? partials.peaks[first + int64_t{thread} * plan.rows] : -kInfinity;
  sums[thread] = thread < plan.splits ? partials.sums[first + int64_t{thread} * plan.rows] : 0.0f;
  float peak = warp_max(own_peak);
  if (lane == 0) warp_peaks[warp] = peak;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) peak = fmaxf(peak, warp_peaks[w]);
  const float base = peak == -kInfinity ? 0.0f : peak;
  weights[thread] = fast_exp2((own_peak - base) * (a.scale * kLog2E));
  __syncthreads();
  float sum = 0;
  for (int s = 0; s < plan.splits; ++s) sum += sums[s] * weights[s];
  const float inverse = 1.0f / (sum == 0.0f ? 1.0f : sum);

  const Pointer<T> target = output_row<T>(a, plan, batch, kv_head, row);
  for (int64_t element = 0; element < a.head_dim; element += kElements) {
    float parts[kLaneElements] = {};
#pragma unroll 4
    for (int s = warp; s < plan.splits; s += kWarps) {
      if (sums[s] == 0.0f) continue;  // saw nothing, and may have written no outputs
      const Pointer<float> outputs = partials.outputs + (first + int64_t{s} * plan.rows) * a.head_dim;
#pragma unroll
      for (int i = 0; i < kLaneElements; ++i) {
        const int64_t e = element + i * kWarp + lane;
        if (e < a.head_dim) parts[i] = fmaf(outputs[e], weights[s], parts[i]);
      }
    }
    __syncthreads();  // the sums before were read
    for (int i = 0; i < kLaneElements; ++i) partial_sums[warp * kElements + i * kWarp + lane] = parts[i];
    __syncthreads();
    if (element + thread >= a.head_dim) continue;
    float total = 0;
    for (int w = 0; w < kWarps; ++w) total += partial_sums[w * kElements + thread];
    target[element + thread] = from_float<T>(total * inverse);
  }
}

}  // namespace
}  // namespace ltd::cuda
