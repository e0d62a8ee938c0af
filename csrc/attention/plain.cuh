// tree_attention of anything, by plain multiply-adds in float32.
#pragma once

#include "attention/merge.cuh"

namespace ltd::cuda {
namespace {

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
__device__ inline void attend_rows_plainly(const TreeAttention& a, const Plan& plan, const Work& work) {
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

template <typename T>
__global__ __launch_bounds__(kThreads, 3) void attend_plainly(TreeAttention a, Plan plan) {
  const Work work = work_of_block(a, plan);
  attend_rows_plainly<T>(a, plan, work);
  merge_if_last<T>(a, plan, work);
}

}  // namespace
}  // namespace ltd::cuda
