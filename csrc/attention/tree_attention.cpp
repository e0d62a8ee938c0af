// All arithmetic is laid out with attention rows across the lanes of a vector: an attention row is one query head of one node, and
// the rows that share a key/value head are taken together, so that a key is loaded once for all of them. Scores, maxima and
// sums of the softmax then need no reduction across lanes, keys and values are read in the layout of the cache, and only queries
// and outputs are transposed.
#include "attention/tree_attention.h"

#ifdef _OPENMP
#include <omp.h>
#endif

#include "common/scratch.h"
#include "common/vector.h"

namespace ltd::LTD_ISA {
namespace {

// Register block of the matrix products: kTileRows x kTileVectors accumulators.
#if defined(__AVX512F__)
constexpr int kTileRows = 8;
#else
constexpr int kTileRows = 4;
#endif
constexpr int kTileVectors = 3;

constexpr int64_t kKeyBlock = 64;         // keys taken at a time
constexpr int64_t kMaxBlockVectors = 12;  // row vectors of one work item
constexpr int64_t kMaxSplits = 16;        // of the keys of one block of rows

// Multiply-adds below which a second thread costs more than it saves.
constexpr int64_t kWorkPerThread = 1 << 18;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// c[m][n] (+)= sum over k of a[m * a_row + k * a_step] * b[k][n], for M rows m and V vectors of n; rows of b and c are V vectors.
template <int M, int V, bool kAdd>
LTD_INLINE void product_tile(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t depth, float* c) {
  Floats sums[M][V];
  for (int m = 0; m < M; ++m) {
    for (int v = 0; v < V; ++v) sums[m][v] = kAdd ? load(c + (m * V + v) * kLanes) : Floats{};
  }
  for (int64_t k = 0; k < depth; ++k) {
    Floats row[V];
    for (int v = 0; v < V; ++v) row[v] = load(b + (k * V + v) * kLanes);
    for (int m = 0; m < M; ++m) {
      const Floats factor = splat(a[m * a_row + k * a_step]);
      for (int v = 0; v < V; ++v) sums[m][v] += factor * row[v];
    }
  }
  for (int m = 0; m < M; ++m) {
    for (int v = 0; v < V; ++v) store(c + (m * V + v) * kLanes, sums[m][v]);
  }
}

template <int M, int V, bool kAdd>
LTD_INLINE void product(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t rows, int64_t depth,
                        float* c) {
  int64_t m = 0;
  for (; m + M <= rows; m += M) product_tile<M, V, kAdd>(a + m * a_row, a_row, a_step, b, depth, c + m * V * kLanes);
  if constexpr (M > 1) {
    if (m < rows) product<M / 2, V, kAdd>(a + m * a_row, a_row, a_step, b, rows - m, depth, c + m * V * kLanes);
  }
}

// Up to kTileVectors vectors of attention rows that go through the registers together.
struct Group {
  int64_t vectors;
  float* query;   // (head_dim, vectors), scaled by log2(e) * scale
  float* output;  // (head_dim, vectors), not yet divided by the sums
  float* peaks;   // (vectors), largest score so far, base 2
  float* sums;    // (vectors)
};


// One work item: some vectors of attention rows of one key/value head, over some of the keys.
struct Item {
  int64_t batch;
  int64_t kv_head;
  int64_t first_vector;
  int64_t vectors;
  int64_t first_key;
  int64_t last_key;  // exclusive
};

// How the work is cut: every (batch, kv head) into `blocks` blocks of rows and those into `splits` of the keys.
struct Plan {
  int64_t vectors;        // of attention rows per key/value head
  int64_t blocks;
  int64_t block_vectors;
  int64_t splits;
  int threads;

  int64_t item_floats;  // state of an item: queries, outputs, peaks, sums
};

struct Shape {
  int64_t group_heads;  // query heads per key/value head
  int64_t rows;         // attention rows per key/value head
};

// Attention row r is query head r % group_heads of node r / group_heads.
struct RowPlace {
  int64_t node;
  int64_t head;
};

LTD_INLINE Shape shape_of(const TreeAttention& a) {
  const int64_t group_heads = a.query_heads / a.kv_heads;
  return {group_heads, group_heads * a.nodes};
}

LTD_INLINE RowPlace place_of(const Shape& shape, int64_t kv_head, int64_t row) {
  return {row / shape.group_heads, kv_head * shape.group_heads + row % shape.group_heads};
}

LTD_INLINE Group group_at(const TreeAttention& a, float* state, int64_t block_vectors, int64_t vector) {
  const int64_t left = block_vectors - vector;
  const int64_t part = block_vectors * a.head_dim * kLanes;
  return {left < kTileVectors ? left : kTileVectors,
          state + vector * a.head_dim * kLanes,
          state + part + vector * a.head_dim * kLanes,
          state + 2 * part + vector * kLanes,
          state + 2 * part + (block_vectors + vector) * kLanes};
}

template <typename T>
void load_queries(const TreeAttention& a, const Shape& shape, const Item& item, int64_t vector, const Group& group) {
  const float factor = a.scale * kLog2E;
  const int64_t width = group.vectors * kLanes;
  alignas(64) float query[kLanes];
  for (int64_t lane = 0; lane < width; ++lane) {
    const int64_t row = (item.first_vector + vector) * kLanes + lane;
    if (row >= shape.rows) {
      for (int64_t d = 0; d < a.head_dim; ++d) group.query[d * width + lane] = 0.0f;
      continue;
    }
    const RowPlace place = place_of(shape, item.kv_head, row);
    const T* source = a.query.at<T>(item.batch, place.head, place.node);
    for (int64_t d = 0; d < a.head_dim; d += kLanes) {
      const int64_t count = a.head_dim - d < kLanes ? a.head_dim - d : kLanes;
      store(query, (count == kLanes ? load(source + d) : load_some(source + d, count, 0.0f)) * factor);
      for (int64_t i = 0; i < count; ++i) group.query[(d + i) * width + lane] = query[i];
    }
  }
}

void clear(const TreeAttention& a, const Group& group) {
  const int64_t width = group.vectors * kLanes;
  for (int64_t i = 0; i < a.head_dim * width; ++i) group.output[i] = 0.0f;
  for (int64_t i = 0; i < width; ++i) {
    group.peaks[i] = -kInfinity;
    group.sums[i] = 0.0f;
  }
}

// Rows of keys or values as float32: the cache itself if it holds floats, else a converted copy.
struct FloatRows {
  const float* data;
  int64_t stride;
};

LTD_INLINE FloatRows as_floats(const float* source, int64_t stride, int64_t, int64_t, float*) {
  return {source, stride};
}

template <typename T>
LTD_INLINE FloatRows as_floats(const T* source, int64_t stride, int64_t rows, int64_t head_dim, float* target) {
  for (int64_t r = 0; r < rows; ++r) {
    int64_t d = 0;
    for (; d + kLanes <= head_dim; d += kLanes) store(target + r * head_dim + d, load(source + r * stride + d));
    if (d < head_dim) {
      const Floats rest = load_some(source + r * stride + d, head_dim - d, 0.0f);
      store_some(target + r * head_dim + d, rest, head_dim - d);
    }
  }
  return {target, head_dim};
}

// Hides the scores of keys first_key ... first_key + count - 1 that a row may not see, by making them -inf.
void hide(const TreeAttention& a, const Shape& shape, const Item& item, int64_t vector, int64_t vectors,
          int64_t first_key, int64_t count, float* scores) {
  const int64_t length = a.lengths[item.batch];
  for (int64_t v = 0; v < vectors; ++v) {
    int64_t nodes[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t row = (item.first_vector + vector + v) * kLanes + lane;
      nodes[lane] = place_of(shape, item.kv_head, row < shape.rows ? row : shape.rows - 1).node;
    }
    for (int64_t k = 0; k < count; ++k) {
      const int64_t tree_row = first_key + k - length;
      float* score = scores + (k * vectors + v) * kLanes;
      for (int lane = 0; lane < kLanes; ++lane) {
        const int64_t node = nodes[lane];
        bool seen = true;
        if (tree_row >= 0) {
          seen = a.masks.data == nullptr ? tree_row <= node
                                         : (a.masks.at(item.batch, node)[tree_row / 64] >> (tree_row % 64)) & 1;
        }
        if (a.window > 0) {
          const int64_t* positions = a.positions[item.batch];
          const int64_t key_position = tree_row >= 0 ? positions[tree_row] : first_key + k;
          seen = seen && positions[node] - key_position < a.window;
        }
        if (!seen) score[lane] = -kInfinity;
      }
    }
  }
}

// Turns scores into weights 2^(score - peak) and brings sums and outputs to the new peaks.
template <int V>
LTD_INLINE void soften(const TreeAttention& a, const Group& group, int64_t count, float* scores) {
  for (int v = 0; v < V; ++v) {
    const Floats old_peak = load(group.peaks + v * kLanes);
    Floats peak = old_peak;
    for (int64_t k = 0; k < count; ++k) peak = larger(load(scores + (k * V + v) * kLanes), peak);
    // Nothing seen yet: any finite peak serves, as all weights are 0; -inf would make NaN.
    const Floats base = peak == -kInfinity ? Floats{} : peak;
    Floats sum{};
    for (int64_t k = 0; k < count; ++k) {
      float* score = scores + (k * V + v) * kLanes;
      const Floats weight = exp2_nonpositive(load(score) - base);
      store(score, weight);
      sum += weight;
    }
    const Floats shrink = exp2_nonpositive(old_peak - base);
    store(group.sums + v * kLanes, load(group.sums + v * kLanes) * shrink + sum);
    store(group.peaks + v * kLanes, peak);
    if (any(peak != old_peak)) {
      for (int64_t d = 0; d < a.head_dim; ++d) {
        float* output = group.output + (d * V + v) * kLanes;
        store(output, load(output) * shrink);
      }
    }
  }
}

// One block of keys for one group of rows.
template <int V>
void attend(const TreeAttention& a, const Shape& shape, const Item& item, int64_t vector, const Group& group,
            FloatRows keys, FloatRows values, int64_t first_key, int64_t count, bool hidden, float* scores) {
  product<kTileRows, V, false>(keys.data, keys.stride, 1, group.query, count, a.head_dim, scores);
  if (hidden) hide(a, shape, item, vector, V, first_key, count, scores);
  soften<V>(a, group, count, scores);
  product<kTileRows, V, true>(values.data, 1, values.stride, scores, a.head_dim, count, group.output);
}

// Keys that some row of the item may see.
struct KeyRange {
  int64_t begin;
  int64_t end;
};

LTD_INLINE KeyRange visible_keys(const TreeAttention& a, const Shape& shape, const Item& item) {
  KeyRange range{item.first_key, item.last_key};
  const int64_t length = a.lengths[item.batch];
  const int64_t last_row = (item.first_vector + item.vectors) * kLanes - 1;
  const int64_t last_node = (last_row < shape.rows ? last_row : shape.rows - 1) / shape.group_heads;
  if (a.masks.data == nullptr && range.end > length + last_node + 1) range.end = length + last_node + 1;
  return range;
}

template <typename T>
void run_item(const TreeAttention& a, const Shape& shape, const Item& item, float* state, float* scratch) {
  float* key_rows = scratch;
  float* value_rows = key_rows + kKeyBlock * a.head_dim;
  float* scores = value_rows + kKeyBlock * a.head_dim;
  for (int64_t v = 0; v < item.vectors; v += kTileVectors) {
    const Group group = group_at(a, state, item.vectors, v);
    load_queries<T>(a, shape, item, v, group);
    clear(a, group);
  }
  const KeyRange range = visible_keys(a, shape, item);
  for (int64_t key = range.begin; key < range.end; key += kKeyBlock) {
    const int64_t count = range.end - key < kKeyBlock ? range.end - key : kKeyBlock;
    const FloatRows keys =
        as_floats(a.keys.at<T>(item.batch, item.kv_head, key), a.keys.row_stride, count, a.head_dim, key_rows);
    const FloatRows values =
        as_floats(a.values.at<T>(item.batch, item.kv_head, key), a.values.row_stride, count, a.head_dim, value_rows);
    const bool hidden = a.window > 0 || key + count > a.lengths[item.batch];
    for (int64_t v = 0; v < item.vectors; v += kTileVectors) {
      const Group group = group_at(a, state, item.vectors, v);
      if (group.vectors == 3) attend<3>(a, shape, item, v, group, keys, values, key, count, hidden, scores);
      if (group.vectors == 2) attend<2>(a, shape, item, v, group, keys, values, key, count, hidden, scores);
      if (group.vectors == 1) attend<1>(a, shape, item, v, group, keys, values, key, count, hidden, scores);
    }
  }
}

// Joins the splits of one block of rows and writes its outputs.
template <typename T>
void finish(const TreeAttention& a, const Shape& shape, const Item& item, const Plan& plan, float* states) {
  alignas(64) float result[kLanes];
  for (int64_t v = 0; v < item.vectors; v += kTileVectors) {
    const Group first = group_at(a, states, item.vectors, v);
    const int64_t width = first.vectors * kLanes;
    for (int64_t u = 0; u < first.vectors; ++u) {
      Floats peak = splat(-kInfinity);
      for (int64_t s = 0; s < plan.splits; ++s) {
        peak = larger(load(group_at(a, states + s * plan.item_floats, item.vectors, v).peaks + u * kLanes), peak);
      }
      const Floats base = peak == -kInfinity ? Floats{} : peak;
      Floats sum{};
      for (int64_t s = 0; s < plan.splits; ++s) {
        const Group part = group_at(a, states + s * plan.item_floats, item.vectors, v);
        const Floats shrink = exp2_nonpositive(load(part.peaks + u * kLanes) - base);
        sum += load(part.sums + u * kLanes) * shrink;
        for (int64_t d = 0; d < a.head_dim; ++d) {
          const Floats output = load(part.output + d * width + u * kLanes) * shrink;
          float* total = first.output + d * width + u * kLanes;
          store(total, s == 0 ? output : load(total) + output);
        }
      }
      const Floats inverse = sum == 0.0f ? Floats{} : 1.0f / sum;
      for (int64_t d = 0; d < a.head_dim; ++d) {
        float* total = first.output + d * width + u * kLanes;
        store(total, load(total) * inverse);
      }
    }
    for (int64_t lane = 0; lane < width; ++lane) {
      const int64_t row = (item.first_vector + v) * kLanes + lane;
      if (row >= shape.rows) break;
      const RowPlace place = place_of(shape, item.kv_head, row);
      T* target = static_cast<T*>(a.output) +
                  ((item.batch * a.nodes + place.node) * a.query_heads + place.head) * a.head_dim;
      for (int64_t d = 0; d < a.head_dim; d += kLanes) {
        const int64_t count = a.head_dim - d < kLanes ? a.head_dim - d : kLanes;
        for (int64_t i = 0; i < count; ++i) result[i] = first.output[(d + i) * width + lane];
        store_some(target + d, load(result), count);
      }
    }
  }
}

Plan make_plan(const TreeAttention& a, const Shape& shape, int64_t longest) {
  Plan plan{};
  plan.vectors = ceil_div(shape.rows, kLanes);
  const int64_t heads = a.batch * a.kv_heads;
  const int64_t keys = longest + a.tree_rows;
  const int64_t useful = heads * plan.vectors * kLanes * keys * a.head_dim / kWorkPerThread + 1;
  plan.threads = static_cast<int>(useful < a.threads ? useful : a.threads);
  plan.blocks = ceil_div(plan.vectors, kMaxBlockVectors);
  plan.splits = 1;
  plan.block_vectors = ceil_div(plan.vectors, plan.blocks);
  plan.blocks = ceil_div(plan.vectors, plan.block_vectors);
  plan.item_floats = (2 * a.head_dim + 2) * plan.block_vectors * kLanes;
  return plan;
}

template <typename T>
void run(const TreeAttention& a) {
  const Shape shape = shape_of(a);
  int64_t longest = 0;
  for (int64_t b = 0; b < a.batch; ++b) longest = a.lengths[b] > longest ? a.lengths[b] : longest;
  const Plan plan = make_plan(a, shape, longest);
  const int64_t blocks = a.batch * a.kv_heads * plan.blocks;
  const int64_t items = blocks * plan.splits;
  const int64_t scratch_floats = 2 * kKeyBlock * a.head_dim + kKeyBlock * kTileVectors * kLanes;
  thread_local Scratch memory;
  float* states = memory.reserve<float>(items * plan.item_floats + plan.threads * scratch_floats);
  float* scratch = states + items * plan.item_floats;

  const auto item_at = [&](int64_t index) {
    const int64_t split = index % plan.splits;
    const int64_t block = index / plan.splits % plan.blocks;
    const int64_t head = index / plan.splits / plan.blocks;
    Item item{head / a.kv_heads, head % a.kv_heads, block * plan.block_vectors, plan.block_vectors, 0, 0};
    if (item.first_vector + item.vectors > plan.vectors) item.vectors = plan.vectors - item.first_vector;
    const int64_t keys = a.lengths[item.batch] + a.tree_rows;
    const int64_t share = ceil_div(ceil_div(keys, plan.splits), kKeyBlock) * kKeyBlock;
    item.first_key = split * share < keys ? split * share : keys;
    item.last_key = item.first_key + share < keys ? item.first_key + share : keys;
    return item;
  };

#pragma omp parallel num_threads(plan.threads) if (plan.threads > 1)
  {
#ifdef _OPENMP
    float* own = scratch + omp_get_thread_num() * scratch_floats;
#else
    float* own = scratch;
#endif
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < items; ++i) run_item<T>(a, shape, item_at(i), states + i * plan.item_floats, own);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < blocks; ++i) {
      finish<T>(a, shape, item_at(i * plan.splits), plan, states + i * plan.splits * plan.item_floats);
    }
  }
}

}  // namespace

void tree_attention(const TreeAttention& a) {
  with_type(a.dtype, [&](auto type) { run<decltype(type)>(a); });
}

}  // namespace ltd::LTD_ISA
