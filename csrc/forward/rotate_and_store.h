// rotate_and_store: splits the joint projection of queries, keys and values, norms the heads of the first two where a
// model does (Qwen3), turns them by their rotary positions (Su et al., 2021; half-split layout), and writes keys and
// values to the cache, as tree rows first_row ... first_row + N - 1, and queries where the attention reads them.
//
// With low and high, the halves of a head, and its row of the tables:
//
//   low  <- low * cosines[:half] - high * sines[:half]
//   high <- high * cosines[half:] + low * sines[half:]
//
// Norms are rounded as in add_rms_norm, the four products to the tables' type, the sums to the operator's type: as the
// layers of `transformers` do, bit for bit.
#pragma once

#include "forward/float_rows.h"

namespace ltd {

// One layer of the cache, (B, kv_heads, capacity, head_dim), the last dimension contiguous.
struct LayerCache {
  void* data;
  int64_t batch_stride;
  int64_t head_stride;
  int64_t row_stride;
};

struct RotateAndStore {
  DType dtype;
  DType table_dtype;         // dtype or float
  const void* qkv;           // (B, N, (query_heads + 2 * kv_heads) * head_dim)
  int64_t qkv_strides[2];    // of B and N
  const void* query_norm;    // (head_dim) or null
  const void* key_norm;      // (head_dim) or null
  const void* cosines;       // (any, head_dim), contiguous
  const void* sines;         // likewise
  Rows<const int64_t> rows;  // (B, N), of the tables
  const int32_t* lengths;    // (B): tree row j is cache row lengths[b] + j
  int64_t first_row;
  LayerCache keys;
  LayerCache values;
  void* queries;             // (B, query_heads, N, head_dim), the last dimension contiguous
  int64_t query_strides[3];  // of the others
  int64_t batch;
  int64_t nodes;  // N
  int64_t query_heads;
  int64_t kv_heads;
  int64_t head_dim;  // even
  float epsilon;
  int threads;
  Launch launch;
};

// A head's place in the joint projection: queries come first, then keys, then values.
enum class HeadKind { kQuery, kKey, kValue };

// Where a head of a token is read, and where it goes. Elements, not bytes.
template <typename T>
struct HeadPlace {
  HeadKind kind;
  Pointer<const T> source;
  Pointer<T> target;
};

template <typename T>
LTD_INLINE HeadPlace<T> head_place(const RotateAndStore& a, int64_t b, int64_t n, int64_t head, int64_t length) {
  const T* source = static_cast<const T*>(a.qkv) + b * a.qkv_strides[0] + n * a.qkv_strides[1] + head * a.head_dim;
  if (head < a.query_heads) {
    T* queries = static_cast<T*>(a.queries);
    return {HeadKind::kQuery, source,
            queries + b * a.query_strides[0] + head * a.query_strides[1] + n * a.query_strides[2]};
  }
  const bool is_key = head < a.query_heads + a.kv_heads;
  const LayerCache& cache = is_key ? a.keys : a.values;
  const int64_t kv_head = head - a.query_heads - (is_key ? 0 : a.kv_heads);
  T* rows = static_cast<T*>(cache.data) + b * cache.batch_stride + kv_head * cache.head_stride;
  return {is_key ? HeadKind::kKey : HeadKind::kValue, source, rows + (length + a.first_row + n) * cache.row_stride};
}

}  // namespace ltd
