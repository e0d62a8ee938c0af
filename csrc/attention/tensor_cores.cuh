// tree_attention of 16-bit numbers, multiplied by the tensor cores.
#pragma once

#include "attention/merge.cuh"

namespace ltd::cuda {
namespace {

// How tiles of keys, values and queries lie in shared memory: such that the same 16 bytes of 8 rows are in different
// banks. Either chunks of 16 bytes change places by row, or rows are longer by one.
template <int kHeadDim>
struct TileRows {
  static constexpr int kChunkElements = 8;
  static constexpr int kChunks = kHeadDim / kChunkElements;
  static constexpr bool kSwizzled = kChunks % 8 == 0;
  static constexpr int kStride = kSwizzled ? kHeadDim : kHeadDim + kChunkElements;

  __device__ static int at(int row, int chunk) {
    return row * kStride + (kSwizzled ? chunk ^ (row % 8) : chunk) * kChunkElements;
  }

  // Copies rows; those from `rows` on become 0.
  template <int kRows, typename T, typename Source>
  __device__ static void copy(T* tile, int rows, const Source& source) {
    static_assert(kRows * kChunks % kThreads == 0);
#pragma unroll 2  // more would take registers
    for (int i = 0; i < kRows * kChunks / kThreads; ++i) {
      const int row = (i * kThreads + threadIdx.x) / kChunks;
      const int chunk = (i * kThreads + threadIdx.x) % kChunks;
      T* const target = tile + at(row, chunk);
      if (row < rows) {
        copy_async16(target, source(row) + chunk * kChunkElements);
      } else {
#pragma unroll
        for (int e = 0; e < kChunkElements; ++e) target[e] = T{};
      }
    }
  }
};

// Sizes of a block of threads. Each warp has kTall times 16 rows.
template <int kHeadDimension, int kTallness>
struct TensorShape {
  static constexpr int kHeadDim = kHeadDimension;
  static constexpr int kTall = kTallness;
  static constexpr int kBlockRows = kWarps * kTall * 16;
  static constexpr int kTileKeys = kTall * kHeadDim >= 192 ? 32 : 64;  // with more the registers would not do
  static constexpr int kStages = 2;  // tiles of keys, and of values: one in use, one on its way
  using Rows = TileRows<kHeadDim>;
  static constexpr int kQueryElements = kBlockRows * Rows::kStride;
  static constexpr int kTileElements = kTileKeys * Rows::kStride;
  static constexpr int64_t kSharedBytes = (kQueryElements + 2 * kStages * kTileElements) * sizeof(uint16_t);
  using Scores = Fragments<kTall, kTileKeys / 8>;
  using Outputs = Fragments<kTall, kHeadDim / 8>;
};

template <typename T, typename Shape>
struct TensorMemory {
  T* queries;
  T* tiles;

  __device__ TensorMemory()
      : queries(dynamic_shared<T>(0, Shape::kQueryElements)),
        tiles(dynamic_shared<T>(Shape::kQueryElements * sizeof(T), 2 * Shape::kStages * Shape::kTileElements)) {}
  __device__ T* keys(int stage) const { return tiles + 2 * stage * Shape::kTileElements; }
  __device__ T* values(int stage) const { return keys(stage) + Shape::kTileElements; }
};

template <typename T, typename Shape>
__device__ inline void copy_queries(const TreeAttention& a, const Plan& plan, const Work& work, T* queries) {
  Shape::Rows::template copy<Shape::kBlockRows>(queries, work.rows, [&](int i) {
    const int row = work.first_row + i;
    const int64_t head = work.kv_head * plan.group_heads + row % plan.group_heads;
    return a.query.at<T>(work.batch, head, node_of(plan, row));
  });
}

template <typename T, typename Shape>
__device__ inline void copy_keys(const HeadRows& rows, const Work& work, int first_key, T* tile) {
  const Pointer<const T> first = rows.at<T>(work.batch, work.kv_head, first_key);
  Shape::Rows::template copy<Shape::kTileKeys>(tile, work.last_key - first_key,
                                               [&](int row) { return first + row * rows.row_stride; });
}

// Products of the warp's queries, which begin at `queries`, and a tile's keys.
template <typename T, typename Shape>
__device__ inline void score(const T* queries, const T* keys, typename Shape::Scores& scores) {
  using Rows = typename Shape::Rows;
  const int lane = threadIdx.x % kWarp;
  clear(scores);
#pragma unroll 2  // more would take registers
  for (int step = 0; step < Shape::kHeadDim / 16; ++step) {
    uint32_t query[Shape::kTall][4];
#pragma unroll
    for (int m = 0; m < Shape::kTall; ++m) {
      load_tiles<false>(query[m], queries + Rows::at(m * 16 + lane % 16, 2 * step + lane / 16));
    }
#pragma unroll
    for (int n = 0; n < Shape::kTileKeys / 16; ++n) {
      uint32_t key[4];
      load_tiles<false>(key, keys + Rows::at(n * 16 + lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2));
#pragma unroll
      for (int m = 0; m < Shape::kTall; ++m) {
        multiply_tiles<T>(scores.tiles[m][2 * n], query[m], {key[0], key[1]});
        multiply_tiles<T>(scores.tiles[m][2 * n + 1], query[m], {key[2], key[3]});
      }
    }
  }
}

// Adds a tile's values, times the warp's weights, to the outputs.
template <typename T, typename Shape>
__device__ inline void add_values(const typename Shape::Scores& weights, const T* values,
                                  typename Shape::Outputs& outputs) {
  using Rows = typename Shape::Rows;
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int step = 0; step < Shape::kTileKeys / 16; ++step) {
    uint32_t weight[Shape::kTall][4];
#pragma unroll
    for (int m = 0; m < Shape::kTall; ++m) {
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        const float* const pair = &weights.tiles[m][2 * step + part / 2][part % 2 * 2];
        weight[m][part] = round_pair<T>(pair[0], pair[1]);
      }
    }
#pragma unroll
    for (int n = 0; n < Shape::kHeadDim / 16; ++n) {
      uint32_t value[4];
      load_tiles<true>(value, values + Rows::at(step * 16 + lane % 16, 2 * n + lane / 16));
#pragma unroll
      for (int m = 0; m < Shape::kTall; ++m) {
        multiply_tiles<T>(outputs.tiles[m][2 * n], weight[m], {value[0], value[1]});
        multiply_tiles<T>(outputs.tiles[m][2 * n + 1], weight[m], {value[2], value[3]});
      }
    }
  }
}

template <typename T, typename Shape>
__device__ inline void attend_rows_in_tiles(const TreeAttention& a, const Plan& plan, const Work& work) {
  if (work.first_key >= work.last_key && plan.splits > 1) return write_nothing(a, plan, work);
  const TensorMemory<T, Shape> memory;
  const auto copy = [&](int first_key, int stage) {
    copy_keys<T, Shape>(a.keys, work, first_key, memory.keys(stage));
    copy_keys<T, Shape>(a.values, work, first_key, memory.values(stage));
    commit_copies();
  };
  const int first_warp_row = threadIdx.x / kWarp * Shape::kTall * 16;
  const int warp_row = work.first_row + first_warp_row;
  const float factor = a.scale * kLog2E;
  typename Shape::Outputs outputs;
  Softmax<Shape::Outputs::kRows> softmax;
  clear(outputs);
  softmax.clear();
  copy_queries<T, Shape>(a, plan, work, memory.queries);
  if (work.first_key < work.last_key) copy(work.first_key, 0);
  int stage = 0;
  for (int key = work.first_key; key < work.last_key; key += Shape::kTileKeys) {
    wait_for_copies<0>();
    __syncthreads();  // all see the tile, and are done with the one before
    if (key + Shape::kTileKeys < work.last_key) copy(key + Shape::kTileKeys, 1 - stage);
    if (first_warp_row < work.rows) {
      const uint64_t sight = lane_sight(a, plan, work, warp_row, key);
      typename Shape::Scores scores;
      score<T, Shape>(memory.queries + first_warp_row * Shape::Rows::kStride, memory.keys(stage), scores);
      hide(sight, scores);
      soften(factor, scores, softmax, outputs);
      add_values<T, Shape>(scores, memory.values(stage), outputs);
    }
    stage = 1 - stage;
  }
  if (first_warp_row < work.rows) {
    write_results<T>(a, plan, work, warp_row, {0, Shape::kHeadDim}, outputs, softmax);
  }
}

template <typename T, typename Shape>
__global__ __launch_bounds__(kThreads, kBlocksPerMultiprocessor) void attend_in_tiles(TreeAttention a, Plan plan) {
  const Work work = work_of_block(a, plan);
  attend_rows_in_tiles<T, Shape>(a, plan, work);
  merge_if_last<T>(a, plan, work);
}

}  // namespace
}  // namespace ltd::cuda
