// tree_attention: queries of tree nodes over the prefix and the tree, in one softmax.
//
// Query i of row b sees the prefix keys 0 ... lengths[b]-1 and the tree keys lengths[b]+j, j < tree_rows, whose bit j
// is set in masks[b, i]. Without masks the tree is a chain: tree_rows == N and query i sees j <= i. With window > 0 a
// key is seen only if query position - key position < window; a prefix key's position is its row, tree key j has that
// of query j. Query head h reads key/value head h / (query_heads / kv_heads). A query that sees nothing gets 0.
// Accumulation in float32. On CUDA a query's result depends, to the last bit, on nothing but its keys and values in
// order and on the sizes of query and tree: not on which keys are the prefix's, where in the tree the others lie, or
// longest.
#pragma once

#include "common/types.h"

namespace ltd {

inline constexpr int64_t kMergeCounters = 1024;

// (B, heads, rows, head_dim), the last dimension contiguous.
struct HeadRows {
  const void* data;
  int64_t batch_stride;
  int64_t head_stride;
  int64_t row_stride;

  template <typename T>
  LTD_INLINE Pointer<const T> at(int64_t batch, int64_t head, int64_t row) const {
    return static_cast<const T*>(data) + batch * batch_stride + head * head_stride + row * row_stride;
  }
};

struct TreeAttention {
  HeadRows query;  // (B, query_heads, N, head_dim)
  HeadRows keys;   // (B, kv_heads, capacity, head_dim), rows lengths[b] + j hold the tree
  HeadRows values;
  DType dtype;                    // of query, keys, values and output
  const int32_t* lengths;         // (B), prefix rows
  Matrices<const int64_t> masks;  // (B, N, words); data == null: chain
  Rows<const int64_t> positions;  // (B, N), read if window > 0
  int64_t batch;
  int64_t query_heads;
  int64_t kv_heads;
  int64_t nodes;  // N
  int64_t head_dim;
  int64_t capacity;  // rows of keys and values
  int64_t longest;   // lengths[b] + tree_rows at most: CUDA has blocks for so many, as lengths are on the device
  int64_t tree_rows;
  float scale;
  int64_t window;     // 0 = none
  void* output;       // (B, N, query_heads, head_dim), contiguous
  int32_t* counters;  // (kMergeCounters), all 0 before and after: for CUDA, of this call alone meanwhile; null: none
  int threads;
  Launch launch;
};

}  // namespace ltd
