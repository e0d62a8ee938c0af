// The steps of tree_attention of 16-bit numbers: tiles in shared memory, multiplied by the tensor cores.
#pragma once

#include "attention/softmax.cuh"

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

  // Copies a chunk of row source(), or makes it 0.
  template <typename T, typename Source>
  __device__ static void copy_chunk(T* target, bool exists, int chunk, const Source& source) {
    if (exists) {
      copy_async16(target, source() + chunk * kChunkElements);
    } else {
#pragma unroll
      for (int e = 0; e < kChunkElements; ++e) target[e] = T{};
    }
  }

  // Copies rows; those from `rows` on become 0.
  template <int kRows, typename T, typename Source>
  __device__ static void copy(T* tile, int rows, const Source& source) {
    static_assert(kRows * kChunks % kThreads == 0);
#pragma unroll 2  // more would take registers
    for (int i = 0; i < kRows * kChunks / kThreads; ++i) {
      const int row = (i * kThreads + threadIdx.x) / kChunks;
      const int chunk = (i * kThreads + threadIdx.x) % kChunks;
      copy_chunk(tile + at(row, chunk), row < rows, chunk, [&] { return source(row); });
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
  static constexpr int kMemoryRows = 2 * kStages * kTileKeys;  // of all tiles
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

// Copies `count` rows of keys or values, from row `first` on, and fills the rest of kRows with 0.
template <int kRows, typename T, typename Shape>
__device__ inline void copy_rows(const HeadRows& rows, const Work& work, int first, int count, T* tile) {
  const Pointer<const T> source = rows.at<T>(work.batch, work.kv_head, first);
  Shape::Rows::template copy<kRows>(tile, count, [&](int row) { return source + row * rows.row_stride; });
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

// Weights of 16 slots, for rows 16 * m and on, as the tensor cores take them.
template <typename T, typename Shape>
__device__ inline void round_weights(const typename Shape::Scores& weights, int m, int step, uint32_t (&rounded)[4]) {
#pragma unroll
  for (int part = 0; part < 4; ++part) {
    const float* const pair = &weights.tiles[m][2 * step + part / 2][part % 2 * 2];
    rounded[part] = round_pair<T>(pair[0], pair[1]);
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
    for (int m = 0; m < Shape::kTall; ++m) round_weights<T, Shape>(weights, m, step, weight[m]);
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

}  // namespace
}  // namespace ltd::cuda
