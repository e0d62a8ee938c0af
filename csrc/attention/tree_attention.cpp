// All arithmetic is laid out with attention rows across the lanes of a vector. An attention row is one query head of
// one node; the rows that share a key/value head are taken together, so that a key is loaded once for all of them.
// Scores, maxima and sums of the softmax then need no reduction across lanes, keys and values are read in the layout of
// the cache, and only queries and outputs are transposed.
//
// The softmax runs online over blocks of keys, in powers of 2. Work is cut into items: a block of attention rows of one
// key/value head over some of the keys. An item leaves unnormalised outputs, peaks and sums; when all are done, the
// items of a block are joined.
//
// What a row does not see has the weight 0 and is multiplied with the rest, unless a value is infinite or NaN: then it
// is left out.
#include "attention/tree_attention.h"

#include "attention/products.h"
#include "common/scratch.h"
#include "common/team.h"

namespace ltd::LTD_ISA {
namespace {

constexpr int64_t kKeyBlock = 64;         // keys taken at a time; even
constexpr int64_t kMaxBlockVectors = 12;  // row vectors of an item: its state stays in the second-level cache
constexpr int64_t kMaxSplits = 16;        // of the keys among items

// Multiply-adds below which a second thread costs more than it saves.
constexpr int64_t kWorkPerThread = 1 << 18;

// Sizes that follow from the arguments, and how the work is cut.
struct Plan {
  int64_t group_heads;    // query heads per key/value head
  int64_t rows;           // attention rows per key/value head: row r is head r % group_heads of node r / group_heads
  int64_t vectors;        // of rows per key/value head
  int64_t block_vectors;  // of an item
  int64_t blocks;         // of rows per key/value head
  int64_t splits;         // of the keys per block
  int64_t share;          // keys of a split
  int64_t mask_words;     // of 32 bits
  int64_t item_floats;    // state of an item
  int threads;
};

struct Item {
  int64_t batch;
  int64_t kv_head;
  int64_t first_vector;
  int64_t vectors;
  int64_t first_key;
  int64_t last_key;  // exclusive
};

// Up to kTileVectors vectors of an item's rows, which go through the registers together.
struct Group {
  int64_t vectors;
  float* query;      // (head_dim, vectors) words
  float* output;     // (head_dim, vectors), not yet divided by the sums
  float* peaks;      // (vectors), largest score so far
  float* sums;       // (vectors), of weights
  int32_t* nodes;    // (vectors), node of each row
  int32_t* horizon;  // (vectors), window: key positions up to it are hidden
  int32_t* masks;    // (mask_words, vectors)
};

struct Place {
  int64_t node;
  int64_t head;
};

// Rows behind the last are copies of it.
LTD_INLINE Place place_of(const Plan& plan, const Item& item, int64_t vector, int64_t lane) {
  const int64_t row = at_most((item.first_vector + vector) * kLanes + lane, plan.rows - 1);
  return {row / plan.group_heads, item.kv_head * plan.group_heads + row % plan.group_heads};
}

LTD_INLINE Group group_at(const TreeAttention& a, const Plan& plan, const Item& item, int64_t vector, float* state) {
  const int64_t all = plan.block_vectors * kLanes;
  const int64_t before = vector * kLanes;
  float* const rows = state + 2 * all * a.head_dim;
  int32_t* const sight = reinterpret_cast<int32_t*>(rows + 2 * all);
  return {at_most(item.vectors - vector, kTileVectors),
          state + before * a.head_dim,
          state + (all + before) * a.head_dim,
          rows + before,
          rows + all + before,
          sight + before,
          sight + all + before,
          sight + 2 * all + before * plan.mask_words};
}

template <typename Arithmetic, typename T>
void load_queries(const TreeAttention& a, const Plan& plan, const Item& item, int64_t vector, const Group& group) {
  const int64_t width = group.vectors * kLanes;
  const int64_t words = a.head_dim / Arithmetic::kElements;
  for (int64_t v = 0; v < group.vectors; ++v) {
    const T* sources[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      const Place place = place_of(plan, item, vector + v, lane);
      sources[lane] = a.query.at<T>(item.batch, place.head, place.node);
    }
    for (int64_t word = 0; word < words; word += kLanes) {
      Floats block[kLanes];
      const int64_t first = word * Arithmetic::kElements;
      for (int lane = 0; lane < kLanes; ++lane) {
        block[lane] = Arithmetic::query_words(sources[lane] + first, a.head_dim - first);
      }
      transpose(block);
      const int64_t count = at_most(words - word, kLanes);
      for (int64_t i = 0; i < count; ++i) store(group.query + (word + i) * width + v * kLanes, block[i]);
    }
  }
}

// What decides on which keys each row sees.
void load_sight(const TreeAttention& a, const Plan& plan, const Item& item, int64_t vector, const Group& group) {
  const int64_t width = group.vectors * kLanes;
  for (int64_t i = 0; i < width; ++i) {
    const int64_t node = place_of(plan, item, vector, i).node;
    group.nodes[i] = static_cast<int32_t>(node);
    group.horizon[i] = a.window > 0 ? static_cast<int32_t>(a.positions[item.batch][node] - a.window) : 0;
    for (int64_t word = 0; word < plan.mask_words; ++word) {
      const uint64_t bits = static_cast<uint64_t>(a.masks.at(item.batch, node)[word / 2]);
      group.masks[word * width + i] = static_cast<int32_t>(bits >> (word % 2 * 32));
    }
  }
}

void clear(const TreeAttention& a, const Group& group) {
  const int64_t width = group.vectors * kLanes;
  std::memset(group.output, 0, a.head_dim * width * sizeof(float));
  std::memset(group.sums, 0, width * sizeof(float));
  for (int64_t i = 0; i < width; i += kLanes) store(group.peaks + i, splat(-kInfinity));
}

// Keys of one block of them.
struct Keys {
  int64_t first;
  int64_t count;
  bool is_common;  // seen by all rows
  bool is_finite;  // or common: 0 times its values is 0
};

// Which rows of vector v see a key: all bits of a lane, or none.
template <int V>
LTD_INLINE Ints lanes_that_see(const TreeAttention& a, const Item& item, const Group& group, int64_t key, int v) {
  const int64_t tree_row = key - a.lengths[item.batch];
  Ints seen = splat(int32_t{-1});
  if (tree_row >= 0 && a.masks.data == nullptr) {
    seen = load_raw<Ints>(group.nodes + v * kLanes) >= static_cast<int32_t>(tree_row);
  } else if (tree_row >= 0) {
    const Words words = load_raw<Words>(group.masks + (tree_row / 32 * V + v) * kLanes);
    seen = (words & (uint32_t{1} << (tree_row % 32))) != 0;
  }
  if (a.window > 0) {
    const int64_t position = tree_row >= 0 ? a.positions[item.batch][tree_row] : key;
    seen &= load_raw<Ints>(group.horizon + v * kLanes) < static_cast<int32_t>(position);
  }
  return seen;
}

// Makes the scores of keys that a row may not see -inf.
template <int V>
void hide(const TreeAttention& a, const Item& item, const Group& group, const Keys& block, float* scores) {
  const int64_t length = a.lengths[item.batch];
  for (int64_t k = a.window > 0 || block.first >= length ? 0 : length - block.first; k < block.count; ++k) {
    for (int v = 0; v < V; ++v) {
      float* score = scores + (k * V + v) * kLanes;
      store(score, lanes_that_see<V>(a, item, group, block.first + k, v) ? load(score) : splat(-kInfinity));
    }
  }
}

// Adds the values times their weights to the outputs of the rows that see them, and leaves them out of the others: to
// the last bit what the product of both gives where all is finite.
template <typename Arithmetic, int V>
void add_seen(const TreeAttention& a, const Item& item, const Group& group, const Keys& block,
              Factor<typename Arithmetic::Word> values, const float* weights) {
  constexpr int64_t kElements = Arithmetic::kElements;
  for (int64_t word = 0; word < ceil_div(block.count, kElements); ++word) {
    for (int v = 0; v < V; ++v) {
      Words kept{};
      for (int64_t e = 0; e < at_most(block.count - word * kElements, kElements); ++e) {
        const Ints seen = lanes_that_see<V>(a, item, group, block.first + word * kElements + e, v);
        kept |= (Words)seen & (~uint32_t{0} >> (32 - 32 / kElements) << (32 / kElements * e));
      }
      const Floats weight = load(weights + (word * V + v) * kLanes);
      for (int64_t d = 0; d < a.head_dim; ++d) {
        typename Arithmetic::Word factor;
        std::memcpy(&factor, values.data + d * values.row_stride + word * values.step, sizeof factor);
        float* const output = group.output + (d * V + v) * kLanes;
        const Floats factors = (Floats)((Words)Arithmetic::spread(factor) & kept);
        store(output, Arithmetic::multiply_add(load(output), factors, weight));
      }
    }
  }
}

// Turns scores into weights 2^((score - peak) * factor), and brings sums and outputs to the new peaks. The difference
// comes first: the best score then has weight 1 however large it is.
template <typename Arithmetic, int V>
LTD_INLINE void soften(const TreeAttention& a, const Group& group, int64_t count, float* scores) {
  const float factor = a.scale * kLog2E;
  for (int v = 0; v < V; ++v) {
    const Floats old_peak = load(group.peaks + v * kLanes);
    Floats peak = old_peak;
    for (int64_t k = 0; k < count; ++k) peak = larger(load(scores + (k * V + v) * kLanes), peak);
    // Where nothing was seen yet all weights are 0 with any finite peak; -inf - -inf would be NaN.
    const Floats base = peak == -kInfinity ? Floats{} : peak;
    const auto weight_of = [&](int64_t k) {
      return exp2_nonpositive((load(scores + (k * V + v) * kLanes) - base) * factor);
    };
    Floats sum{};
    for (int64_t k = 0; k < count; k += Arithmetic::kElements) {
      const Floats weight = weight_of(k);
      sum += weight;
      float* target = scores + (k / Arithmetic::kElements * V + v) * kLanes;
      if constexpr (Arithmetic::kElements == 1) {
        store(target, weight);
      } else {
        const Floats next = k + 1 < count ? weight_of(k + 1) : Floats{};
        sum += next;
        store(target, Arithmetic::pair(weight, next));
      }
    }
    const Floats shrink = exp2_nonpositive((old_peak - base) * factor);
    store(group.sums + v * kLanes, load(group.sums + v * kLanes) * shrink + sum);
    store(group.peaks + v * kLanes, peak);
    if (!any(peak != old_peak)) continue;
    for (int64_t d = 0; d < a.head_dim; ++d) {
      float* output = group.output + (d * V + v) * kLanes;
      store(output, load(output) * shrink);
    }
  }
}

// One block of keys for one group of rows.
template <typename Arithmetic, int V>
void attend(const TreeAttention& a, const Item& item, const Group& group, const Keys& block,
            Factor<typename Arithmetic::Word> keys, Factor<typename Arithmetic::Word> values, float* scores) {
  product<Arithmetic, kTileRows, V, false>(keys, group.query, block.count, a.head_dim / Arithmetic::kElements, scores);
  if (!block.is_common) hide<V>(a, item, group, block, scores);
  soften<Arithmetic, V>(a, group, block.count, scores);
  if (!block.is_finite) return add_seen<Arithmetic, V>(a, item, group, block, values, scores);
  product<Arithmetic, kTileRows, V, true>(values, scores, a.head_dim, ceil_div(block.count, Arithmetic::kElements),
                                          group.output);
}

// In a chain no row of the item sees keys from here on.
LTD_INLINE int64_t visible_end(const TreeAttention& a, const Plan& plan, const Item& item) {
  if (a.masks.data != nullptr) return item.last_key;
  const int64_t last_node = place_of(plan, item, item.vectors - 1, kLanes - 1).node;
  return at_most(a.lengths[item.batch] + last_node + 1, item.last_key);
}

template <typename Arithmetic, typename T>
void run_item(const TreeAttention& a, const Plan& plan, const Item& item, float* state, float* scratch) {
  using Word = typename Arithmetic::Word;
  Word* key_words = reinterpret_cast<Word*>(scratch);
  Word* value_words = key_words + kKeyBlock * a.head_dim;
  float* scores = scratch + 2 * kKeyBlock * a.head_dim;
  for (int64_t v = 0; v < item.vectors; v += kTileVectors) {
    const Group group = group_at(a, plan, item, v, state);
    load_queries<Arithmetic, T>(a, plan, item, v, group);
    load_sight(a, plan, item, v, group);
    clear(a, group);
  }
  const int64_t end = visible_end(a, plan, item);
  for (int64_t key = item.first_key; key < end; key += kKeyBlock) {
    const int64_t count = at_most(end - key, kKeyBlock);
    const auto keys =
        Arithmetic::keys(a.keys.at<T>(item.batch, item.kv_head, key), a.keys.row_stride, count, a.head_dim, key_words);
    const T* const value_rows = a.values.at<T>(item.batch, item.kv_head, key);
    const auto values = Arithmetic::values(value_rows, a.values.row_stride, count, a.head_dim, value_words);
    const bool is_common = a.window == 0 && key + count <= a.lengths[item.batch];
    const bool is_finite = is_common || are_finite(value_rows, a.values.row_stride, count, a.head_dim);
    const Keys block{key, count, is_common, is_finite};
    for (int64_t v = 0; v < item.vectors; v += kTileVectors) {
      const Group group = group_at(a, plan, item, v, state);
      if (group.vectors == 3) attend<Arithmetic, 3>(a, item, group, block, keys, values, scores);
      if (group.vectors == 2) attend<Arithmetic, 2>(a, item, group, block, keys, values, scores);
      if (group.vectors == 1) attend<Arithmetic, 1>(a, item, group, block, keys, values, scores);
    }
  }
}

// Joins the splits of vector v of a group into the first one's outputs, and divides them by the sums.
void join(const TreeAttention& a, const Plan& plan, const Item& item, int64_t vector, int64_t v, float* states) {
  const auto part = [&](int64_t split) { return group_at(a, plan, item, vector, states + split * plan.item_floats); };
  Floats peak = splat(-kInfinity);
  for (int64_t s = 0; s < plan.splits; ++s) peak = larger(load(part(s).peaks + v * kLanes), peak);
  const Floats base = peak == -kInfinity ? Floats{} : peak;
  Floats shrink[kMaxSplits];
  Floats sum{};
  for (int64_t s = 0; s < plan.splits; ++s) {
    shrink[s] = exp2_nonpositive((load(part(s).peaks + v * kLanes) - base) * (a.scale * kLog2E));
    sum += load(part(s).sums + v * kLanes) * shrink[s];
  }
  // A row that saw nothing has sum 0 and outputs 0.
  const Floats inverse = 1.0f / (sum == 0.0f ? splat(1.0f) : sum);
  const int64_t width = part(0).vectors * kLanes;
  for (int64_t s = 0; s < plan.splits; ++s) {
    const Floats factor = shrink[s] * inverse;
    for (int64_t d = 0; d < a.head_dim; ++d) {
      float* const total = part(0).output + d * width + v * kLanes;
      const Floats output = load(part(s).output + d * width + v * kLanes) * factor;
      store(total, s == 0 ? output : load(total) + output);
    }
  }
}

// Joins the splits of one block of rows and writes its outputs.
template <typename T>
void finish(const TreeAttention& a, const Plan& plan, const Item& item, float* states) {
  for (int64_t vector = 0; vector < item.vectors; ++vector) {
    const int64_t first = vector / kTileVectors * kTileVectors;
    const Group group = group_at(a, plan, item, first, states);
    join(a, plan, item, first, vector - first, states);
    const float* output = group.output + (vector - first) * kLanes;
    const int64_t rows = at_most(plan.rows - (item.first_vector + vector) * kLanes, kLanes);
    for (int64_t d = 0; d < a.head_dim; d += kLanes) {
      const int64_t count = at_most(a.head_dim - d, kLanes);
      Floats block[kLanes] = {};
      for (int64_t i = 0; i < count; ++i) block[i] = load(output + (d + i) * group.vectors * kLanes);
      transpose(block);
      for (int64_t lane = 0; lane < rows; ++lane) {
        const Place place = place_of(plan, item, vector, lane);
        T* target = static_cast<T*>(a.output) +
                    ((item.batch * a.nodes + place.node) * a.query_heads + place.head) * a.head_dim + d;
        if (count == kLanes) {
          store(target, block[lane]);
        } else {
          store_some(target, block[lane], count);
        }
      }
    }
  }
}

// Cuts the work so that the busiest thread has least to do: cost of an item = keys * (vectors + 1), the 1 being the
// conversion of a key.
void cut(Plan& plan, int64_t heads, int64_t keys) {
  const int64_t fewest = ceil_div(plan.vectors, kMaxBlockVectors);
  int64_t best_cost = INT64_MAX;
  for (int64_t wanted = fewest; wanted <= at_most(plan.vectors, fewest + 2 * plan.threads - 2); ++wanted) {
    const int64_t block_vectors = ceil_div(plan.vectors, wanted);
    const int64_t blocks = ceil_div(plan.vectors, block_vectors);
    for (int64_t splits = 1; splits <= kMaxSplits && (splits == 1 || splits * kKeyBlock <= keys); splits *= 2) {
      if (splits > 1 && plan.threads == 1) break;
      const int64_t share = ceil_div(ceil_div(keys, splits), kKeyBlock) * kKeyBlock;
      const int64_t rounds = ceil_div(heads * blocks * splits, plan.threads);
      const int64_t cost = rounds * (at_most(share, keys) * (block_vectors + 1) + kKeyBlock) + splits * kKeyBlock;
      if (cost >= best_cost) continue;
      best_cost = cost;
      plan.block_vectors = block_vectors;
      plan.blocks = blocks;
      plan.splits = splits;
      plan.share = share;
    }
  }
}

Plan make_plan(const TreeAttention& a) {
  Plan plan{};
  plan.group_heads = a.query_heads / a.kv_heads;
  plan.rows = plan.group_heads * a.nodes;
  plan.vectors = ceil_div(plan.rows, kLanes);
  plan.mask_words = a.masks.data == nullptr ? 0 : ceil_div(a.tree_rows, 32);
  int64_t longest = 0;
  for (int64_t b = 0; b < a.batch; ++b) longest = a.lengths[b] > longest ? a.lengths[b] : longest;
  const int64_t heads = a.batch * a.kv_heads;
  const int64_t keys = longest + a.tree_rows;
  plan.threads =
      static_cast<int>(at_most(heads * plan.vectors * kLanes * keys * a.head_dim / kWorkPerThread + 1, a.threads));
  cut(plan, heads, keys);
  plan.item_floats = (2 * a.head_dim + 4 + plan.mask_words) * plan.block_vectors * kLanes;
  return plan;
}

// Items of one block of rows follow each other. The last rows come first: in a chain they see most.
Item item_at(const TreeAttention& a, const Plan& plan, int64_t index) {
  const int64_t split = index % plan.splits;
  const int64_t block = plan.blocks - 1 - index / plan.splits % plan.blocks;
  const int64_t head = index / plan.splits / plan.blocks;
  const int64_t first_vector = block * plan.block_vectors;
  const int64_t batch = head / a.kv_heads;
  const int64_t keys = a.lengths[batch] + a.tree_rows;
  return {batch,
          head % a.kv_heads,
          first_vector,
          at_most(plan.vectors - first_vector, plan.block_vectors),
          at_most(split * plan.share, keys),
          at_most((split + 1) * plan.share, keys)};
}

template <typename Arithmetic, typename T>
void run(const TreeAttention& a) {
  const Plan plan = make_plan(a);
  const int64_t blocks = a.batch * a.kv_heads * plan.blocks;
  const int64_t items = blocks * plan.splits;
  const int64_t scratch_floats = kKeyBlock * (2 * a.head_dim + kTileVectors * kLanes);
  thread_local Scratch memory;
  float* const states = memory.reserve<float>(items * plan.item_floats + plan.threads * scratch_floats);
  float* const scratch = states + items * plan.item_floats;
  const auto attend = [&](const Share& share) {
    for (int64_t i = share.first; i < share.last; ++i) {
      const Item item = item_at(a, plan, i);
      float* const state = states + i * plan.item_floats;
      run_item<Arithmetic, T>(a, plan, item, state, scratch + share.thread * scratch_floats);
      if (plan.splits == 1) finish<T>(a, plan, item, state);
    }
  };
  const auto merge = [&](const Share& share) {
    for (int64_t i = share.first; i < share.last; ++i) {
      finish<T>(a, plan, item_at(a, plan, i * plan.splits), states + i * plan.splits * plan.item_floats);
    }
  };
  // Without splits a block is finished by its only item, and there is no second phase.
  const int64_t counts[] = {items, blocks};
  in_phases(plan.threads, counts, plan.splits > 1 ? 2 : 1,
            [&](int64_t phase, const Share& share) { phase == 0 ? attend(share) : merge(share); });
}

}  // namespace

void tree_attention(const TreeAttention& a) {
#if defined(__AVX512BF16__)
  const int64_t strides = a.keys.row_stride | a.keys.head_stride | a.keys.batch_stride;  // even if all are
  if (a.dtype == DType::kBFloat16 && BFloat16Arithmetic::fits(a.keys.data, strides, a.head_dim)) {
    return run<BFloat16Arithmetic, BFloat16>(a);
  }
#endif
  with_type(a.dtype, [&](auto type) { run<FloatArithmetic, decltype(type)>(a); });
}

}  // namespace ltd::LTD_ISA
