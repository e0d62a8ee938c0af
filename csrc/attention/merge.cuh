// Puts the partial results of the splits of tree_attention together: by the last block of those that share rows, or by
// a second launch. Both do the same sums in the same order.
#pragma once

#include "attention/results.cuh"
#include "common/last_block.cuh"
#include "common/warp.cuh"

namespace ltd::cuda {
namespace {

// Lane l looks after the splits l, l + 32, ...
constexpr int kLaneSplits = kMaxSplits / kWarp;

constexpr int kSplitsInFlight = 4;  // whose outputs a lane reads before it adds them up

// The weights of a row's splits in its result, divided by their sum.
struct SplitWeights {
  float weights[kLaneSplits];  // 0 for a split that saw nothing, and may have written no outputs

  __device__ SplitWeights(const TreeAttention& a, const Plan& plan, const Partials& partials, int64_t first) {
    float peaks[kLaneSplits], sums[kLaneSplits];
    float peak = -kInfinity;
#pragma unroll
    for (int part = 0; part < kLaneSplits; ++part) {
      const int split = part * kWarp + threadIdx.x % kWarp;
      const int64_t index = first + int64_t{split} * plan.rows;
      peaks[part] = split < plan.splits ? partials.peaks[index] : -kInfinity;
      sums[part] = split < plan.splits ? partials.sums[index] : 0.0f;
      peak = fmaxf(peak, peaks[part]);
    }
    peak = warp_max(peak);
    const float base = peak == -kInfinity ? 0.0f : peak;
    float sum = 0.0f;
#pragma unroll
    for (int part = 0; part < kLaneSplits; ++part) {
      const float weight = fast_exp2((peaks[part] - base) * (a.scale * kLog2E));
      weights[part] = sums[part] == 0.0f ? 0.0f : weight;
      sum = fmaf(sums[part], weight, sum);
    }
    sum = warp_sum(sum);
    const float inverse = 1.0f / (sum == 0.0f ? 1.0f : sum);
#pragma unroll
    for (int part = 0; part < kLaneSplits; ++part) weights[part] *= inverse;
  }
};

// The output of a row, of which a lane reads and writes kPack elements at a time; for a whole warp.
template <int kPack, typename T>
__device__ inline void merge_elements(const TreeAttention& a, const Plan& plan, int64_t batch, int64_t kv_head,
                                      int row) {
  const Partials partials(a, plan);
  const int64_t first = Partials::row(a, plan, batch, kv_head, 0, row);
  const SplitWeights splits(a, plan, partials, first);
  const Pointer<T> target = output_row<T>(a, plan, batch, kv_head, row);
  for (int64_t begin = 0; begin < a.head_dim; begin += kWarp * kPack) {
    const int64_t element = begin + threadIdx.x % kWarp * kPack;
    float totals[kPack] = {};
#pragma unroll
    for (int part = 0; part < kLaneSplits; ++part) {
      const int count = static_cast<int>(at_most(plan.splits - part * kWarp, kWarp));
      for (int split = 0; split < count; split += kSplitsInFlight) {
        Pack<float, kPack> outputs[kSplitsInFlight];
        float weights[kSplitsInFlight];
#pragma unroll
        for (int i = 0; i < kSplitsInFlight; ++i) {
          const bool exists = split + i < count;
          weights[i] = __shfl_sync(kAllLanes, splits.weights[part], exists ? split + i : 0);
          if (!exists) weights[i] = 0.0f;
          const int64_t index = first + int64_t{part * kWarp + split + i} * plan.rows;
          if (weights[i] != 0.0f && element < a.head_dim) {
            outputs[i] = load_pack<kPack>(partials.outputs + index * a.head_dim + element);
          }
        }
#pragma unroll
        for (int i = 0; i < kSplitsInFlight; ++i) {
          if (weights[i] == 0.0f || element >= a.head_dim) continue;
#pragma unroll
          for (int p = 0; p < kPack; ++p) totals[p] = fmaf(outputs[i][p], weights[i], totals[p]);
        }
      }
    }
    if (element >= a.head_dim) continue;
    Pack<T, kPack> result;
#pragma unroll
    for (int p = 0; p < kPack; ++p) result[p] = from_float<T>(totals[p]);
    store_pack(target + element, result);
  }
}

template <typename T>
__device__ inline void merge_row(const TreeAttention& a, const Plan& plan, int64_t batch, int64_t kv_head, int row) {
  if (a.head_dim % 4 == 0) {
    merge_elements<4, T>(a, plan, batch, kv_head, row);
  } else {
    merge_elements<1, T>(a, plan, batch, kv_head, row);
  }
}

// Merges the rows of a block of them, if this is the last of the blocks that have attended for these.
template <typename T>
__device__ inline void merge_if_last(const TreeAttention& a, const Plan& plan, const Work& work) {
  if (!plan.last_merges) return;
  const int64_t head = int64_t{work.batch} * a.kv_heads + work.kv_head;
  const int64_t place = head * plan.row_blocks + work.first_row / plan.block_rows;
  const Pointer<unsigned> counter = global(reinterpret_cast<unsigned*>(a.counters)) + place;
  if (!is_last_block(counter, plan.splits * plan.value_blocks)) return;
  for (int row = threadIdx.x / kWarp; row < work.rows; row += kWarps) {
    merge_row<T>(a, plan, work.batch, work.kv_head, work.first_row + row);
  }
}

// The same for all rows, one a warp.
template <typename T>
__global__ __launch_bounds__(kThreads) void merge(TreeAttention a, Plan plan) {
  const int64_t number = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (number >= plan.heads(a) * plan.rows) return;
  const int64_t head = number / plan.rows;
  merge_row<T>(a, plan, head / a.kv_heads, head % a.kv_heads, static_cast<int>(number % plan.rows));
}

}  // namespace
}  // namespace ltd::cuda
