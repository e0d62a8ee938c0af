// Weighted values of attention in tiles. Included by engine sources only.
//
// A row's sum takes the keys that it sees kKeysTogether at a time, counted from the sequence's first token: keys of a
// tree that a row sees are counted as they will stand in the cache. So all rows share the keys of a chain, or those in
// whole blocks before a tree: hidden ones among them weigh 0, and add an exact zero, unless their values are infinite
// or NaN: such a block is computed for every node by itself, without what the node does not see. The last keys before a
// tree and the ancestors behind them are gathered for every node. Weights are rounded to bfloat16, and so are summed.
#pragma once

#include <cstring>
#include <type_traits>

#include "attention/products.h"
#include "common/vector.h"
#include "engine/attention_group.h"
#include "engine/tiles.h"

namespace ltd::LTD_ISA {
namespace {

#if defined(LTD_TILES)
struct TileValues {
  template <typename Kind>
  static void mix(const AttentionTask<Kind>& task, const AttentionGroup& group, const AttentionScratch& scratch,
                  const float* sums) {
    const ForwardStack& a = task.a;
    const int64_t length = a.lengths[group.batch];
    const bool is_chain = a.masks.data == nullptr;
    const int64_t blocks = is_chain ? ceil_div(group.last_key - group.first_key, kKeysTogether)
                                    : (length - group.first_key) / kKeysTogether;
    std::memset(scratch.mixed, 0, group.rows * a.head_dim * sizeof(float));
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t first = block;
      while (block < blocks && can_share(task, group, block)) ++block;
      mix_shared(task, group, scratch, first, block);
      if (block < blocks) mix_alone(task, group, scratch, group.first_key + block * kKeysTogether);
    }
    if (!is_chain) mix_rest(task, group, scratch, group.first_key + blocks * kKeysTogether);
    finish(task, group, scratch.mixed, sums);
  }

 private:
  static constexpr int64_t kMostTiles = 4;  // of sums: each has kTilePairs elements of up to kTileHeight rows
  static constexpr int64_t kNoKey = -1;

  // Writes the pairs that a tile's rows of values are: elements of two keys' values side by side, 0 behind the last of
  // `count` keys. value(i) is where those of key i stand, or null if they are left out: 0.
  template <typename Value>
  LTD_INLINE static void pair_values(int64_t count, int64_t head_dim, uint32_t* pairs, Value&& value) {
    for (int64_t key = 0; key < kKeysTogether; key += 2) {
      const BFloat16* const even = key < count ? value(key) : nullptr;
      const BFloat16* const odd = key + 1 < count ? value(key + 1) : nullptr;
      for (int64_t d = 0; d < head_dim; d += kLanes) {
        const Words low = even != nullptr ? (Words)load(even + d) >> 16 : Words{};
        const Words both = odd != nullptr ? low | (Words)load(odd + d) : low;
        std::memcpy(pairs + d, &both, sizeof both);
      }
      pairs += head_dim;
    }
  }

  // Turns the weights of a block of keys in place into a tile: in the memory of its first kTileHeight keys then stand
  // rows of attention, each with pairs of weights.
  LTD_INLINE static void pair_weights(float* weights, int64_t width) {
    static_assert(kLanes == kTileHeight && kLanes == kTilePairs);
    Floats rows[kLanes];
    for (int pair = 0; pair < kLanes; ++pair) {
      const Words low = (Words)load(weights + 2 * pair * width) >> 16;
      rows[pair] = (Floats)(low | (Words)load(weights + (2 * pair + 1) * width));
    }
    transpose(rows);
    for (int r = 0; r < kLanes; ++r) store(weights + r * width, rows[r]);
  }

  // Calls body(std::integral_constant<tiles>, first element) for the parts of a head whose sums fit into the tiles.
  template <typename Body>
  LTD_INLINE static void in_parts(int64_t head_dim, Body&& body) {
    int64_t element = 0;
    for (; element + kMostTiles * kTilePairs <= head_dim; element += kMostTiles * kTilePairs) {
      body(std::integral_constant<int, kMostTiles>{}, element);
    }
    if (element < head_dim) body(std::integral_constant<int, kMostTiles / 2>{}, element);
  }

  template <int kTile, int kTiles>
  LTD_INLINE static void load_sums(const float* sums, int64_t stride) {
    load_tile<kTile>(sums + kTile * kTilePairs, stride);
    if constexpr (kTile + 1 < kTiles) load_sums<kTile + 1, kTiles>(sums, stride);
  }

  template <int kTile, int kTiles>
  LTD_INLINE static void store_sums(float* sums, int64_t stride) {
    store_tile<kTile>(sums + kTile * kTilePairs, stride);
    if constexpr (kTile + 1 < kTiles) store_sums<kTile + 1, kTiles>(sums, stride);
  }

  // Adds the products of the weights in tile 4.
  template <int kTile, int kTiles>
  LTD_INLINE static void add_values(const uint32_t* pairs, int64_t stride) {
    load_tile<6 + kTile % 2>(pairs + kTile * kTilePairs, stride);
    multiply_tiles<kTile, 4, 6 + kTile % 2>();
    if constexpr (kTile + 1 < kTiles) add_values<kTile + 1, kTiles>(pairs, stride);
  }

  // Whether a block of the group's keys adds nothing to the sums of rows that do not see it.
  template <typename Kind>
  static bool can_share(const AttentionTask<Kind>& task, const AttentionGroup& group, int64_t block) {
    const int64_t first = group.first_key + block * kKeysTogether;
    if (group.first_common <= first && first + kKeysTogether <= group.last_common) return true;
    const BFloat16* const values = task.cache_row(task.a.values, group.batch, group.kv_head, first);
    const int64_t count = at_most(group.last_key - first, kKeysTogether);
    return are_finite(values, task.a.cache_strides[3], count, task.a.head_dim);
  }

  // Adds blocks first_block ... behind - 1 of the group's keys, which all rows share.
  template <typename Kind>
  static void mix_shared(const AttentionTask<Kind>& task, const AttentionGroup& group, const AttentionScratch& scratch,
                         int64_t first_block, int64_t behind) {
    const int64_t size = task.a.head_dim;
    const int64_t width = group.vectors * kLanes;
    const int64_t block_weights = kKeysTogether * width;
    const int64_t block_values = kTilePairs * size;
    const int64_t row_bytes = size * sizeof(float);
    if (first_block == behind) return;
    for (int64_t key = group.last_key - group.first_key; key < behind * kKeysTogether; ++key) {
      std::memset(scratch.scores + key * width, 0, width * sizeof(float));
    }
    for (int64_t block = first_block; block < behind; ++block) {
      const int64_t first = group.first_key + block * kKeysTogether;
      pair_values(group.last_key - first, size, scratch.values + block * block_values,
                  [&](int64_t key) { return task.cache_row(task.a.values, group.batch, group.kv_head, first + key); });
      for (int64_t v = 0; v < group.vectors; ++v) {
        pair_weights(scratch.scores + block * block_weights + v * kLanes, width);
      }
    }
    for (int64_t row = 0; row < group.rows; row += kLanes) {
      set_tile_height(static_cast<int>(at_most(group.rows - row, kLanes)));
      in_parts(size, [&](auto tiles, int64_t element) {
        float* const sums = scratch.mixed + row * size + element;
        load_sums<0, tiles>(sums, row_bytes);
        for (int64_t block = first_block; block < behind; ++block) {
          load_tile<4>(scratch.scores + block * block_weights + row, width * sizeof(float));
          add_values<0, tiles>(scratch.values + block * block_values + element, row_bytes);
        }
        store_sums<0, tiles>(sums, row_bytes);
      });
    }
  }

  // Calls body(node, row, rows) for the rows of each node, kTileHeight at most, to which the tiles' height is set.
  template <typename Kind, typename Body>
  LTD_INLINE static void for_nodes(const AttentionTask<Kind>& task, const AttentionGroup& group, Body&& body) {
    for (int64_t row = 0; row < group.rows;) {
      const int64_t node = (group.first_row + row) / task.group_heads();
      const int64_t behind_node = (node + 1) * task.group_heads() - group.first_row;
      const int64_t rows = at_most(at_most(group.rows, behind_node) - row, kTileHeight);
      set_tile_height(static_cast<int>(rows));
      body(node, row, rows);
      row += rows;
    }
  }

  // Adds the block of keys from `first` on, of a chain or before a tree, without those that a node does not see.
  template <typename Kind>
  static void mix_alone(const AttentionTask<Kind>& task, const AttentionGroup& group, const AttentionScratch& scratch,
                        int64_t first) {
    for_nodes(task, group, [&](int64_t node, int64_t row, int64_t rows) {
      int64_t keys[kKeysTogether];
      for (int64_t i = 0; i < kKeysTogether; ++i) {
        const int64_t key = first + i;
        const bool is_behind = key > task.a.lengths[group.batch] + node;
        keys[i] = !is_behind && task.reaches(group.batch, node, key) ? key : kNoKey;
      }
      add_keys(task, group, scratch, row, rows, keys, kKeysTogether);
    });
  }

  // Adds what each node sees from key `first` on: the rest of what is before the tree, and its ancestors.
  template <typename Kind>
  static void mix_rest(const AttentionTask<Kind>& task, const AttentionGroup& group, const AttentionScratch& scratch,
                       int64_t first) {
    const ForwardStack& a = task.a;
    const int64_t length = a.lengths[group.batch];
    for_nodes(task, group, [&](int64_t node, int64_t row, int64_t rows) {
      int64_t keys[kKeysTogether];
      int64_t count = 0;
      const auto take = [&](int64_t key) {
        keys[count++] = task.reaches(group.batch, node, key) ? key : kNoKey;
        if (count < kKeysTogether) return;
        add_keys(task, group, scratch, row, rows, keys, count);
        count = 0;
      };
      for (int64_t key = first; key < length; ++key) take(key);
      const Pointer<const int64_t> mask = a.masks.at(group.batch, node);
      for (int64_t place = 0; place < a.first_row + a.nodes; place += 64) {
        const int64_t left = a.first_row + a.nodes - place;
        uint64_t seen = static_cast<uint64_t>(mask[place / 64]);
        if (left < 64) seen &= (uint64_t{1} << left) - 1;
        for (; seen != 0; seen &= seen - 1) take(length + place + __builtin_ctzll(seen));
      }
      if (count > 0) add_keys(task, group, scratch, row, rows, keys, count);
    });
  }

  // Adds the values of up to kKeysTogether keys, or nothing in the place of kNoKey, to the sums of some rows of one
  // node. The tiles are of their height.
  template <typename Kind>
  static void add_keys(const AttentionTask<Kind>& task, const AttentionGroup& group, const AttentionScratch& scratch,
                       int64_t row, int64_t rows, const int64_t* keys, int64_t count) {
    const int64_t size = task.a.head_dim;
    const int64_t width = group.vectors * kLanes;
    alignas(kTileBytes) BFloat16 weights[kTileHeight][kKeysTogether] = {};
    for (int64_t i = 0; i < count; ++i) {
      if (keys[i] == kNoKey) continue;
      const float* const column = scratch.scores + (keys[i] - group.first_key) * width + row;
      for (int64_t r = 0; r < rows; ++r) {
        uint32_t word;
        std::memcpy(&word, column + r, sizeof word);
        weights[r][i] = {static_cast<uint16_t>(word >> 16)};
      }
    }
    pair_values(count, size, scratch.values, [&](int64_t key) {
      return keys[key] == kNoKey ? nullptr : task.cache_row(task.a.values, group.batch, group.kv_head, keys[key]);
    });
    const int64_t row_bytes = size * sizeof(float);
    in_parts(size, [&](auto tiles, int64_t element) {
      float* const sums = scratch.mixed + row * size + element;
      load_sums<0, tiles>(sums, row_bytes);
      load_tile<4>(weights, kTileBytes);
      add_values<0, tiles>(scratch.values + element, row_bytes);
      store_sums<0, tiles>(sums, row_bytes);
    });
  }

  // Divides by the weights' sums. A row that saw nothing has sum 0 and result 0. What was too small for a normal number
  // may be -0 or, with one more block of zeros added, 0.
  template <typename Kind>
  static void finish(const AttentionTask<Kind>& task, const AttentionGroup& group, const float* mixed,
                     const float* sums) {
    const int64_t size = task.a.head_dim;
    for (int64_t r = 0; r < group.rows; ++r) {
      BFloat16* const target = task.result_of(group, r);
      const Floats inverse = splat(1.0f / (sums[r] == 0.0f ? 1.0f : sums[r]));
      for (int64_t d = 0; d < size; d += kLanes) {
        store(target + d, (load(mixed + r * size + d) + splat(0.0f)) * inverse);
      }
    }
  }
};
#endif

}  // namespace
}  // namespace ltd::LTD_ISA
