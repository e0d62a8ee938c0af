// An attention row is one query head of one node. A block of threads takes a block of the rows that share a key/value
// head over some of the keys (a split), tile by tile, with the softmax running online in powers of 2. The rows are
// dealt out to the warps, which then need each other only for copying keys and values. With several splits a block
// leaves unnormalised outputs, peaks and sums in the workspace, and a second kernel merges them.
//
// There are two kernels of this form. 16-bit numbers of the usual head sizes are multiplied by the tensor cores, the
// next tile being copied meanwhile; anything else, odd strides included, by plain multiply-adds in float32. They differ
// in how tiles are stored and multiplied, and share what happens to scores and outputs: both have those in registers,
// each thread some columns of some rows (Fragments, Patch).
#include <type_traits>

#include "attention/tree_attention.h"
#include "common/cuda_kernels.h"
#include "common/device.cuh"

namespace ltd::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;

// Blocks that the splits aim at, per multiprocessor: what fits there at once.
constexpr int kBlocksPerMultiprocessor = 2;
constexpr int kMaxSplits = kThreads;  // a thread of the merge looks after one

// Keys of a split per row of a block, at least. With fewer the partial results would be as much traffic as the keys.
constexpr int kLeastKeysPerRow = 2;

constexpr float kLog2E = 1.4426950408889634f;

// How the work is cut. Known from sizes, so it must do for any lengths: the keys of a split follow from them on the
// device.
struct Plan {
  int group_heads;  // query heads per key/value head
  int rows;         // per key/value head: row r is head r % group_heads of node r / group_heads
  int block_rows;
  int row_blocks;
  int tile_keys;
  int value_blocks;  // parts that the elements of outputs are cut into
  int splits;

  LTD_INLINE int64_t heads(const TreeAttention& a) const { return a.batch * a.kv_heads; }
  LTD_INLINE int64_t blocks(const TreeAttention& a) const { return heads(a) * splits * value_blocks * row_blocks; }
};

// The work of a block of threads.
struct Work {
  int batch;
  int kv_head;
  int split;
  int value_block;
  int first_row;
  int rows;
  int length;     // of the prefix
  int end;        // of the keys that the rows see
  int first_key;  // of the split, a multiple of tile_keys
  int last_key;   // exclusive
  int horizon;    // with a window, some rows do not see keys at positions up to here
};

// --- what a row is and sees ---

__device__ inline int node_of(const Plan& plan, int row) { return row / plan.group_heads; }

// With a window a node sees no key up to this position.
__device__ inline int horizon_of(const TreeAttention& a, int64_t batch, int node) {
  return static_cast<int>(a.positions[batch][node] - a.window);
}

// The keys of all splits: from where the first of the rows sees any to where the last ceases to.
__device__ inline void set_range(const TreeAttention& a, const Plan& plan, Work& work) {
  const int first_node = node_of(plan, work.first_row);
  const int last_node = node_of(plan, work.first_row + work.rows - 1);
  const bool chain = a.masks.data == nullptr;
  work.length = global(a.lengths)[work.batch];
  work.end = work.length + (chain ? last_node + 1 : static_cast<int>(a.tree_rows));
  work.first_key = 0;
  work.horizon = -1;
  if (a.window == 0) return;
  int lowest = work.length - 1;  // tree keys are not left out
  for (int node = first_node + threadIdx.x % kWarp; node <= last_node; node += kWarp) {
    const int horizon = horizon_of(a, work.batch, node);
    lowest = horizon < lowest ? horizon : lowest;
    work.horizon = horizon > work.horizon ? horizon : work.horizon;
  }
  lowest = __reduce_min_sync(kAllLanes, lowest);
  work.horizon = __reduce_max_sync(kAllLanes, work.horizon);
  if (lowest >= 0) work.first_key = (lowest + 1) / plan.tile_keys * plan.tile_keys;
}

// Blocks that read the same keys follow each other, so that most find them in the cache.
__device__ inline Work work_of_block(const TreeAttention& a, const Plan& plan) {
  Work work{};
  int rest = blockIdx.x;
  const auto take = [&](int count) {
    const int index = rest % count;
    rest /= count;
    return index;
  };
  work.first_row = take(plan.row_blocks) * plan.block_rows;
  work.value_block = take(plan.value_blocks);
  work.split = take(plan.splits);
  work.kv_head = take(static_cast<int>(a.kv_heads));
  work.batch = rest;
  work.rows = static_cast<int>(at_most(plan.rows - work.first_row, plan.block_rows));
  set_range(a, plan, work);
  const int64_t tiles = ceil_div(work.end - work.first_key, plan.tile_keys);
  const int64_t least = ceil_div(kLeastKeysPerRow * plan.block_rows, plan.tile_keys);
  const int64_t fair = ceil_div(tiles, plan.splits);
  const int64_t share = (fair > least ? fair : least) * plan.tile_keys;
  work.first_key = static_cast<int>(at_most(work.first_key + work.split * share, work.end));
  work.last_key = static_cast<int>(at_most(work.first_key + share, work.end));
  return work;
}

__device__ inline uint64_t low_bits(int count) {
  if (count <= 0) return 0;
  return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
}

// Bit j: whether the node sees tree row first + j, windows left aside.
__device__ inline uint64_t seen_tree_rows(const TreeAttention& a, int64_t batch, int node, int first) {
  if (a.masks.data == nullptr) return low_bits(node + 1 - first);
  const int count = static_cast<int>(a.tree_rows) - first;
  if (count <= 0) return 0;
  const Pointer<const int64_t> words = a.masks.at(batch, node) + first / 64;
  const int shift = first % 64;
  uint64_t bits = static_cast<uint64_t>(words[0]) >> shift;
  if (shift > 0 && shift + count > 64) bits |= static_cast<uint64_t>(words[1]) << (64 - shift);
  return bits & low_bits(count);
}

__device__ inline int position_of(const TreeAttention& a, const Work& work, int key) {
  return key < work.length ? key : static_cast<int>(a.positions[work.batch][key - work.length]);
}

// Bit j: whether the node sees key first + j, j < count.
__device__ inline uint64_t seen_keys(const TreeAttention& a, const Work& work, int node, int first, int count) {
  const int prefix_keys = work.length - first;
  uint64_t seen = low_bits(prefix_keys);
  if (prefix_keys <= 0) {
    seen = seen_tree_rows(a, work.batch, node, -prefix_keys);
  } else if (prefix_keys < count) {
    seen |= seen_tree_rows(a, work.batch, node, 0) << prefix_keys;
  }
  if (a.window == 0) return seen;
  const int horizon = horizon_of(a, work.batch, node);
  for (int j = 0; j < count; ++j) {
    const uint64_t bit = uint64_t{1} << j;
    if ((seen & bit) != 0 && position_of(a, work, first + j) <= horizon) seen &= ~bit;
  }
  return seen;
}

// --- scores and outputs, in registers ---

// A thread's part of a (16 * kTall, 8 * kWide) matrix of a warp that multiply_tiles makes.
template <int kTall, int kWide>
struct Fragments {
  static constexpr int kRows = 2 * kTall;
  static constexpr int kColumns = 2 * kWide;
  static constexpr int kRowLanes = 4;  // lanes that share a row
  static constexpr int kStored = 2;    // columns that can be stored together
  float tiles[kTall][kWide][4];

  __device__ float& at(int i, int j) { return tiles[i / 2][j / 2][i % 2 * 2 + j % 2]; }
  // Row and column of at(i, j) in the matrix.
  __device__ static int row(int i) { return i * 8 + threadIdx.x % kWarp / 4; }
  __device__ static int column(int j) { return j / 2 * 8 + threadIdx.x % 4 * 2 + j % 2; }
};

// A thread's part of an (8, 16 * kColumns) matrix of a warp: 4 rows, and kPack columns out of 16 * kPack.
template <int kColumnCount, int kColumnPack>
struct Patch {
  static constexpr int kRows = 4;
  static constexpr int kColumns = kColumnCount;
  static constexpr int kRowLanes = 16;
  static constexpr int kPack = kColumnPack;
  static constexpr int kStored = 1;
  float values[kRows][kColumns];

  __device__ float& at(int i, int j) { return values[i][j]; }
  __device__ static int row(int i) { return threadIdx.x % kWarp / kRowLanes * kRows + i; }
  __device__ static int column(int j) { return (j / kPack * kRowLanes + threadIdx.x % kRowLanes) * kPack + j % kPack; }
};

template <typename Matrix>
__device__ inline void clear(Matrix& matrix) {
#pragma unroll
  for (int i = 0; i < Matrix::kRows; ++i) {
#pragma unroll
    for (int j = 0; j < Matrix::kColumns; ++j) matrix.at(i, j) = 0;
  }
}

// The softmax of a thread's rows so far.
template <int kRows>
struct Softmax {
  float peaks[kRows];  // largest scores
  float sums[kRows];   // of the weights in this thread's columns

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kRows; ++i) peaks[i] = -kInfinity, sums[i] = 0;
  }
};

// Which of a tile's keys the warp's rows see, which begin at warp_row: bit k of lane r belongs to key k of row r.
__device__ inline uint64_t lane_sight(const TreeAttention& a, const Plan& plan, const Work& work, int warp_row,
                                      int first_key) {
  if (first_key + plan.tile_keys <= work.length && first_key > work.horizon) return ~uint64_t{0};
  const int row = static_cast<int>(at_most(warp_row + threadIdx.x % kWarp, plan.rows - 1));
  return seen_keys(a, work, node_of(plan, row), first_key, plan.tile_keys);
}

// Makes the scores of keys that a row does not see -inf.
template <typename Scores>
__device__ inline void hide(uint64_t lane_sight, Scores& scores) {
  if (__all_sync(kAllLanes, lane_sight == ~uint64_t{0})) return;
#pragma unroll
  for (int i = 0; i < Scores::kRows; ++i) {
    const uint64_t sight = __shfl_sync(kAllLanes, lane_sight, Scores::row(i)) >> Scores::column(0);
#pragma unroll
    for (int j = 0; j < Scores::kColumns; ++j) {
      if ((sight >> (Scores::column(j) - Scores::column(0)) & 1) == 0) scores.at(i, j) = -kInfinity;
    }
  }
}

// Turns scores into weights 2^((score - peak) * factor), and brings sums and outputs to the new peaks. The difference
// comes first: the best score then has weight 1 however large it is.
template <typename Scores, typename Outputs>
__device__ inline void soften(float factor, Scores& scores, Softmax<Scores::kRows>& softmax, Outputs& outputs) {
  float shrink[Scores::kRows];
  bool changed = false;
#pragma unroll
  for (int i = 0; i < Scores::kRows; ++i) {
    float peak = softmax.peaks[i];
#pragma unroll
    for (int j = 0; j < Scores::kColumns; ++j) peak = fmaxf(peak, scores.at(i, j));
#pragma unroll
    for (int lanes = Scores::kRowLanes / 2; lanes > 0; lanes /= 2) {
      peak = fmaxf(peak, __shfl_xor_sync(kAllLanes, peak, lanes));
    }
    // Where nothing was seen yet all weights are 0 with any finite peak; -inf - -inf would be NaN.
    const float base = peak == -kInfinity ? 0.0f : peak;
    float sum = 0;
#pragma unroll
    for (int j = 0; j < Scores::kColumns; ++j) {
      const float weight = fast_exp2((scores.at(i, j) - base) * factor);
      scores.at(i, j) = weight;
      sum += weight;
    }
    changed |= peak != softmax.peaks[i];
    shrink[i] = fast_exp2((softmax.peaks[i] - base) * factor);
    softmax.sums[i] = softmax.sums[i] * shrink[i] + sum;
    softmax.peaks[i] = peak;
  }
  if (!__any_sync(kAllLanes, changed)) return;
#pragma unroll
  for (int i = 0; i < Outputs::kRows; ++i) {
#pragma unroll
    for (int j = 0; j < Outputs::kColumns; ++j) outputs.at(i, j) *= shrink[i];
  }
}

// --- results ---

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

// Writes row i of the outputs, multiplied by a factor, to `target`, of which `elements` are to be written.
template <typename Outputs, typename T>
__device__ inline void write_row(Outputs& outputs, int i, float factor, Pointer<T> target, int elements) {
#pragma unroll
  for (int j = 0; j < Outputs::kColumns; j += Outputs::kStored) {
    Pack<T, Outputs::kStored> pack;
#pragma unroll
    for (int p = 0; p < Outputs::kStored; ++p) pack[p] = from_float<T>(outputs.at(i, j + p) * factor);
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

// --- 16-bit numbers on the tensor cores ---

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
__global__ __launch_bounds__(kThreads, kBlocksPerMultiprocessor) void attend_in_tiles(TreeAttention a, Plan plan) {
  const Work work = work_of_block(a, plan);
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

// --- anything else, in float32 ---

constexpr int kPlainRows = 32;
constexpr int kPlainKeys = 32;
constexpr int kPlainElements = 128;               // of a head that are in shared memory at a time
constexpr int kPlainStride = kPlainElements + 4;  // of rows: the same element of 8 of them is in different banks
constexpr int kWeightStride = kPlainKeys + 4;
using PlainScores = Patch<kPlainKeys / 16, 1>;
using PlainOutputs = Patch<kPlainElements / 16, 4>;
using Floats4 = Pack<float, 4>;

struct PlainMemory {
  float* queries;
  float* keys;
  float* values;
  float* weights;

  static constexpr int kQueries = kPlainRows * kPlainStride;
  static constexpr int kTile = kPlainKeys * kPlainStride;
  static constexpr int kWeights = kPlainRows * kWeightStride;
  static constexpr int64_t kSharedBytes = (kQueries + 2 * kTile + kWeights) * sizeof(float);
  __device__ PlainMemory() {
    float* const memory = dynamic_shared<float>(0, kSharedBytes / sizeof(float));
    queries = memory;
    keys = queries + kQueries;
    values = keys + kTile;
    weights = values + kTile;
  }
};

__device__ inline const Floats4& floats4(const float* address) { return *reinterpret_cast<const Floats4*>(address); }

// Copies kPlainElements elements, from `element` on, of up to kRows rows; what is behind a row or the last one
// becomes 0.
template <int kRows, typename Source>
__device__ inline void copy_plainly(float* tile, int rows, int element, int head_dim, const Source& source) {
  for (int i = threadIdx.x; i < kRows * kPlainElements; i += kThreads) {
    const int row = i / kPlainElements;
    const int e = i % kPlainElements;
    const bool exists = row < rows && element + e < head_dim;
    tile[row * kPlainStride + e] = exists ? to_float(source(row)[element + e]) : 0.0f;
  }
}

// Adds the products of `elements` elements of queries and keys.
__device__ inline void score_plainly(const float* queries, const float* keys, int elements, PlainScores& scores) {
  for (int e = 0; e < elements; e += 4) {
    Floats4 query[PlainScores::kRows];
#pragma unroll
    for (int i = 0; i < PlainScores::kRows; ++i) query[i] = floats4(queries + PlainScores::row(i) * kPlainStride + e);
#pragma unroll
    for (int j = 0; j < PlainScores::kColumns; ++j) {
      const Floats4 key = floats4(keys + PlainScores::column(j) * kPlainStride + e);
#pragma unroll
      for (int i = 0; i < PlainScores::kRows; ++i) {
#pragma unroll
        for (int p = 0; p < 4; ++p) scores.at(i, j) = fmaf(query[i][p], key[p], scores.at(i, j));
      }
    }
  }
}

__device__ inline void add_values_plainly(PlainScores& scores, float* weights, const float* values,
                                          PlainOutputs& outputs) {
#pragma unroll
  for (int i = 0; i < PlainScores::kRows; ++i) {
#pragma unroll
    for (int j = 0; j < PlainScores::kColumns; ++j) {
      weights[PlainScores::row(i) * kWeightStride + PlainScores::column(j)] = scores.at(i, j);
    }
  }
  __syncwarp();
  for (int key = 0; key < kPlainKeys; ++key) {
#pragma unroll
    for (int j = 0; j < PlainOutputs::kColumns; j += 4) {
      const Floats4 value = floats4(values + key * kPlainStride + PlainOutputs::column(j));
#pragma unroll
      for (int i = 0; i < PlainOutputs::kRows; ++i) {
        const float weight = weights[PlainOutputs::row(i) * kWeightStride + key];
#pragma unroll
        for (int p = 0; p < 4; ++p) outputs.at(i, j + p) = fmaf(weight, value[p], outputs.at(i, j + p));
      }
    }
  }
}

// A block writes kPlainElements elements of the outputs. Scores need all elements of queries and keys, which pass
// through shared memory one after another if they are more.
template <typename T>
__global__ __launch_bounds__(kThreads, 3) void attend_plainly(TreeAttention a, Plan plan) {
  const Work work = work_of_block(a, plan);
  if (work.first_key >= work.last_key && plan.splits > 1) return write_nothing(a, plan, work);
  const PlainMemory memory;
  const int head_dim = static_cast<int>(a.head_dim);
  const int value_element = work.value_block * kPlainElements;
  const int first_warp_row = threadIdx.x / kWarp * (kPlainRows / kWarps);
  const auto query_row = [&](int i) {
    const int row = work.first_row + i;
    const int64_t head = work.kv_head * plan.group_heads + row % plan.group_heads;
    return a.query.at<T>(work.batch, head, node_of(plan, row));
  };
  PlainOutputs outputs;
  Softmax<PlainOutputs::kRows> softmax;
  clear(outputs);
  softmax.clear();
  for (int key = work.first_key; key < work.last_key; key += kPlainKeys) {
    const int keys = work.last_key - key;
    PlainScores scores;
    clear(scores);
    for (int element = 0; element < head_dim; element += kPlainElements) {
      __syncthreads();  // all are done with what is overwritten
      if (key == work.first_key || head_dim > kPlainElements) {
        copy_plainly<kPlainRows>(memory.queries, work.rows, element, head_dim, query_row);
      }
      copy_plainly<kPlainKeys>(memory.keys, keys, element, head_dim,
                               [&](int i) { return a.keys.at<T>(work.batch, work.kv_head, key + i); });
      if (element == 0) {
        copy_plainly<kPlainKeys>(memory.values, keys, value_element, head_dim,
                                 [&](int i) { return a.values.at<T>(work.batch, work.kv_head, key + i); });
      }
      __syncthreads();
      score_plainly(memory.queries + first_warp_row * kPlainStride, memory.keys,
                    static_cast<int>(at_most(head_dim - element, kPlainElements)), scores);
    }
    hide(lane_sight(a, plan, work, work.first_row + first_warp_row, key), scores);
    soften(a.scale * kLog2E, scores, softmax, outputs);
    add_values_plainly(scores, memory.weights + first_warp_row * kWeightStride, memory.values, outputs);
  }
  write_results<T>(a, plan, work, work.first_row + first_warp_row, {value_element, head_dim - value_element}, outputs,
                   softmax);
}

// --- the merge of splits ---

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
  float peak = own_peak;
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) peak = fmaxf(peak, __shfl_xor_sync(kAllLanes, peak, lanes));
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

// --- the host's part ---

Plan make_plan(const TreeAttention& a, int block_rows, int tile_keys, int value_elements) {
  Plan plan{};
  plan.group_heads = static_cast<int>(a.query_heads / a.kv_heads);
  plan.rows = plan.group_heads * static_cast<int>(a.nodes);
  plan.block_rows = block_rows;
  plan.row_blocks = static_cast<int>(ceil_div(plan.rows, block_rows));
  plan.tile_keys = tile_keys;
  plan.value_blocks = static_cast<int>(ceil_div(a.head_dim, value_elements));
  plan.splits = 1;
  const int64_t room = multiprocessors() * kBlocksPerMultiprocessor / plan.blocks(a);
  const int64_t useful = at_most(a.capacity / (kLeastKeysPerRow * block_rows), kMaxSplits);
  const int64_t splits = at_most(room, useful);
  if (splits > 1) plan.splits = static_cast<int>(splits);
  return plan;
}

Plan plain_plan(const TreeAttention& a) { return make_plan(a, kPlainRows, kPlainKeys, kPlainElements); }

template <typename Shape>
Plan tensor_plan(const TreeAttention& a) {
  return make_plan(a, Shape::kBlockRows, Shape::kTileKeys, Shape::kHeadDim);
}

int64_t workspace_bytes(const TreeAttention& a, const Plan& plan) {
  if (plan.splits == 1) return 0;
  return plan.heads(a) * plan.splits * plan.rows * (a.head_dim + 2) * static_cast<int64_t>(sizeof(float));
}

// Calls function(the shape of blocks for these sizes). Few rows are spread over the warps; of many a warp takes twice
// as many, as it then reads keys and values half as often. For large heads it would run out of registers.
template <int kHeadDim, typename Function>
void with_tallness(const TreeAttention& a, Function&& function) {
  using Low = TensorShape<kHeadDim, 1>;
  if constexpr (kHeadDim <= 128) {
    if (a.query_heads / a.kv_heads * a.nodes > Low::kBlockRows) return function(TensorShape<kHeadDim, 2>{});
  }
  function(Low{});
}

// Returns false if the tensor cores' kernel does not come in this head size.
template <typename Function>
bool with_shape(const TreeAttention& a, Function&& function) {
  switch (a.head_dim) {
    case 64:
      return with_tallness<64>(a, function), true;
    case 80:
      return with_tallness<80>(a, function), true;
    case 96:
      return with_tallness<96>(a, function), true;
    case 128:
      return with_tallness<128>(a, function), true;
    case 256:
      return with_tallness<256>(a, function), true;
    default:
      return false;
  }
}

// Whether all rows begin at multiples of 16 bytes.
bool is_aligned16(const HeadRows& rows) {
  const int64_t strides = rows.batch_stride | rows.head_stride | rows.row_stride;
  return reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && strides % 8 == 0;
}

template <typename T>
void launch_merge(const TreeAttention& a, const Plan& plan) {
  if (plan.splits == 1) return;
  const dim3 grid(static_cast<unsigned>(plan.heads(a) * plan.rows));
  launch(merge<T>, grid, kThreads, 0, a.launch.stream, a, plan);
}

template <typename T>
void launch_plainly(const TreeAttention& a) {
  const Plan plan = plain_plan(a);
  const dim3 grid(static_cast<unsigned>(plan.blocks(a)));
  launch(attend_plainly<T>, grid, kThreads, PlainMemory::kSharedBytes, a.launch.stream, a, plan);
  launch_merge<T>(a, plan);
}

// Returns false where the tensor cores cannot be used.
template <typename T>
bool launch_in_tiles(const TreeAttention& a) {
  if (!is_aligned16(a.query) || !is_aligned16(a.keys) || !is_aligned16(a.values)) return false;
  return with_shape(a, [&](auto shape) {
    using Shape = decltype(shape);
    const Plan plan = tensor_plan<Shape>(a);
    const dim3 grid(static_cast<unsigned>(plan.blocks(a)));
    launch(attend_in_tiles<T, Shape>, grid, kThreads, Shape::kSharedBytes, a.launch.stream, a, plan);
    launch_merge<T>(a, plan);
  });
}

bool is_empty(const TreeAttention& a) { return a.batch * a.query_heads * a.nodes * a.head_dim == 0; }

}  // namespace

// Enough for either kernel, as pointers, which decide between them, are not sizes.
int64_t tree_attention_workspace(const TreeAttention& a) {
  if (is_empty(a)) return 0;
  int64_t bytes = workspace_bytes(a, plain_plan(a));
  if (a.dtype == DType::kFloat32) return bytes;
  with_shape(a, [&](auto shape) {
    const int64_t other = workspace_bytes(a, tensor_plan<decltype(shape)>(a));
    if (other > bytes) bytes = other;
  });
  return bytes;
}

void tree_attention(const TreeAttention& a) {
  if (is_empty(a)) return;
  with_type(a.dtype, [&](auto type) {
    using T = decltype(type);
    if constexpr (!std::is_same_v<T, float>) {
      if (launch_in_tiles<T>(a)) return;
    }
    launch_plainly<T>(a);
  });
}

}  // namespace ltd::cuda
