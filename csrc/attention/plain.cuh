// tree_attention of anything, by plain multiply-adds in float32.
#pragma once

#include "attention/merge.cuh"

namespace ltd::cuda {
namespace {

constexpr int kPlainRows = 32;
constexpr int kPlainWarpRows = kPlainRows / kWarps;
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
  int* sources;  // of each slot of a tile, the row in the cache; -1 if none

  static constexpr int kQueries = kPlainRows * kPlainStride;
  static constexpr int kTile = kPlainKeys * kPlainStride;
  static constexpr int kWeights = kPlainRows * kWeightStride;
  static constexpr int kFloats = kQueries + 2 * kTile + kWeights;
  static constexpr int64_t kSharedBytes = kFloats * sizeof(float) + kPlainKeys * sizeof(int);
  __device__ PlainMemory() {
    float* const memory = dynamic_shared<float>(0, kFloats);
    queries = memory;
    keys = queries + kQueries;
    values = keys + kTile;
    weights = values + kTile;
    sources = dynamic_shared<int>(kFloats * sizeof(float), kPlainKeys);
  }
};

__device__ inline const Floats4& floats4(const float* address) { return *reinterpret_cast<const Floats4*>(address); }

// Copies kPlainElements elements, from `element` on, of the rows row_at(source(0)), ..., row_at(source(kRows - 1)).
// What has a negative source or is behind a row becomes 0.
template <int kRows, typename Source, typename RowAt>
__device__ inline void copy_plainly(float* tile, int element, int head_dim, const Source& source, const RowAt& row_at) {
  for (int i = threadIdx.x; i < kRows * kPlainElements; i += kThreads) {
    const int row = i / kPlainElements;
    const int e = i % kPlainElements;
    const int from = source(row);
    const bool exists = from >= 0 && element + e < head_dim;
    tile[row * kPlainStride + e] = exists ? to_float(row_at(from)[element + e]) : 0.0f;
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

// Adds the values times their weights to the outputs. What a row does not see is left out: 0 times what is infinite
// would be NaN. Where all of a warp's rows see all keys, nothing has to be asked.
template <bool kSeesAll>
__device__ inline void add_seen_plainly(uint64_t lane_sight, const float* weights, const float* values,
                                        PlainOutputs& outputs) {
  uint32_t sight[PlainOutputs::kRows];
#pragma unroll
  for (int i = 0; i < PlainOutputs::kRows && !kSeesAll; ++i) {
    sight[i] = static_cast<uint32_t>(__shfl_sync(kAllLanes, lane_sight, PlainOutputs::row(i)));
  }
  for (int key = 0; key < kPlainKeys; ++key) {
#pragma unroll
    for (int j = 0; j < PlainOutputs::kColumns; j += 4) {
      const Floats4 value = floats4(values + key * kPlainStride + PlainOutputs::column(j));
#pragma unroll
      for (int i = 0; i < PlainOutputs::kRows; ++i) {
        if (!kSeesAll && (sight[i] >> key & 1) == 0) continue;
        const float weight = weights[PlainOutputs::row(i) * kWeightStride + key];
#pragma unroll
        for (int p = 0; p < 4; ++p) outputs.at(i, j + p) = fmaf(weight, value[p], outputs.at(i, j + p));
      }
    }
  }
}

__device__ inline void add_values_plainly(uint64_t lane_sight, PlainScores& scores, float* weights, const float* values,
                                          PlainOutputs& outputs) {
#pragma unroll
  for (int i = 0; i < PlainScores::kRows; ++i) {
#pragma unroll
    for (int j = 0; j < PlainScores::kColumns; ++j) {
      weights[PlainScores::row(i) * kWeightStride + PlainScores::column(j)] = scores.at(i, j);
    }
  }
  __syncwarp();
  if (__all_sync(kAllLanes, static_cast<uint32_t>(lane_sight) == ~uint32_t{0})) {
    add_seen_plainly<true>(lane_sight, weights, values, outputs);
  } else {
    add_seen_plainly<false>(lane_sight, weights, values, outputs);
  }
}

// A tile of keys: of all rows, or of the rows of one node, if `node` is not negative.
struct PlainTile {
  int key;  // its first slot
  int node;
  bool is_first;  // that the block computes
};

// Copies what the scores need of queries and keys, and the values with the first part of them. Scores need all elements
// of queries and keys, which pass through shared memory one after another if they are more than kPlainElements.
template <typename T>
__device__ inline void copy_part(const TreeAttention& a, const Plan& plan, const Work& work, const PlainTile& tile,
                                 const PlainMemory& memory, int element) {
  const int head_dim = static_cast<int>(a.head_dim);
  const auto query_row = [&](int i) {
    const int row = work.first_row + i;
    const int64_t head = work.kv_head * plan.group_heads + row % plan.group_heads;
    return a.query.at<T>(work.batch, head, node_of(plan, row));
  };
  const auto source = [&](int i) { return memory.sources[i]; };
  if (tile.is_first || head_dim > kPlainElements) {
    copy_plainly<kPlainRows>(
        memory.queries, element, head_dim, [&](int i) { return i < work.rows ? i : -1; }, query_row);
  }
  copy_plainly<kPlainKeys>(memory.keys, element, head_dim, source,
                           [&](int row) { return a.keys.at<T>(work.batch, work.kv_head, row); });
  if (element > 0) return;
  copy_plainly<kPlainKeys>(memory.values, work.value_block * kPlainElements, head_dim, source,
                           [&](int row) { return a.values.at<T>(work.batch, work.kv_head, row); });
}

// What a row does not see in a tile changes nothing of its softmax and outputs, not even what is infinite.
template <typename T>
__device__ inline void attend_plain_tile(const TreeAttention& a, const Plan& plan, const Work& work,
                                         const PlainTile& tile, const PlainMemory& memory,
                                         Softmax<PlainOutputs::kRows>& softmax, PlainOutputs& outputs) {
  const int head_dim = static_cast<int>(a.head_dim);
  const int first_warp_row = threadIdx.x / kWarp * kPlainWarpRows;
  const int warp_row = work.first_row + first_warp_row;
  const bool takes_part = tile.node < 0 || (node_of(plan, warp_row) <= tile.node &&
                                            tile.node <= node_of(plan, warp_row + kPlainWarpRows - 1));
  if (threadIdx.x < kPlainKeys) {
    const int slot = tile.key + threadIdx.x;
    const int common = slot < work.end ? slot : -1;
    memory.sources[threadIdx.x] = tile.node < 0 ? common : row_of_slot(a, work, tile.node, slot);
  }
  PlainScores scores;
  clear(scores);
  for (int element = 0; element < head_dim; element += kPlainElements) {
    __syncthreads();  // all are done with what is overwritten, and see the sources
    copy_part<T>(a, plan, work, tile, memory, element);
    __syncthreads();
    if (!takes_part) continue;
    score_plainly(memory.queries + first_warp_row * kPlainStride, memory.keys,
                  static_cast<int>(at_most(head_dim - element, kPlainElements)), scores);
  }
  if (!takes_part) return;
  uint64_t sight = lane_sight(a, plan, work, warp_row, tile.key);
  if (tile.node >= 0 && node_of(plan, warp_row + threadIdx.x % kWarp) != tile.node) sight = 0;
  hide(sight, scores);
  soften(a.scale * kLog2E, scores, softmax, outputs);
  add_values_plainly(sight, scores, memory.weights + first_warp_row * kWeightStride, memory.values, outputs);
}

// A block writes kPlainElements elements of the outputs. Tiles whose keys are not the same for all rows, those behind
// the last whole one of the prefix, are computed for each node by itself.
template <typename T>
__device__ inline void attend_rows_plainly(const TreeAttention& a, const Plan& plan, const Work& work) {
  Chunk chunk = chunk_from(plan, work, work.split);
  if (chunk.is_empty() && plan.splits > 1) return write_nothing(a, plan, work);
  const PlainMemory memory;
  const int first_node = node_of(plan, work.first_row);
  const int last_node = node_of(plan, work.first_row + work.rows - 1);
  PlainOutputs outputs;
  Softmax<PlainOutputs::kRows> softmax;
  clear(outputs);
  softmax.clear();
  bool is_first = true;
  for (; !chunk.is_empty(); chunk = chunk_from(plan, work, chunk.index + plan.splits)) {
    for (int key = chunk.first_key; key < chunk.last_key; key += kPlainKeys) {
      const bool is_common = a.masks.data == nullptr || key + kPlainKeys <= work.length;
      for (int node = is_common ? -1 : first_node; node <= (is_common ? -1 : last_node); ++node) {
        if (node >= 0 && key >= work.length + tree_keys_of(a, work.batch, node)) continue;
        attend_plain_tile<T>(a, plan, work, {key, node, is_first}, memory, softmax, outputs);
        is_first = false;
      }
    }
  }
  const int element = work.value_block * kPlainElements;
  write_results<T>(a, plan, work, work.first_row + threadIdx.x / kWarp * kPlainWarpRows,
                   {element, static_cast<int>(a.head_dim) - element}, outputs, softmax);
}

template <typename T>
__global__ __launch_bounds__(kThreads, 3) void attend_plainly(TreeAttention a, Plan plan) {
  LTD_SHARED(Work, work);
  find_work(a, plan, work);
  attend_rows_plainly<T>(a, plan, work);
  merge_if_last<T>(a, plan, work);
}

}  // namespace
}  // namespace ltd::cuda
