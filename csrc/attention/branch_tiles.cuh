// Tiles in which every node has keys of its own: those of its branch of the tree, behind the last of the prefix.
//
// Such a tile is computed 16 slots at a time. Of a step that the prefix fills all rows have the same keys; any other is
// computed for each node by itself, with the node's keys gathered slot by slot, and what comes out is kept for the
// node's rows alone. A row's scores then stand where those of a common tile would, and its sums are made by the same
// steps of the tensor cores.
#pragma once

#include "attention/tensor_cores.cuh"

namespace ltd::cuda {
namespace {

// A tile, and which rows of the cache are in shared memory.
struct BranchTile {
  int key;           // its first slot
  int base;          // the first row in memory, if all rows that the tile may need are there at once
  int count;         // of those
  bool is_together;  // whether they are; else each warp copies a step's rows when it needs them
};

template <typename Shape>
__device__ inline BranchTile branch_tile(const TreeAttention& a, const Work& work, int key) {
  const int base = key < work.length ? key : work.length;
  const int count = work.length + static_cast<int>(a.tree_rows) - base;
  return {key, base, count, count < Shape::kMemoryRows};  // the last row in memory is 0
}

// Some of a warp's rows.
struct RowRange {
  int first;
  int last;  // exclusive

  __device__ bool touches(int m) const { return first < 16 * m + 16 && last > 16 * m; }

  // Takes over what belongs to these rows of a 16 x 8 tile that begins at row 16 * m.
  __device__ void take(int m, const float (&from)[4], float (&to)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = 16 * m + threadIdx.x % kWarp / 4 + i / 2 * 8;
      if (row >= first && row < last) to[i] = from[i];
    }
  }
};

// The whole block: makes memory ready for keys or values of a tile.
template <typename T, typename Shape>
__device__ inline void fill_memory(const HeadRows& rows, const Work& work, const BranchTile& tile, T* memory) {
  __syncthreads();  // all are done with what is overwritten
  if (tile.is_together) copy_rows<Shape::kMemoryRows, T, Shape>(rows, work, tile.base, tile.count, memory);
  commit_copies();
  wait_for_copies<0>();
  __syncthreads();
}

// Where in memory a node's keys or values of 16 slots lie: lane l is told that of slot l % 16. The whole warp.
template <typename T, typename Shape>
__device__ inline int find_rows(const TreeAttention& a, const HeadRows& rows, const Work& work, const BranchTile& tile,
                                int node, int first_slot, T* memory) {
  using Rows = typename Shape::Rows;
  const int lane = threadIdx.x % kWarp;
  const int row = row_of_slot(a, work, node, first_slot + lane % 16);
  if (tile.is_together) return row < 0 ? Shape::kMemoryRows - 1 : row - tile.base;
  const int first = threadIdx.x / kWarp * (Shape::kMemoryRows / kWarps);
  const Pointer<const T> source = rows.at<T>(work.batch, work.kv_head, 0);
  __syncwarp();  // all lanes are done with what is overwritten
  for (int i = lane; i < 16 * Rows::kChunks; i += kWarp) {
    const int slot = i / Rows::kChunks;
    const int chunk = i % Rows::kChunks;
    const int from = __shfl_sync(kAllLanes, row, slot);
    Rows::copy_chunk(memory + Rows::at(first + slot, chunk), from >= 0, chunk,
                     [&] { return source + from * rows.row_stride; });
  }
  commit_copies();
  wait_for_copies<0>();
  __syncwarp();
  return first + lane % 16;
}

// Calls visit(step, rows, find_rows()) for the steps of a tile and the warp's rows for which they are computed.
template <typename T, typename Shape, typename Visit>
__device__ inline void for_steps(const TreeAttention& a, const Plan& plan, const HeadRows& source, const Work& work,
                                 const BranchTile& tile, T* memory, const Visit& visit) {
  const int first_warp_row = threadIdx.x / kWarp * Shape::kTall * 16;
  const int warp_row = work.first_row + first_warp_row;
  const int rows = static_cast<int>(at_most(work.rows - first_warp_row, Shape::kTall * 16));
  const int first_node = node_of(plan, warp_row);
  const int last_node = node_of(plan, warp_row + rows - 1);
  for (int node = first_node; node <= last_node; ++node) {
    const int end = work.length + tree_keys_of(a, work.batch, node);
    const int node_row = node * plan.group_heads - warp_row;
#pragma unroll
    for (int step = 0; step < Shape::kTileKeys / 16; ++step) {
      const int first_slot = tile.key + 16 * step;
      const bool is_common = tile.is_together && first_slot + 16 <= work.length;
      if (first_slot >= end || (is_common && node > first_node)) continue;
      const int row = find_rows<T, Shape>(a, source, work, tile, node, first_slot, memory);
      visit(step, is_common ? RowRange{0, rows} : RowRange{node_row, node_row + plan.group_heads}, row);
    }
  }
}

// Products of queries, which begin at `queries`, and the keys of a step.
template <typename T, typename Shape>
__device__ inline void score_step(int step, const RowRange& range, int row, const T* queries, const T* memory,
                                  typename Shape::Scores& scores) {
  using Rows = typename Shape::Rows;
  const int lane = threadIdx.x % kWarp;
  const int key_row = __shfl_sync(kAllLanes, row, lane / 16 * 8 + lane % 8);
#pragma unroll
  for (int m = 0; m < Shape::kTall; ++m) {
    if (!range.touches(m)) continue;
    float products[2][4] = {};
#pragma unroll 2  // more would take registers
    for (int part = 0; part < Shape::kHeadDim / 16; ++part) {
      uint32_t query[4], key[4];
      load_tiles<false>(query, queries + Rows::at(m * 16 + lane % 16, 2 * part + lane / 16));
      load_tiles<false>(key, memory + Rows::at(key_row, 2 * part + lane / 8 % 2));
      multiply_tiles<T>(products[0], query, {key[0], key[1]});
      multiply_tiles<T>(products[1], query, {key[2], key[3]});
    }
    range.take(m, products[0], scores.tiles[m][2 * step]);
    range.take(m, products[1], scores.tiles[m][2 * step + 1]);
  }
}

// A warp's weights of a tile, rounded: they take half the registers of the scores.
template <typename Shape>
struct RoundedWeights {
  uint32_t tiles[Shape::kTall][Shape::kTileKeys / 16][4];

  template <typename T>
  __device__ void round(const typename Shape::Scores& weights) {
#pragma unroll
    for (int m = 0; m < Shape::kTall; ++m) {
#pragma unroll
      for (int step = 0; step < Shape::kTileKeys / 16; ++step)
        round_weights<T, Shape>(weights, m, step, tiles[m][step]);
    }
  }
};

// Adds the values of a step, times the weights, to the outputs.
template <typename T, typename Shape>
__device__ inline void add_step(int step, const RowRange& range, int row, const RoundedWeights<Shape>& weights,
                                const T* memory, typename Shape::Outputs& outputs) {
  using Rows = typename Shape::Rows;
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int n = 0; n < Shape::kHeadDim / 16; ++n) {
    uint32_t value[4];
    load_tiles<true>(value, memory + Rows::at(row, 2 * n + lane / 16));
#pragma unroll
    for (int m = 0; m < Shape::kTall; ++m) {
      if (!range.touches(m)) continue;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float (&output)[4] = outputs.tiles[m][2 * n + half];
        float sums[4] = {output[0], output[1], output[2], output[3]};
        multiply_tiles<T>(sums, weights.tiles[m][step], {value[2 * half], value[2 * half + 1]});
        range.take(m, sums, output);
      }
    }
  }
}

// The whole block. Nothing is being copied meanwhile, and all of the tiles' memory is used.
template <typename T, typename Shape>
__device__ inline void attend_branch_tile(const TreeAttention& a, const Plan& plan, const Work& work, int key,
                                          const TensorMemory<T, Shape>& memory, Softmax<Shape::Outputs::kRows>& softmax,
                                          typename Shape::Outputs& outputs) {
  const BranchTile tile = branch_tile<Shape>(a, work, key);
  const int first_warp_row = threadIdx.x / kWarp * Shape::kTall * 16;
  const bool has_rows = first_warp_row < work.rows;
  const T* const queries = memory.queries + first_warp_row * Shape::Rows::kStride;
  typename Shape::Scores scores;
  clear(scores);
  fill_memory<T, Shape>(a.keys, work, tile, memory.tiles);
  if (has_rows) {
    for_steps<T, Shape>(a, plan, a.keys, work, tile, memory.tiles, [&](int step, const RowRange& range, int row) {
      score_step<T, Shape>(step, range, row, queries, memory.tiles, scores);
    });
  }
  fill_memory<T, Shape>(a.values, work, tile, memory.tiles);
  if (!has_rows) return;
  hide(lane_sight(a, plan, work, work.first_row + first_warp_row, key), scores);
  soften(a.scale * kLog2E, scores, softmax, outputs);
  RoundedWeights<Shape> weights;
  weights.template round<T>(scores);
  for_steps<T, Shape>(a, plan, a.values, work, tile, memory.tiles, [&](int step, const RowRange& range, int row) {
    add_step<T, Shape>(step, range, row, weights, memory.tiles, outputs);
  });
}

}  // namespace
}  // namespace ltd::cuda
