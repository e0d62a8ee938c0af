// The products of rows of activations with one block of packed weights. Included by engine sources only.
#pragma once

#include <array>
#include <cstring>
#include <utility>

#include "common/vector.h"
#include "engine/activation_rows.h"
#include "engine/packed_linear.h"
#include "engine/tile_block.h"

namespace ltd::LTD_ISA {
namespace {

// Register block: up to kProductRows rows times some vectors of outputs.
#if defined(__AVX512F__)
constexpr int kProductRows = 12;
#else
constexpr int kProductRows = 6;
#endif

// Few rows take more vectors, as a sum's next term waits for the one before. Three rows of four vectors leave no
// register for unpacking; the compiler would spill.
constexpr int product_vectors(int rows, int terms) {
  constexpr int kAll = kBlockOutputs / kLanes;
  if (rows == 1) return static_cast<int>(at_most(kAll, 8));
  return static_cast<int>(at_most(kAll, rows <= (terms == 1 ? 3 : 2) ? 4 : 2));
}

// Rows whose sums wait in the second-level cache, and steps of a block that stay in the first while all their tiles use
// them.
constexpr int64_t kGroupRows = 21 * kProductRows;
constexpr int64_t kGroupSums = (kGroupRows + kSpareRows) * kBlockOutputs;
constexpr int64_t kChunkSteps = 128;

// How far a single tile's rows read ahead in the stream of weights: so near that they come into the first-level cache.
constexpr int64_t kAheadSteps = 64;

// How elements are multiplied. Element: of the model; Activation: how rows are kept; kInputs: inputs of a step;
// kInputsRead: rows are read in so many inputs at a time, and what is behind the last must be zeros; kTerms: terms that
// a step adds to a sum, one after the other; kOutputBytes: how far the weights of two outputs are apart. weights(step,
// term): a vector of them, where `step` is a step's place for the vector's first output.
struct FloatProduct {
  using Element = float;
  using Activation = float;
  static constexpr int64_t kInputs = 1;
  static constexpr int64_t kInputsRead = 1;
  static constexpr int kTerms = 1;
  static constexpr int64_t kOutputBytes = 4;

  LTD_INLINE static Floats weights(const char* step, int) { return load_raw<Floats>(step); }
  LTD_INLINE static Floats multiply_add(Floats sum, const Activation* row, int, Floats weights) {
    return sum + splat(row[0]) * weights;
  }
};

// Of 16-bit elements that are turned into floats in registers, by every tile anew: that hides behind the
// multiplications.
struct UnpackedProduct {
  using Activation = float;
  static constexpr int64_t kInputs = 2;
  static constexpr int64_t kInputsRead = 2;
  static constexpr int kTerms = 2;

  LTD_INLINE static Floats multiply_add(Floats sum, const Activation* row, int term, Floats weights) {
    return sum + splat(row[term]) * weights;
  }
};

#if defined(LTD_TILES)
// BFloat16Product is that of tile_block.h.
#elif defined(__AVX512BF16__)
// Two multiply-adds in one instruction.
struct BFloat16Product {
  using Element = BFloat16;
  using Activation = BFloat16;
  static constexpr int64_t kInputs = 2;
  static constexpr int64_t kInputsRead = 2;
  static constexpr int kTerms = 1;
  static constexpr int64_t kOutputBytes = 4;

  LTD_INLINE static Floats weights(const char* step, int) { return load_raw<Floats>(step); }
  LTD_INLINE static Floats multiply_add(Floats sum, const Activation* row, int, Floats weights) {
    int pair;
    std::memcpy(&pair, row, sizeof pair);
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)weights);
  }
};
#else
struct BFloat16Product : UnpackedProduct {
  using Element = BFloat16;
  static constexpr int64_t kOutputBytes = 4;

  LTD_INLINE static Floats weights(const char* step, int term) {
    const Words pairs = load_raw<Words>(step);
    return (Floats)(term == 0 ? pairs << 16 : pairs & 0xffff0000u);
  }
};
#endif

struct Float16Product : UnpackedProduct {
  using Element = Float16;
  static constexpr int64_t kOutputBytes = 2;

  LTD_INLINE static Floats weights(const char* step, int term) {
    return load(reinterpret_cast<const Float16*>(step) + term * kBlockOutputs);
  }
};

// Calls function(how elements of the type are multiplied).
template <typename Function>
LTD_INLINE void with_product(DType dtype, Function&& function) {
  switch (dtype) {
    case DType::kFloat32:
      return function(FloatProduct{});
    case DType::kFloat16:
      return function(Float16Product{});
    case DType::kBFloat16:
      return function(BFloat16Product{});
  }
}

// One tile of a product.
template <typename Kind>
struct Tile {
  const typename Kind::Activation* rows;
  int64_t row_stride;
  const char* weights;  // a block from some step on
  int64_t steps;
  float* sums;          // (rows, kBlockOutputs)
  bool first;           // sums start from zero
  const char* ahead;    // fetched into the cache meanwhile,
  int64_t ahead_bytes;  // so much of it with every step
};

template <typename Kind, int M>
void run_tile(const Tile<Kind>& tile) {
  constexpr int V = product_vectors(M, Kind::kTerms);
  constexpr int kPasses = kBlockOutputs / (V * kLanes);
  const int64_t ahead_bytes = tile.ahead_bytes / kPasses;
  const char* ahead = tile.ahead;
  for (int64_t column = 0; column < kBlockOutputs; column += V * kLanes) {
    Floats sums[M][V];
    for (int m = 0; m < M; ++m) {
      for (int v = 0; v < V; ++v) {
        sums[m][v] = tile.first ? Floats{} : load(tile.sums + m * kBlockOutputs + column + v * kLanes);
      }
    }
    const char* step = tile.weights + column * Kind::kOutputBytes;
    const typename Kind::Activation* row = tile.rows;
    for (int64_t s = 0; s < tile.steps; ++s) {
      __builtin_prefetch(ahead);
      if constexpr (kPasses == 1) __builtin_prefetch(ahead + kStepBytes / 2);
      for (int term = 0; term < Kind::kTerms; ++term) {
        Floats weights[V];
        for (int v = 0; v < V; ++v) weights[v] = Kind::weights(step + v * kLanes * Kind::kOutputBytes, term);
        for (int m = 0; m < M; ++m) {
          const typename Kind::Activation* const inputs = row + m * tile.row_stride;
          for (int v = 0; v < V; ++v) sums[m][v] = Kind::multiply_add(sums[m][v], inputs, term, weights[v]);
        }
      }
      step += kStepBytes;
      ahead += ahead_bytes;
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

// The sums of one block for `count` rows from `first_row` on; behind them is memory for kSpareRows more.
template <typename Kind>
void run_block(ActivationRows<typename Kind::Activation> x, int64_t first_row, int64_t count,
               const PackedLinear& linear, int64_t block, float* sums) {
  if constexpr (requires { &Kind::run_block; }) {
    return Kind::run_block(x, first_row, count, linear, block, sums);
  } else {
    static constexpr auto kTiles = tile_table<Kind>(std::make_integer_sequence<int, kProductRows>());
    const int64_t tiles = ceil_div(count, kProductRows);
    const char* const weights = linear.blocks + block * linear.steps * kStepBytes;
    // Several tiles take turns in fetching the next chunk. What is ahead may lie behind the last block: fetching it is
    // harmless.
    const int64_t ahead_steps = tiles == 1 ? kAheadSteps : kChunkSteps;
    const int64_t ahead_bytes = kStepBytes / tiles;
    for (int64_t step = 0; step < linear.steps; step += kChunkSteps) {
      const int64_t steps = at_most(linear.steps - step, kChunkSteps);
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t row = count * t / tiles;
        const char* const ahead = weights + (ahead_steps + step) * kStepBytes + t * steps * ahead_bytes;
        kTiles[count * (t + 1) / tiles - row - 1]({x[first_row + row] + step * Kind::kInputs, x.stride,
                                                   weights + step * kStepBytes, steps, sums + row * kBlockOutputs,
                                                   step == 0, ahead, ahead_bytes});
      }
    }
  }
}

}  // namespace
}  // namespace ltd::LTD_ISA
