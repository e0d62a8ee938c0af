// Rows of logits in tiles: a block of kTileThreads threads reads kTile logits at a time. Long rows are split among
// blocks.
#pragma once

#include "common/device.cuh"

namespace ltd::cuda {

inline constexpr int kTileThreads = 256;
inline constexpr int kTileWarps = kTileThreads / kWarp;
inline constexpr int kThreadLogits = 16;
inline constexpr int kTile = kTileThreads * kThreadLogits;

// As many as a warp has lanes, each of which takes the results of one split.
inline constexpr int kMaxSplits = kWarp;

// A row is split into `count` parts of `size` logits, whole tiles; the last may be shorter.
struct Splits {
  int64_t size;
  int count;
};

inline Splits split_row(int64_t vocabulary) {
  const int64_t size = ceil_div(ceil_div(vocabulary, kTile), kMaxSplits) * kTile;
  return {size, static_cast<int>(ceil_div(vocabulary, size))};
}

// Logits of type T that are read in one go.
template <typename T>
inline constexpr int kLogitPack = 16 / sizeof(T);

// The place in its row of this thread's i-th logit of the tile from `start` on; it rises with i.
template <typename T>
__device__ inline int64_t logit_id(int64_t start, int i) {
  constexpr int kPack = kLogitPack<T>;
  return start + (i / kPack * kTileThreads + static_cast<int>(threadIdx.x)) * kPack + i % kPack;
}

// This thread's logits of a tile; behind the end of the row they are -inf.
template <typename T>
__device__ inline void load_tile(Pointer<const T> row, int64_t vocabulary, int64_t start,
                                 float (&logits)[kThreadLogits]) {
  constexpr int kPack = kLogitPack<T>;
  const bool aligned = is_aligned(row, 16);
  Pack<T, kPack> packs[kThreadLogits / kPack];
#pragma unroll
  for (int p = 0; p < kThreadLogits / kPack; ++p) {
    const int64_t first = logit_id<T>(start, p * kPack);
    if (aligned && first + kPack <= vocabulary) {
      packs[p] = load_pack<kPack>(row + first);
    } else {
#pragma unroll
      for (int i = 0; i < kPack; ++i) packs[p][i] = first + i < vocabulary ? row[first + i] : from_float<T>(-kInfinity);
    }
  }
#pragma unroll
  for (int i = 0; i < kThreadLogits; ++i) logits[i] = to_float(packs[i / kPack][i % kPack]);
}

}  // namespace ltd::cuda
