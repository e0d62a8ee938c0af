// The rows of attention that are computed together, and the memory that this takes. Included by engine sources only.
#pragma once

#include "attention/products.h"
#include "engine/activation_rows.h"
#include "engine/forward_stack.h"
#include "engine/tiles.h"

namespace ltd::LTD_ISA {
namespace {

constexpr int64_t kKeyBlock = 16;  // keys whose scores are computed together

// A group's first key is a multiple of this: as many keys are multiplied in one step.
#if defined(LTD_TILES)
constexpr int64_t kKeysTogether = kTileInputs;
#else
constexpr int64_t kKeysTogether = 1;
#endif

// Rows first_row ... first_row + rows - 1 of one key/value head, which see keys of first_key ... last_key - 1 only.
struct AttentionGroup {
  int64_t batch;
  int64_t kv_head;
  int64_t first_row;
  int64_t rows;
  int64_t vectors;
  int64_t first_key;
  int64_t last_key;
};

// The attention of one layer.
template <typename Kind>
struct AttentionTask {
  using Element = typename Kind::Element;
  using Activation = typename Kind::Activation;

  const ForwardStack& a;
  int64_t layer;
  const Element* queries;  // (B * N, heads * head_dim), the query heads first, rows `query_stride` apart
  int64_t query_stride;
  ActivationRows<Activation> result;  // (B * N, query_heads * head_dim)

  int64_t group_heads() const { return a.query_heads / a.kv_heads; }
  const Element* cache_row(const char* cache, int64_t batch, int64_t kv_head, int64_t row) const {
    const int64_t* strides = a.cache_strides;
    return reinterpret_cast<const Element*>(cache) + layer * strides[0] + batch * strides[1] + kv_head * strides[2] +
           row * strides[3];
  }
  // Where the result of a group's row goes: head_dim elements.
  Activation* result_of(const AttentionGroup& group, int64_t row) const {
    const int64_t attention_row = group.first_row + row;
    const int64_t head = group.kv_head * group_heads() + attention_row % group_heads();
    return result[group.batch * a.nodes + attention_row / group_heads()] + head * a.head_dim;
  }
};

// A thread's memory for one group.
struct AttentionScratch {
  float* query;   // (head_dim, vectors) words
  float* copy;    // (kKeyBlock, head_dim)
  float* scores;  // (keys, vectors), keys rounded up to kKeysTogether
  // With tiles:
  float* mixed;      // (rows, head_dim)
  uint32_t* values;  // (keys / 2, head_dim) pairs, keys rounded up

  static int64_t floats(const ForwardStack& a, int64_t keys) {
    const int64_t padded = ceil_div(keys, kKeysTogether) * kKeysTogether;
    return before_scores(a) + padded * kWidth + (kKeysTogether > 1 ? (kWidth + padded / 2) * a.head_dim : 0);
  }
  static AttentionScratch in(float* memory, const ForwardStack& a, int64_t keys) {
    const int64_t padded = ceil_div(keys, kKeysTogether) * kKeysTogether;
    float* const scores = memory + before_scores(a);
    float* const mixed = scores + padded * kWidth;
    return {memory, scores - kKeyBlock * a.head_dim, scores, mixed,
            reinterpret_cast<uint32_t*>(mixed + kWidth * a.head_dim)};
  }

 private:
  static constexpr int64_t kWidth = kTileVectors * kLanes;

  static int64_t before_scores(const ForwardStack& a) {
    return kWidth * (a.head_dim + kLanes) + kKeyBlock * a.head_dim;
  }
};

// Rows of a group behind the last are copies of it.
template <typename Kind>
LTD_INLINE int64_t row_in_lane(const AttentionGroup& group, int64_t lane) {
  return group.first_row + (lane < group.rows ? lane : group.rows - 1);
}

}  // namespace
}  // namespace ltd::LTD_ISA
