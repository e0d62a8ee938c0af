// The rows of attention that are computed together, and the memory that this takes. Included by engine sources only.
#pragma once

#include "attention/products.h"
#include "engine/activation_rows.h"
#include "engine/forward_stack.h"
#include "engine/tiles.h"

namespace ltd::LTD_ISA {
namespace {

constexpr int64_t kKeyBlock = 16;   // keys whose scores are computed together
constexpr int64_t kSightKeys = 32;  // keys of which a word says whether a row sees them

// A group's first key is a multiple of this: as many keys are multiplied in one step.
#if defined(LTD_TILES)
constexpr int64_t kKeysTogether = kTileInputs;
#else
constexpr int64_t kKeysTogether = 1;
#endif

// Rows first_row ... first_row + rows - 1 of one key/value head, which see keys of first_key ... last_key - 1 only, and
// all of them first_common ... last_common - 1: no keys of a tree with masks.
struct AttentionGroup {
  int64_t batch;
  int64_t kv_head;
  int64_t first_row;
  int64_t rows;
  int64_t vectors;
  int64_t first_key;
  int64_t last_key;
  int64_t first_common;
  int64_t last_common;
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
  // Whether a node's window reaches back to a row of the cache.
  LTD_INLINE bool reaches(int64_t batch, int64_t node, int64_t key) const {
    const int64_t window = a.windows[layer];
    if (window <= 0) return true;
    const int64_t* const positions = a.positions[batch];
    const int64_t position = key < a.lengths[batch] ? key : positions[key - a.lengths[batch]];
    return positions[node] - position < window;
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
  float* query;     // (head_dim, vectors) words
  float* copy;      // (kKeyBlock, head_dim)
  uint32_t* sight;  // (parts, vectors): bit j is whether a row sees key j of a part that not all rows see
  float* scores;    // (keys, vectors), keys rounded up to kKeysTogether
  // With tiles:
  float* mixed;      // (rows, head_dim)
  uint32_t* values;  // (keys / 2, head_dim) pairs, keys rounded up

  static int64_t floats(const ForwardStack& a, int64_t keys) {
    const int64_t padded = ceil_div(keys, kKeysTogether) * kKeysTogether;
    return before_scores(a, keys) + padded * kWidth + (kKeysTogether > 1 ? (kWidth + padded / 2) * a.head_dim : 0);
  }
  static AttentionScratch in(float* memory, const ForwardStack& a, int64_t keys) {
    const int64_t padded = ceil_div(keys, kKeysTogether) * kKeysTogether;
    float* const copy = memory + kWidth * (a.head_dim + kLanes);
    float* const scores = memory + before_scores(a, keys);
    float* const mixed = scores + padded * kWidth;
    return {memory, copy,  reinterpret_cast<uint32_t*>(copy + kKeyBlock * a.head_dim),
            scores, mixed, reinterpret_cast<uint32_t*>(mixed + kWidth * a.head_dim)};
  }

 private:
  static constexpr int64_t kWidth = kTileVectors * kLanes;

  static int64_t before_scores(const ForwardStack& a, int64_t keys) {
    const int64_t parts = keys / kSightKeys + 3;  // the last of each range may not be full
    return kWidth * (a.head_dim + kLanes + parts) + kKeyBlock * a.head_dim;
  }
};

// Rows of a group behind the last are copies of it.
template <typename Kind>
LTD_INLINE int64_t row_in_lane(const AttentionGroup& group, int64_t lane) {
  return group.first_row + (lane < group.rows ? lane : group.rows - 1);
}

// Keys first ... last - 1; none if that is not above first.
struct KeyRange {
  int64_t first;
  int64_t last;
};

// Calls body(first, count) for the keys of some ranges, in parts of up to kSightKeys.
template <int kCount, typename Body>
LTD_INLINE void in_sight_parts(const KeyRange (&ranges)[kCount], Body&& body) {
  for (const KeyRange& range : ranges) {
    for (int64_t key = range.first; key < range.last; key += kSightKeys) {
      body(key, at_most(range.last - key, kSightKeys));
    }
  }
}

// The same for the keys before those that all rows of a group see. A part is of the prefix, which has `length` keys, or
// of what is behind it.
template <typename Body>
LTD_INLINE void before_common(const AttentionGroup& group, int64_t length, Body&& body) {
  in_sight_parts({{group.first_key, at_most(group.first_common, length)}, {length, group.first_common}}, body);
}

// For the keys behind them, all of which are behind the prefix too.
template <typename Body>
LTD_INLINE void behind_common(const AttentionGroup& group, Body&& body) {
  in_sight_parts({{group.last_common, group.last_key}}, body);
}

}  // namespace
}  // namespace ltd::LTD_ISA
