// Attention of the engine: for each query the same result bit for bit whatever else is computed with it. Included by
// engine sources only.
//
// An attention row is one query head of one node. Rows that share a key/value head are taken in groups, one row in each
// lane of up to kTileVectors vectors, for scores and weights; their weighted values are then summed with the head's
// elements across the lanes. The scores of all keys of a group are kept, so that the exact maximum is known before the
// first weight is computed. A key's score and weight depend on nothing but key, query and maximum; sums run over the
// keys that a row sees, in the order of their rows. Of keys that only some rows of a group see, the values are added to
// the sums of those rows alone: multiplied by a weight of 0, what is infinite would be none.
#pragma once

#include "attention/products.h"
#include "engine/attention_group.h"
#include "engine/product.h"
#include "engine/tile_scores.h"
#include "engine/tile_values.h"
#include "forward/rows.h"

namespace ltd::LTD_ISA {
namespace {

constexpr int64_t kKeysAhead = 32;  // how far in front of them keys are fetched into the cache

// Register block of the weighted sums: kMixRows rows times kMixVectors vectors of a head's elements.
#if defined(__AVX512F__)
constexpr int kMixRows = 6;
constexpr int kMixVectors = 4;
#else
constexpr int kMixRows = 4;
constexpr int kMixVectors = 2;
#endif

// How attention is computed: an arithmetic for the scores, the type of the weights, and the weighted values, which are
// those below unless there are Values.
template <typename Arithmetic>
struct VectorAttention : Arithmetic {
  using Weight = float;
};

#if defined(LTD_TILES)
struct TileAttention : TileScores {
  using Weight = BFloat16;
  using Values = TileValues;
};
#endif

template <typename Engine, typename Kind>
void load_group_queries(const AttentionTask<Kind>& task, const AttentionGroup& group, float* query) {
  const ForwardStack& a = task.a;
  const int64_t width = group.vectors * kLanes;
  const int64_t words = a.head_dim / Engine::kElements;
  for (int64_t v = 0; v < group.vectors; ++v) {
    for (int64_t word = 0; word < words; word += kLanes) {
      Floats block[kLanes];
      const int64_t first = word * Engine::kElements;
      for (int lane = 0; lane < kLanes; ++lane) {
        const int64_t row = row_in_lane<Kind>(group, v * kLanes + lane);
        const int64_t head = group.kv_head * task.group_heads() + row % task.group_heads();
        const int64_t node = group.batch * a.nodes + row / task.group_heads();
        const auto* source = task.queries + node * task.query_stride + head * a.head_dim + first;
        block[lane] = Engine::query_words(source, a.head_dim - first);
      }
      transpose(block);
      const int64_t count = words - word < kLanes ? words - word : kLanes;
      for (int64_t i = 0; i < count; ++i) store(query + (word + i) * width + v * kLanes, block[i]);
    }
  }
}

// Which of the `count` keys from `first` on, of the prefix or behind it, the row in a lane sees, as bits.
template <typename Kind>
uint32_t seen_keys(const AttentionTask<Kind>& task, const AttentionGroup& group, int64_t lane, int64_t first,
                   int64_t count) {
  const ForwardStack& a = task.a;
  const int64_t node = row_in_lane<Kind>(group, lane) / task.group_heads();
  const int64_t tree_row = first - a.lengths[group.batch];
  uint32_t seen = ~0u >> (kSightKeys - count);
  if (tree_row >= 0 && a.masks.data != nullptr) {
    seen &= static_cast<uint64_t>(a.masks.at(group.batch, node)[tree_row / 64]) >> (tree_row % 64);
  } else if (tree_row >= 0) {
    seen &= node < tree_row ? 0 : node - tree_row >= 31 ? ~0u : (2u << (node - tree_row)) - 1;
  }
  for (uint32_t left = a.windows[task.layer] > 0 ? seen : 0; left != 0; left &= left - 1) {
    const int j = __builtin_ctz(left);
    if (!task.reaches(group.batch, node, first + j)) seen &= ~(1u << j);
  }
  return seen;
}

// Finds out which keys the rows see, and makes the scores of the others -inf.
template <typename Kind>
void hide_keys(const AttentionTask<Kind>& task, const AttentionGroup& group, const AttentionScratch& scratch) {
  const int64_t width = group.vectors * kLanes;
  uint32_t* seen = scratch.sight;
  const auto hide = [&](int64_t first, int64_t count) {
    for (int64_t lane = 0; lane < width; ++lane) seen[lane] = seen_keys(task, group, lane, first, count);
    float* const block = scratch.scores + (first - group.first_key) * width;
    for (int64_t lane = 0; lane < width; lane += kLanes) {
      const Words bits = load_raw<Words>(seen + lane);
      for (int64_t j = 0; j < count; ++j) {
        float* const score = block + j * width + lane;
        store(score, (bits & (uint32_t{1} << j)) != 0 ? load(score) : splat(-kInfinity));
      }
    }
    seen += width;
  };
  before_common(group, task.a.lengths[group.batch], hide);
  behind_common(group, hide);
}

// sums[r] += weights[r] * value, for rows r for which sees(r), of R, and V vectors (or part of one) of values.
template <int R, int V, typename Element, typename Sees>
LTD_INLINE void add_value(const Element* value, int64_t elements, const float* weights, Sees&& sees,
                          Floats (&sums)[R][V]) {
  Floats values[V];
  for (int v = 0; v < V; ++v) values[v] = load_part(value + v * kLanes, elements - v * kLanes);
  for (int r = 0; r < R; ++r) {
    if (!sees(r)) continue;
    for (int v = 0; v < V; ++v) sums[r][v] += splat(weights[r]) * values[v];
  }
}

// Turns scores into weights e^(scale * (score - maximum)), rounded to a type; returns the weights' sums.
template <typename Weight>
LTD_INLINE Floats soften_scores(float scale, int64_t keys, int64_t width, float* scores) {
  Floats top = splat(-kInfinity);
  for (int64_t k = 0; k < keys; ++k) top = larger(load(scores + k * width), top);
  // Where nothing is seen all weights are 0 with any finite maximum; -inf - -inf would be NaN.
  const Floats base = top == -kInfinity ? Floats{} : top;
  const float factor = scale * kLog2E;
  Floats sum{};
  for (int64_t k = 0; k < keys; ++k) {
    const Floats weight = rounded<Weight>(exp2_nonpositive((load(scores + k * width) - base) * factor));
    store(scores + k * width, weight);
    sum += weight;
  }
  return sum;
}

// result[r] = sum over the keys that row r sees of weights[k][r] * values[k], divided by sums[r], for R rows and V
// vectors (or part of one). Inlined, it would share its registers with the constants of its caller, and sums would wait
// on the stack.
template <typename Kind, int R, int V>
__attribute__((noinline)) void mix_values(const AttentionTask<Kind>& task, const AttentionGroup& group,
                                          const AttentionScratch& scratch, int64_t row, int64_t element,
                                          int64_t elements, const float* sums) {
  const ForwardStack& a = task.a;
  const int64_t width = group.vectors * kLanes;
  const int64_t stride = a.cache_strides[3];
  const auto* values = task.cache_row(a.values, group.batch, group.kv_head, group.first_key) + element;
  const float* weights = scratch.scores + row;
  const uint32_t* sight = scratch.sight + row;
  Floats mixed[R][V] = {};
  const auto add_seen = [&](int64_t, int64_t count) {
    uint32_t seen = 0;  // by any of the rows
    for (int r = 0; r < R; ++r) seen |= sight[r];
    for (; seen != 0; seen &= seen - 1) {
      const int j = __builtin_ctz(seen);
      add_value(
          values + j * stride, elements, weights + j * width, [&](int r) { return (sight[r] >> j & 1) != 0; }, mixed);
    }
    values += count * stride;
    weights += count * width;
    sight += width;
  };
  before_common(group, a.lengths[group.batch], add_seen);
  for (int64_t key = group.first_common; key < group.last_common; ++key) {
    add_value(values, elements, weights, [](int) { return true; }, mixed);
    values += stride;
    weights += width;
  }
  behind_common(group, add_seen);
  for (int r = 0; r < R; ++r) {
    auto* const target = task.result_of(group, row + r) + element;
    const float sum = sums[row + r];
    const Floats inverse = splat(1.0f / (sum == 0.0f ? 1.0f : sum));  // a row that saw nothing has sum 0 and result 0
    for (int v = 0; v < V; ++v) {
      store_part(target + v * kLanes, rounded<typename Kind::Element>(mixed[r][v] * inverse), elements - v * kLanes);
    }
  }
}

template <typename Kind, int R>
void mix_row_block(const AttentionTask<Kind>& task, const AttentionGroup& group, const AttentionScratch& scratch,
                   int64_t row, const float* sums) {
  const int64_t size = task.a.head_dim;
  int64_t element = 0;
  for (; element + kMixVectors * kLanes <= size; element += kMixVectors * kLanes) {
    mix_values<Kind, R, kMixVectors>(task, group, scratch, row, element, kMixVectors * kLanes, sums);
  }
  for (; element < size; element += kLanes)
    mix_values<Kind, R, 1>(task, group, scratch, row, element, size - element, sums);
}

template <typename Kind, int R>
void mix_rows(const AttentionTask<Kind>& task, const AttentionGroup& group, const AttentionScratch& scratch,
              int64_t row, const float* sums) {
  for (; row + R <= group.rows; row += R) mix_row_block<Kind, R>(task, group, scratch, row, sums);
  if constexpr (R > 1) mix_rows<Kind, R / 2>(task, group, scratch, row, sums);
}

// Fetches `count` rows of keys or values, from row `key` on, into the processor's cache. There may be fewer: fetching
// what lies behind them is harmless.
template <typename Kind>
LTD_INLINE void fetch_rows(const AttentionTask<Kind>& task, const AttentionGroup& group, const char* cache, int64_t key,
                           int64_t count) {
  const int64_t bytes = task.a.head_dim * sizeof(typename Kind::Element);
  for (int64_t r = 0; r < count; ++r) {
    const char* const row = reinterpret_cast<const char*>(task.cache_row(cache, group.batch, group.kv_head, key + r));
    for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(row + byte);
  }
}

template <typename Engine, int V, typename Kind>
void score_keys(const AttentionTask<Kind>& task, const AttentionGroup& group, const AttentionScratch& scratch) {
  const ForwardStack& a = task.a;
  for (int64_t key = group.first_key; key < group.last_key; key += kKeyBlock) {
    const int64_t count = at_most(group.last_key - key, kKeyBlock);
    fetch_rows(task, group, a.keys, key + kKeysAhead, count);
    fetch_rows(task, group, a.values, key, count);  // for the sums: scores take longer than memory
    const auto* source = task.cache_row(a.keys, group.batch, group.kv_head, key);
    float* const scores = scratch.scores + (key - group.first_key) * V * kLanes;
    if constexpr (requires { &Engine::template score<V>; }) {
      Engine::template score<V>(source, a.cache_strides[3], count, a.head_dim, scratch.query, scores);
    } else {
      const auto keys = Engine::keys(source, a.cache_strides[3], count, a.head_dim,
                                     reinterpret_cast<typename Engine::Word*>(scratch.copy));
      product<Engine, kTileRows, V, false>(keys, scratch.query, count, a.head_dim / Engine::kElements, scores);
    }
  }
}

template <typename Engine, typename Kind>
void attend_group(const AttentionTask<Kind>& task, const AttentionGroup& group, const AttentionScratch& scratch) {
  load_group_queries<Engine>(task, group, scratch.query);
  if (group.vectors == 3) score_keys<Engine, 3>(task, group, scratch);
  if (group.vectors == 2) score_keys<Engine, 2>(task, group, scratch);
  if (group.vectors == 1) score_keys<Engine, 1>(task, group, scratch);
  hide_keys(task, group, scratch);
  float sums[kTileVectors * kLanes];
  for (int64_t lane = 0; lane < group.vectors * kLanes; lane += kLanes) {
    const int64_t keys = group.last_key - group.first_key;
    store(sums + lane,
          soften_scores<typename Engine::Weight>(task.a.scale, keys, group.vectors * kLanes, scratch.scores + lane));
  }
  if constexpr (requires { typename Engine::Values; }) {
    Engine::Values::mix(task, group, scratch, sums);
  } else {
    mix_rows<Kind, kMixRows>(task, group, scratch, 0, sums);
  }
}

// The keys that some row of a group may see: in a chain none behind its last node, with a window none before all its
// nodes' horizons. And those that all its rows see: in a chain those before its first node are among them.
template <typename Kind>
void limit_keys(const AttentionTask<Kind>& task, AttentionGroup& group) {
  const ForwardStack& a = task.a;
  const int64_t length = a.lengths[group.batch];
  const int64_t first_node = group.first_row / task.group_heads();
  const int64_t last_node = (group.first_row + group.rows - 1) / task.group_heads();
  group.last_key = length + (a.masks.data == nullptr ? last_node + 1 : a.first_row + a.nodes);
  group.last_common = length + (a.masks.data == nullptr ? first_node + 1 : 0);
  group.first_key = 0;
  group.first_common = 0;
  if (a.windows[task.layer] <= 0) return;
  const int64_t* const positions = a.positions[group.batch];
  group.first_key = length;
  int64_t farthest = first_node;  // into the text: its window begins last
  for (int64_t node = first_node; node <= last_node; ++node) {
    const int64_t visible = positions[node] - a.windows[task.layer] + 1;
    group.first_key = visible < group.first_key ? visible : group.first_key;
    if (positions[node] > positions[farthest]) farthest = node;
  }
  group.first_key = group.first_key < 0 ? 0 : group.first_key / kKeysTogether * kKeysTogether;
  group.first_common = group.last_common;
  while (group.first_common > length && task.reaches(group.batch, farthest, group.first_common - 1)) {
    --group.first_common;
  }
  if (group.first_common > length) return;
  const int64_t visible = positions[farthest] - a.windows[task.layer] + 1;
  group.first_common = visible < group.first_key ? group.first_key : at_most(visible, length);
}

// Into how many groups the rows of a key/value head go: the number with which the busiest thread is done first.
LTD_INLINE int64_t count_groups(int64_t rows, int64_t heads, int64_t threads) {
  // What a group's keys and a vector's scores and weights take, in times of what a row's weighted values take.
#if defined(LTD_TILES)
  constexpr int64_t kKeysCost = 16;
  constexpr int64_t kVectorCost = 32;
#else
  constexpr int64_t kKeysCost = 13;
  constexpr int64_t kVectorCost = 9;
#endif
  const auto cost = [&](int64_t groups) {
    const int64_t size = ceil_div(rows, groups);
    return ceil_div(heads * groups, threads) * (kKeysCost + kVectorCost * ceil_div(size, kLanes) + size);
  };
  const int64_t fewest = ceil_div(rows, kTileVectors * kLanes);
  int64_t best = fewest;
  for (int64_t groups = fewest + 1; groups <= at_most(rows, fewest + threads); ++groups) {
    if (cost(groups) < cost(best)) best = groups;
  }
  return best;
}

// How the work of a layer's attention is divided: every key/value head, its rows in so many groups.
struct AttentionItems {
  int64_t rows;
  int64_t groups;
  int64_t count;

  AttentionItems(const ForwardStack& a, int64_t threads)
      : rows(a.query_heads / a.kv_heads * a.nodes),
        groups(count_groups(rows, a.batch * a.kv_heads, threads)),
        count(a.batch * a.kv_heads * groups) {}
};

// A share of a layer's attention.
template <typename Kind>
void attend(const AttentionTask<Kind>& task, const Share& share, const AttentionItems& items,
            const AttentionScratch& scratch) {
  const ForwardStack& a = task.a;
  for (int64_t item = share.first; item < share.last; ++item) {
    const int64_t head = item / items.groups;
    const int64_t first_row = items.rows * (item % items.groups) / items.groups;
    const int64_t count = items.rows * (item % items.groups + 1) / items.groups - first_row;
    AttentionGroup group{head / a.kv_heads, head % a.kv_heads, first_row, count, ceil_div(count, kLanes), 0, 0, 0, 0};
    limit_keys(task, group);
#if defined(LTD_TILES)
    if constexpr (std::is_same_v<Kind, BFloat16Product>) {
      if (TileScores::fits(a.head_dim)) {
        attend_group<TileAttention>(task, group, scratch);
        continue;
      }
    }
#endif
#if defined(__AVX512BF16__)
    if constexpr (std::is_same_v<Kind, BFloat16Product>) {
      attend_group<VectorAttention<BFloat16Arithmetic>>(task, group, scratch);
      continue;
    }
#endif
    attend_group<VectorAttention<FloatArithmetic>>(task, group, scratch);
  }
}

}  // namespace
}  // namespace ltd::LTD_ISA
