// The products of rows with one block of packed weights in tiles. Included by engine sources only.
//
// 16 steps of a block are two tiles of weights, which lie in each other: 16 rows, kStepBytes apart. One row of
// activations uses tiles as many do, so that a row's sums have one order.
#pragma once

#include <cstring>

#include "engine/activation_rows.h"
#include "engine/packed_linear.h"
#include "engine/tiles.h"

namespace ltd::LTD_ISA {
namespace {

#if defined(LTD_TILES)

// Steps that stay in the first-level cache while several passes use them.
constexpr int64_t kTileChunkSteps = 160;

// How far a single pass reads ahead in the stream of weights.
constexpr int64_t kTileAheadSteps = 128;

constexpr int64_t kLineBytes = 64;

// One or two tiles of rows times steps of a block.
struct TilePass {
  const BFloat16* rows;
  int64_t row_bytes;
  int height;  // of a tile
  const char* weights;
  int64_t steps;
  float* sums;          // (rows, kBlockOutputs)
  bool first;           // sums start from zero
  const char* ahead;    // fetched into the cache meanwhile,
  int64_t ahead_bytes;  // so much of it with every tile of weights
};

template <int kFirst>
LTD_INLINE void begin_tile_sums(const float* sums, bool first) {
  if (first) {
    zero_tile<kFirst>();
    zero_tile<kFirst + 1>();
  } else {
    load_tile<kFirst>(sums, kBlockOutputs * sizeof(float));
    load_tile<kFirst + 1>(sums + kTilePairs, kBlockOutputs * sizeof(float));
  }
}

template <int kFirst>
LTD_INLINE void end_tile_sums(float* sums) {
  store_tile<kFirst>(sums, kBlockOutputs * sizeof(float));
  store_tile<kFirst + 1>(sums + kTilePairs, kBlockOutputs * sizeof(float));
}

template <int kTiles>
void run_tile_pass(const TilePass& pass) {
  const int64_t second = pass.height;  // the first row of the second tile
  begin_tile_sums<0>(pass.sums, pass.first);
  if constexpr (kTiles == 2) begin_tile_sums<2>(pass.sums + second * kBlockOutputs, pass.first);
  alignas(kLineBytes) char rest[kTilePairs * kStepBytes];
  const char* row = reinterpret_cast<const char*>(pass.rows);
  const char* weights = pass.weights;
  const char* ahead = pass.ahead;
  for (int64_t steps = pass.steps; steps > 0; steps -= kTilePairs) {
    if (steps < kTilePairs) {  // behind the block's last step are others' weights
      std::memcpy(rest, weights, steps * kStepBytes);
      std::memset(rest + steps * kStepBytes, 0, (kTilePairs - steps) * kStepBytes);
      weights = rest;
    }
    load_tile<6>(weights, kStepBytes);
    load_tile<4>(row, pass.row_bytes);
    multiply_tiles<0, 4, 6>();
    load_tile<7>(weights + kTileBytes, kStepBytes);
    multiply_tiles<1, 4, 7>();
    if constexpr (kTiles == 2) {
      load_tile<5>(row + second * pass.row_bytes, pass.row_bytes);
      multiply_tiles<2, 5, 6>();
      multiply_tiles<3, 5, 7>();
    }
    for (int64_t byte = 0; byte < pass.ahead_bytes; byte += kLineBytes) __builtin_prefetch(ahead + byte, 0, 2);
    row += kTileInputs * sizeof(BFloat16);
    weights += kTilePairs * kStepBytes;
    ahead += pass.ahead_bytes;
  }
  end_tile_sums<0>(pass.sums);
  if constexpr (kTiles == 2) end_tile_sums<2>(pass.sums + second * kBlockOutputs);
}

struct BFloat16Product {
  using Element = BFloat16;
  using Activation = BFloat16;
  static constexpr int64_t kInputs = 2;
  static constexpr int64_t kInputsRead = kTileInputs;

  static void run_block(ActivationRows<BFloat16> x, int64_t first_row, int64_t count, const PackedLinear& linear,
                        int64_t block, float* sums) {
    const int64_t tiles = ceil_div(count, kTileHeight);
    const int64_t passes = ceil_div(tiles, 2);
    const int64_t height = ceil_div(count, tiles);
    set_tile_height(static_cast<int>(height));
    const char* const weights = linear.blocks + block * linear.steps * kStepBytes;
    // Several passes take turns in fetching the next block. What is ahead may lie behind the last: fetching it is
    // harmless.
    const int64_t chunk_steps = passes == 1 ? linear.steps : kTileChunkSteps;
    const int64_t ahead_steps = passes == 1 ? kTileAheadSteps : linear.steps;
    const int64_t ahead_bytes = ceil_div(kTilePairs * kStepBytes / kLineBytes, passes) * kLineBytes;
    for (int64_t step = 0; step < linear.steps; step += chunk_steps) {
      const int64_t steps = at_most(linear.steps - step, chunk_steps);
      for (int64_t p = 0; p < passes; ++p) {
        const int64_t row = 2 * p * height;
        const char* const ahead =
            weights + (ahead_steps + step) * kStepBytes + p * ceil_div(steps, kTilePairs) * ahead_bytes;
        const TilePass pass{x[first_row + row] + step * kInputs,
                            x.stride * static_cast<int64_t>(sizeof(BFloat16)),
                            static_cast<int>(height),
                            weights + step * kStepBytes,
                            steps,
                            sums + row * kBlockOutputs,
                            step == 0,
                            ahead,
                            ahead_bytes};
        2 * p + 1 < tiles ? run_tile_pass<2>(pass) : run_tile_pass<1>(pass);
      }
    }
  }
};

#endif

}  // namespace
}  // namespace ltd::LTD_ISA
