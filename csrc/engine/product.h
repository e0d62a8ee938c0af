// The products of the engine: rows of activations with packed weights. Included by engine sources only.
//
// Every element of the result is one chain of multiply-adds over the inputs, first to last, whatever the tile it was
// computed in.
#pragma once

#include <array>
#include <utility>

#include "common/team.h"
#include "common/vector.h"
#include "engine/packed_linear.h"
#include "engine/rows.h"

namespace ltd::LTD_ISA {
namespace {

// Register block: up to kProductRows rows times kProductVectors vectors of outputs.
#if defined(__AVX512F__)
constexpr int kProductRows = 12;
#else
constexpr int kProductRows = 4;
#endif
constexpr int kProductVectors = 2;

// Rows whose sums wait in the second-level cache, and steps of a block that stay in the first while all their tiles use
// them.
constexpr int64_t kGroupRows = 21 * kProductRows;
constexpr int64_t kGroupSums = kGroupRows * kBlockOutputs;
constexpr int64_t kChunkSteps = 1024;

// How far a single tile's rows read ahead in the stream of weights: so near that they come into the first-level cache.
constexpr int64_t kAheadSteps = 64;

// Multiply-adds below which a further thread costs more than it saves.
constexpr int64_t kWorkOfThread = 1 << 16;

LTD_INLINE int useful_threads(int64_t work, int threads) {
  return static_cast<int>(at_most(work / kWorkOfThread + 1, threads));
}

// How elements are multiplied. Element: of the model; Activation: how rows are kept; kInputs: inputs of a step.
struct FloatProduct {
  using Element = float;
  using Activation = float;
  static constexpr int64_t kInputs = 1;
  using Weights = Floats;

  LTD_INLINE static Weights weights(const char* step) { return load_raw<Floats>(step); }
  LTD_INLINE static Floats multiply_add(Floats sum, const Activation* row, Weights weights) {
    return sum + splat(row[0]) * weights;
  }
};

#if defined(__AVX512BF16__)
// Two multiply-adds in one instruction. (AMX, where there is some, would be one more such struct, with tiles for
// vectors.)
struct BFloat16Product {
  using Element = BFloat16;
  using Activation = BFloat16;
  static constexpr int64_t kInputs = 2;
  using Weights = Floats;

  LTD_INLINE static Weights weights(const char* step) { return load_raw<Floats>(step); }
  LTD_INLINE static Floats multiply_add(Floats sum, const Activation* row, Weights weights) {
    int pair;
    std::memcpy(&pair, row, sizeof pair);
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)weights);
  }
};
#else
struct BFloat16Product {
  using Element = BFloat16;
  using Activation = float;
  static constexpr int64_t kInputs = 2;
  struct Weights {
    Floats even, odd;
  };

  LTD_INLINE static Weights weights(const char* step) {
    const Words pairs = load_raw<Words>(step);
    return {(Floats)(pairs << 16), (Floats)(pairs & 0xffff0000u)};
  }
  LTD_INLINE static Floats multiply_add(Floats sum, const Activation* row, Weights weights) {
    sum = sum + splat(row[0]) * weights.even;
    return sum + splat(row[1]) * weights.odd;
  }
};
#endif

// One tile of a product.
template <typename Kind>
struct Tile {
  const typename Kind::Activation* rows;
  int64_t row_stride;
  const char* weights;  // a block from some step on
  int64_t steps;
  float* sums;        // (rows, kBlockOutputs)
  bool first;         // sums start from zero
  const char* ahead;  // fetched into the cache meanwhile
  int64_t ahead_step;
};

template <typename Kind, int M>
void run_tile(const Tile<Kind>& tile) {
  constexpr int V = kProductVectors;
  for (int64_t column = 0; column < kBlockOutputs; column += V * kLanes) {
    Floats sums[M][V];
    for (int m = 0; m < M; ++m) {
      for (int v = 0; v < V; ++v) {
        sums[m][v] = tile.first ? Floats{} : load(tile.sums + m * kBlockOutputs + column + v * kLanes);
      }
    }
    const char* step = tile.weights + column * 4;
    const char* ahead = tile.ahead;
    const typename Kind::Activation* row = tile.rows;
    for (int64_t s = 0; s < tile.steps; ++s) {
      __builtin_prefetch(ahead);
      __builtin_prefetch(ahead + 64);
      typename Kind::Weights weights[V];
      for (int v = 0; v < V; ++v) weights[v] = Kind::weights(step + v * kLanes * 4);
      for (int m = 0; m < M; ++m) {
        for (int v = 0; v < V; ++v) sums[m][v] = Kind::multiply_add(sums[m][v], row + m * tile.row_stride, weights[v]);
      }
      step += kStepBytes;
      ahead += tile.ahead_step;
      row += Kind::kInputs;
    }
    for (int m = 0; m < M; ++m) {
      for (int v = 0; v < V; ++v) store(tile.sums + m * kBlockOutputs + column + v * kLanes, sums[m][v]);
    }
  }
}

template <typename Kind, int... kRows>
constexpr auto tile_table(std::integer_sequence<int, kRows...>) {
  return std::array{&run_tile<Kind, kRows + 1>...};
}

// Rows of activations; behind an odd last input stands a zero.
template <typename Activation>
struct ActivationRows {
  Activation* data;
  int64_t stride;

  LTD_INLINE Activation* operator[](int64_t row) const { return data + row * stride; }
};

// Rows apart by an odd number of cache lines: they would fall on each other in the cache if apart by a large power of
// two.
template <typename Activation>
LTD_INLINE int64_t activation_stride(int64_t size) {
  constexpr int64_t kLine = 64 / sizeof(Activation);
  return ((size + 1 + kLine - 1) / kLine | 1) * kLine;
}

// The sums of one block for `count` rows from `first_row` on.
template <typename Kind>
void run_block(ActivationRows<typename Kind::Activation> x, int64_t first_row, int64_t count,
               const PackedLinear& linear, int64_t block, float* sums) {
  static constexpr auto kTiles = tile_table<Kind>(std::make_integer_sequence<int, kProductRows>());
  const int64_t tiles = ceil_div(count, kProductRows);
  const char* const weights = linear.blocks + block * linear.steps * kStepBytes;
  // Several tiles take turns in fetching the next block. What is ahead may lie behind the last: fetching it is
  // harmless.
  const int64_t ahead_steps = tiles == 1 ? kAheadSteps : linear.steps;
  const int64_t ahead_step = kStepBytes / tiles;
  for (int64_t step = 0; step < linear.steps; step += kChunkSteps) {
    const int64_t steps = at_most(linear.steps - step, kChunkSteps);
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t row = count * t / tiles;
      const char* ahead = weights + (ahead_steps + step) * kStepBytes + t * steps * ahead_step;
      kTiles[count * (t + 1) / tiles - row - 1]({x[first_row + row] + step * Kind::kInputs, x.stride,
                                                 weights + step * kStepBytes, steps, sums + row * kBlockOutputs,
                                                 step == 0, ahead, ahead_step});
    }
  }
}

// Part of a product: blocks of outputs for some rows.
struct ProductItem {
  int64_t first_block;
  int64_t last_block;
  int64_t first_row;
  int64_t rows;
};

// How the work of a product is divided: so many blocks of outputs together, for the rows in so many groups.
struct ProductItems {
  int64_t rows;
  int64_t blocks;
  int64_t span;
  int64_t groups;
  int64_t count;

  ProductItems(int64_t rows, const PackedLinear& linear, int64_t threads, int64_t span = 1)
      : rows(rows), blocks(packed_blocks(linear.outputs)), span(span), groups(ceil_div(rows, kGroupRows)) {
    const int64_t spans = ceil_div(blocks, span);
    while (groups * spans < 2 * threads && groups * kProductRows < rows) ++groups;
    count = spans * groups;
  }

  ProductItem operator[](int64_t item) const {
    const int64_t block = item / groups * span;
    const int64_t row = rows * (item % groups) / groups;
    return {block, at_most(block + span, blocks), row, rows * (item % groups + 1) / groups - row};
  }
};

// Computes an item of x * weight, with memory for kGroupSums sums; finish(row, first output, its 32 sums) takes each
// result.
template <typename Kind, typename Finish>
void multiply(const ProductItem& item, ActivationRows<typename Kind::Activation> x, const PackedLinear& linear,
              float* sums, Finish&& finish) {
  for (int64_t block = item.first_block; block < item.last_block; ++block) {
    run_block<Kind>(x, item.first_row, item.rows, linear, block, sums);
    for (int64_t r = 0; r < item.rows; ++r) {
      finish(item.first_row + r, block * kBlockOutputs, sums + r * kBlockOutputs);
    }
  }
}

// A linear layer's output before it is rounded: sums plus bias, for the outputs `first` + i ... of which some may be
// missing.
template <typename Element>
LTD_INLINE Floats output_part(const PackedLinear& linear, const float* sums, int64_t first, int64_t i) {
  const Floats values = load(sums + i);
  if (linear.bias == nullptr) return values;
  return values + load_part(static_cast<const Element*>(linear.bias) + first + i, linear.outputs - first - i);
}

// Calls body(i, how many outputs from `first` + i on exist) for the vectors of a block.
template <typename Body>
LTD_INLINE void for_outputs(const PackedLinear& linear, int64_t first, Body&& body) {
  const int64_t count = at_most(linear.outputs - first, kBlockOutputs);
  for (int64_t i = 0; i < count; i += kLanes) body(i, count - i);
}

// An item of result = linear(x), rounded; rows of the result are `linear.outputs` apart.
template <typename Kind>
void store_product(const ProductItem& item, ActivationRows<typename Kind::Activation> x, const PackedLinear& linear,
                   float* sums, typename Kind::Element* result) {
  using Element = typename Kind::Element;
  multiply<Kind>(item, x, linear, sums, [&](int64_t row, int64_t output, const float* sums) {
    for_outputs(linear, output, [&](int64_t i, int64_t count) {
      store_part(result + row * linear.outputs + output + i, output_part<Element>(linear, sums, output, i), count);
    });
  });
}

}  // namespace
}  // namespace ltd::LTD_ISA
