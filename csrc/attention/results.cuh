// Where blocks of tree_attention leave their results: in the output, or in the workspace if several share a row.
#pragma once

#include "attention/softmax.cuh"

namespace ltd::cuda {
namespace {

// The workspace: results of a key/value head's rows, split by split.
struct Partials {
  Pointer<float> outputs;  // (B, kv_heads, splits, rows, head_dim), not yet divided by the sums
  Pointer<float> peaks;    // (B, kv_heads, splits, rows)
  Pointer<float> sums;     // the same

  __device__ Partials(const TreeAttention& a, const Plan& plan)
      : outputs(global(static_cast<float*>(a.launch.workspace))),
        peaks(outputs + plan.heads(a) * plan.splits * plan.rows * a.head_dim),
        sums(peaks + plan.heads(a) * plan.splits * plan.rows) {}
  __device__ static int64_t row(const TreeAttention& a, const Plan& plan, int64_t batch, int64_t kv_head, int split,
                                int row) {
    return ((batch * a.kv_heads + kv_head) * plan.splits + split) * plan.rows + row;
  }
};

template <typename T>
__device__ inline Pointer<T> output_row(const TreeAttention& a, const Plan& plan, int64_t batch, int64_t kv_head,
                                        int row) {
  const int64_t head = kv_head * plan.group_heads + row % plan.group_heads;
  return global(static_cast<T*>(a.output)) +
         ((batch * a.nodes + node_of(plan, row)) * a.query_heads + head) * a.head_dim;
}

// Writes row i of the outputs, multiplied by a factor, to `target`, of which `elements` are to be written. Zeros become
// positive: the sign of what was too small for a number may depend on how many zeros were added to it.
template <typename Outputs, typename T>
__device__ inline void write_row(Outputs& outputs, int i, float factor, Pointer<T> target, int elements) {
#pragma unroll
  for (int j = 0; j < Outputs::kColumns; j += Outputs::kStored) {
    Pack<T, Outputs::kStored> pack;
#pragma unroll
    for (int p = 0; p < Outputs::kStored; ++p) pack[p] = from_float<T>(fmaf(outputs.at(i, j + p), factor, 0.0f));
    if (Outputs::column(j) < elements) store_pack(target + Outputs::column(j), pack);
  }
}

// Where a block writes: `elements` elements of outputs, from `element` on.
struct Slice {
  int element;
  int elements;
};

// The warp's results: outputs if there is one split only, otherwise partial ones.
template <typename T, typename Outputs>
__device__ inline void write_results(const TreeAttention& a, const Plan& plan, const Work& work, int warp_row,
                                     const Slice& slice, Outputs& outputs, Softmax<Outputs::kRows>& softmax) {
#pragma unroll
  for (int i = 0; i < Outputs::kRows; ++i) {
    float sum = softmax.sums[i];
#pragma unroll
    for (int lanes = Outputs::kRowLanes / 2; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(kAllLanes, sum, lanes);
    const int row = warp_row + Outputs::row(i);
    if (row >= plan.rows) continue;
    if (plan.splits == 1) {
      // A row that saw nothing has sum 0 and outputs 0.
      const Pointer<T> target = output_row<T>(a, plan, work.batch, work.kv_head, row) + slice.element;
      write_row(outputs, i, 1.0f / (sum == 0.0f ? 1.0f : sum), target, slice.elements);
      continue;
    }
    const Partials partials(a, plan);
    const int64_t index = Partials::row(a, plan, work.batch, work.kv_head, work.split, row);
    write_row(outputs, i, 1.0f, partials.outputs + index * a.head_dim + slice.element, slice.elements);
    if (slice.element > 0 || Outputs::column(0) > 0) continue;
    partials.peaks[index] = softmax.peaks[i];
    partials.sums[index] = sum;
  }
}

// For a split that the keys are too few for: results of no weight, without outputs.
__device__ inline void write_nothing(const TreeAttention& a, const Plan& plan, const Work& work) {
  const Partials partials(a, plan);
  for (int row = threadIdx.x; row < work.rows && work.value_block == 0; row += kThreads) {
    const int64_t index = Partials::row(a, plan, work.batch, work.kv_head, work.split, work.first_row + row);
    partials.peaks[index] = -kInfinity;
    partials.sums[index] = 0;
  }
}

}  // namespace
}  // namespace ltd::cuda
