// Scores of attention in tiles. Included by engine sources only.
#pragma once

#include "attention/products.h"
#include "engine/attention_group.h"
#include "engine/tiles.h"

namespace ltd::LTD_ISA {
namespace {

#if defined(LTD_TILES)
// Tiles of kKeyBlock keys, read where they are, times tiles of a vector of queries. A score depends on nothing but its
// key and its query, as a row of a product does.
struct TileScores : BFloat16Words {
  static_assert(kKeyBlock <= kTileHeight && kLanes == kTilePairs && kTileVectors <= 3);

  static bool fits(int64_t head_dim) { return head_dim % kTileInputs == 0; }

  template <int kVector, int V>
  LTD_INLINE static void add_products(const float* query) {
    load_tile<6 + kVector % 2>(query + kVector * kLanes, V * kLanes * sizeof(float));
    multiply_tiles<kVector, 4, 6 + kVector % 2>();
    if constexpr (kVector + 1 < V) add_products<kVector + 1, V>(query);
  }

  template <int kVector, int V>
  LTD_INLINE static void zero() {
    zero_tile<kVector>();
    if constexpr (kVector + 1 < V) zero<kVector + 1, V>();
  }

  template <int kVector, int V>
  LTD_INLINE static void store_scores(float* scores) {
    store_tile<kVector>(scores + kVector * kLanes, V * kLanes * sizeof(float));
    if constexpr (kVector + 1 < V) store_scores<kVector + 1, V>(scores);
  }

  template <int V>
  static void score(const BFloat16* keys, int64_t stride, int64_t count, int64_t head_dim, const float* query,
                    float* scores) {
    set_tile_height(static_cast<int>(count));
    zero<0, V>();
    for (int64_t d = 0; d < head_dim; d += kTileInputs) {
      load_tile<4>(keys + d, stride * static_cast<int64_t>(sizeof(BFloat16)));
      add_products<0, V>(query + d / kElements * V * kLanes);
    }
    store_scores<0, V>(scores);
  }
};
#endif

}  // namespace
}  // namespace ltd::LTD_ISA
