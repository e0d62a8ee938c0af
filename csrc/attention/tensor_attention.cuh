// tree_attention of 16-bit numbers: what a block of threads does, with the steps of tensor_cores.cuh.
#pragma once

#include "attention/branch_tiles.cuh"
#include "attention/merge.cuh"
#include "attention/tensor_cores.cuh"

namespace ltd::cuda {
namespace {

// The tiles from key `first` to `last`, whose keys are the same for all rows. The next tile is copied while one is in
// use; `stage` is where that is.
template <typename T, typename Shape>
__device__ inline void attend_common_tiles(const TreeAttention& a, const Plan& plan, const Work& work, int first,
                                           int last, const TensorMemory<T, Shape>& memory, int& stage,
                                           Softmax<Shape::Outputs::kRows>& softmax, typename Shape::Outputs& outputs) {
  const auto copy = [&](int first_key, int into) {
    const int count = last - first_key;
    copy_rows<Shape::kTileKeys, T, Shape>(a.keys, work, first_key, count, memory.keys(into));
    copy_rows<Shape::kTileKeys, T, Shape>(a.values, work, first_key, count, memory.values(into));
    commit_copies();
  };
  const int first_warp_row = threadIdx.x / kWarp * Shape::kTall * 16;
  if (first < last) copy(first, stage);
  for (int key = first; key < last; key += Shape::kTileKeys) {
    wait_for_copies<0>();
    __syncthreads();  // all see the tile, and are done with the one before
    if (key + Shape::kTileKeys < last) copy(key + Shape::kTileKeys, 1 - stage);
    if (first_warp_row < work.rows) {
      const uint64_t sight = lane_sight(a, plan, work, work.first_row + first_warp_row, key);
      typename Shape::Scores scores;
      score<T, Shape>(memory.queries + first_warp_row * Shape::Rows::kStride, memory.keys(stage), scores);
      hide(sight, scores);
      soften(a.scale * kLog2E, scores, softmax, outputs);
      add_values<T, Shape>(scores, memory.values(stage), outputs);
    }
    stage = 1 - stage;
  }
}

template <typename T, typename Shape>
__device__ inline void attend_rows_in_tiles(const TreeAttention& a, const Plan& plan, const Work& work) {
  Chunk chunk = chunk_from(plan, work, work.split);
  if (chunk.is_empty() && plan.splits > 1) return write_nothing(a, plan, work);
  const TensorMemory<T, Shape> memory;
  const int first_warp_row = threadIdx.x / kWarp * Shape::kTall * 16;
  typename Shape::Outputs outputs;
  Softmax<Shape::Outputs::kRows> softmax;
  clear(outputs);
  softmax.clear();
  copy_queries<T, Shape>(a, plan, work, memory.queries);
  int stage = 0;
  for (; !chunk.is_empty(); chunk = chunk_from(plan, work, chunk.index + plan.splits)) {
    const int common = a.masks.data == nullptr ? work.end : work.length / Shape::kTileKeys * Shape::kTileKeys;
    const int last = static_cast<int>(at_most(common, chunk.last_key));
    attend_common_tiles<T, Shape>(a, plan, work, chunk.first_key, last, memory, stage, softmax, outputs);
    for (int key = last < chunk.first_key ? chunk.first_key : last; key < chunk.last_key; key += Shape::kTileKeys) {
      attend_branch_tile<T, Shape>(a, plan, work, key, memory, softmax, outputs);
    }
  }
  if (first_warp_row < work.rows) {
    write_results<T>(a, plan, work, work.first_row + first_warp_row, {0, Shape::kHeadDim}, outputs, softmax);
  }
}

template <typename T, typename Shape>
__global__ __launch_bounds__(kThreads, kBlocksPerMultiprocessor) void attend_in_tiles(TreeAttention a, Plan plan) {
  LTD_SHARED(Work, work);
  find_work(a, plan, work);
  attend_rows_in_tiles<T, Shape>(a, plan, work);
  merge_if_last<T>(a, plan, work);
}

}  // namespace
}  // namespace ltd::cuda
