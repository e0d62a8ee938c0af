// The tiles of a processor's matrix unit (Intel AMX), and a twin of them in plain C++ with which tests run anywhere.
// Included by engine sources only.
//
// A tile has up to 16 rows of 64 bytes. Here tiles 0 to 3 hold sums (16 floats a row) and 4 and 5 activations (32
// bfloat16 a row), all of one height; 6 and 7 hold weights: 16 pairs of inputs, each for 16 outputs.
//
// A row of a product depends on its own row of activations and on the weights alone: the products of the 16 even inputs
// are added up, one after the other, those of the odd ones apart, then both, and that is added to the sum. Each step is
// rounded to nearest; what is too small for a normal float counts as 0, of operands as of results.
#pragma once

#include <cstring>

#include "common/types.h"

#if defined(__AMX_BF16__) || defined(LTD_EMULATED_TILES)
#define LTD_TILES
#endif

namespace ltd::LTD_ISA {
namespace {

#if defined(LTD_TILES)

constexpr int kTileHeight = 16;     // the largest
constexpr int64_t kTileBytes = 64;  // of a row
constexpr int64_t kTilePairs = 16;
constexpr int64_t kTileInputs = 2 * kTilePairs;

#if defined(LTD_EMULATED_TILES)

struct EmulatedTiles {
  int height = 0;  // 0: not in use
  char rows[8][kTileHeight][kTileBytes];

  int height_of(int tile) const { return tile < 6 ? height : kTileHeight; }
};

inline EmulatedTiles& tiles() {
  thread_local EmulatedTiles mine;
  return mine;
}

inline void set_tile_height(int height) { tiles().height = height; }

inline void release_tiles() { tiles().height = 0; }

template <int kTile>
void zero_tile() {
  std::memset(tiles().rows[kTile], 0, sizeof tiles().rows[kTile]);
}

template <int kTile>
void load_tile(const void* source, int64_t stride) {
  for (int r = 0; r < tiles().height_of(kTile); ++r) {
    std::memcpy(tiles().rows[kTile][r], static_cast<const char*>(source) + r * stride, kTileBytes);
  }
}

template <int kTile>
void store_tile(void* target, int64_t stride) {
  for (int r = 0; r < tiles().height_of(kTile); ++r) {
    std::memcpy(static_cast<char*>(target) + r * stride, tiles().rows[kTile][r], kTileBytes);
  }
}

inline float normal_or_zero(float value) { return __builtin_fabsf(value) < 0x1p-126f ? value * 0.0f : value; }

inline float tile_element(const char* row, int64_t index) {
  uint16_t bits;
  std::memcpy(&bits, row + index * sizeof bits, sizeof bits);
  const uint32_t word = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &word, sizeof value);
  return normal_or_zero(value);
}

template <int kSums, int kRows, int kWeights>
void multiply_tiles() {
  EmulatedTiles& t = tiles();
  for (int r = 0; r < t.height; ++r) {
    float sums[kTileBytes / sizeof(float)];
    std::memcpy(sums, t.rows[kSums][r], sizeof sums);
    for (int64_t n = 0; n < kTilePairs; ++n) {
      float parts[2] = {};
      for (int64_t k = 0; k < kTilePairs; ++k) {
        for (int64_t odd = 0; odd < 2; ++odd) {
          parts[odd] = normal_or_zero(__builtin_fmaf(tile_element(t.rows[kRows][r], 2 * k + odd),
                                                     tile_element(t.rows[kWeights][k], 2 * n + odd), parts[odd]));
        }
      }
      sums[n] = normal_or_zero(normal_or_zero(sums[n]) + normal_or_zero(parts[0] + parts[1]));
    }
    std::memcpy(t.rows[kSums][r], sums, sizeof sums);
  }
}

#else

// Not the compiler's intrinsics: those of GCC do not say that they read and write memory.
template <int kTile>
LTD_INLINE void zero_tile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}

template <int kTile>
LTD_INLINE void load_tile(const void* source, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(source), "r"(stride), "i"(kTile) : "memory");
}

template <int kTile>
LTD_INLINE void store_tile(void* target, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(target), "r"(stride), "i"(kTile) : "memory");
}

template <int kSums, int kRows, int kWeights>
LTD_INLINE void multiply_tiles() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kRows), "i"(kWeights));
}

inline int& tile_height() {
  thread_local int height = 0;  // 0: not in use
  return height;
}

// Of this thread's tiles for sums and activations; their content is lost if it changes.
inline void set_tile_height(int height) {
  if (tile_height() == height) return;
  struct {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  } shape;
  for (int tile = 0; tile < 8; ++tile) {
    shape.row_bytes[tile] = kTileBytes;
    shape.rows[tile] = static_cast<uint8_t>(tile < 6 ? height : kTileHeight);
  }
  asm volatile("ldtilecfg %0" ::"m"(shape));
  tile_height() = height;
}

// The operating system saves the tiles of a thread that has not released them whenever another one has its turn.
inline void release_tiles() {
  if (tile_height() != 0) asm volatile("tilerelease");
  tile_height() = 0;
}

#endif

#endif

// While it lives its thread may multiply; afterwards the thread's tiles, if there are any, are free.
class UsesTiles {
 public:
  UsesTiles() {}
  UsesTiles(const UsesTiles&) = delete;
  UsesTiles& operator=(const UsesTiles&) = delete;
  ~UsesTiles() {
#if defined(LTD_TILES)
    release_tiles();
#endif
  }
};

}  // namespace
}  // namespace ltd::LTD_ISA
