// What the blocks of tree_attention are given to do: how rows and keys are cut, and which keys a row sees.
#pragma once

#include "attention/tree_attention.h"
#include "common/device.cuh"

namespace ltd::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;

// Blocks that the splits aim at, per multiprocessor: what fits there at once.
constexpr int kBlocksPerMultiprocessor = 2;
constexpr int kMaxSplits = 128;

// Keys of a split per row of a block, at least. With fewer the partial results would be as much traffic as the keys.
constexpr int kLeastKeysPerRow = 2;

constexpr float kLog2E = 1.4426950408889634f;

// Of partial results that the last block merges by itself: about what a multiprocessor reads in the time that a second
// launch would take, which spreads them over all of them. By the data sheets, not measured.
constexpr int64_t kBytesOfLastBlock = 192 << 10;

// How the work is cut. Known from sizes and how long a prefix may be, so it must do for any lengths: the keys of a
// split follow from them on the device.
struct Plan {
  int group_heads;  // query heads per key/value head
  int rows;         // per key/value head: row r is head r % group_heads of node r / group_heads
  int block_rows;
  int row_blocks;
  int tile_keys;
  int value_blocks;  // parts that the elements of outputs are cut into
  int splits;
  bool last_merges;  // the last block of those that share rows merges their results, instead of a second launch

  LTD_INLINE int64_t heads(const TreeAttention& a) const { return a.batch * a.kv_heads; }
  LTD_INLINE int64_t blocks(const TreeAttention& a) const { return heads(a) * splits * value_blocks * row_blocks; }
};

// The work of a block of threads.
struct Work {
  int batch;
  int kv_head;
  int split;
  int value_block;
  int first_row;
  int rows;
  int length;     // of the prefix
  int end;        // of the keys that the rows see
  int first_key;  // of the split, a multiple of tile_keys
  int last_key;   // exclusive
  int horizon;    // with a window, some rows do not see keys at positions up to here
};

// --- what a row is and sees ---

__device__ inline int node_of(const Plan& plan, int row) { return row / plan.group_heads; }

// With a window a node sees no key up to this position.
__device__ inline int horizon_of(const TreeAttention& a, int64_t batch, int node) {
  return static_cast<int>(a.positions[batch][node] - a.window);
}

// The keys of all splits: from where the first of the rows sees any to where the last ceases to.
__device__ inline void set_range(const TreeAttention& a, const Plan& plan, Work& work) {
  const int first_node = node_of(plan, work.first_row);
  const int last_node = node_of(plan, work.first_row + work.rows - 1);
  const bool chain = a.masks.data == nullptr;
  work.length = global(a.lengths)[work.batch];
  work.end = work.length + (chain ? last_node + 1 : static_cast<int>(a.tree_rows));
  work.first_key = 0;
  work.horizon = -1;
  if (a.window == 0) return;
  int lowest = work.length - 1;  // tree keys are not left out
  for (int node = first_node + threadIdx.x % kWarp; node <= last_node; node += kWarp) {
    const int horizon = horizon_of(a, work.batch, node);
    lowest = horizon < lowest ? horizon : lowest;
    work.horizon = horizon > work.horizon ? horizon : work.horizon;
  }
  lowest = __reduce_min_sync(kAllLanes, lowest);
  work.horizon = __reduce_max_sync(kAllLanes, work.horizon);
  if (lowest >= 0) work.first_key = (lowest + 1) / plan.tile_keys * plan.tile_keys;
}

// Blocks that read the same keys follow each other, so that most find them in the cache.
__device__ inline Work work_of_block(const TreeAttention& a, const Plan& plan) {
  Work work{};
  int rest = blockIdx.x;
  const auto take = [&](int count) {
    const int index = rest % count;
    rest /= count;
    return index;
  };
  work.first_row = take(plan.row_blocks) * plan.block_rows;
  work.value_block = take(plan.value_blocks);
  work.split = take(plan.splits);
  work.kv_head = take(static_cast<int>(a.kv_heads));
  work.batch = rest;
  work.rows = static_cast<int>(at_most(plan.rows - work.first_row, plan.block_rows));
  set_range(a, plan, work);
  const int64_t tiles = ceil_div(work.end - work.first_key, plan.tile_keys);
  const int64_t least = ceil_div(kLeastKeysPerRow * plan.block_rows, plan.tile_keys);
  const int64_t fair = ceil_div(tiles, plan.splits);
  const int64_t share = (fair > least ? fair : least) * plan.tile_keys;
  work.first_key = static_cast<int>(at_most(work.first_key + work.split * share, work.end));
  work.last_key = static_cast<int>(at_most(work.first_key + share, work.end));
  return work;
}

__device__ inline uint64_t low_bits(int count) {
  if (count <= 0) return 0;
  return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
}

// Bit j: whether the node sees tree row first + j, windows left aside.
__device__ inline uint64_t seen_tree_rows(const TreeAttention& a, int64_t batch, int node, int first) {
  if (a.masks.data == nullptr) return low_bits(node + 1 - first);
  const int count = static_cast<int>(a.tree_rows) - first;
  if (count <= 0) return 0;
  const Pointer<const int64_t> words = a.masks.at(batch, node) + first / 64;
  const int shift = first % 64;
  uint64_t bits = static_cast<uint64_t>(words[0]) >> shift;
  if (shift > 0 && shift + count > 64) bits |= static_cast<uint64_t>(words[1]) << (64 - shift);
  return bits & low_bits(count);
}

__device__ inline int position_of(const TreeAttention& a, const Work& work, int key) {
  return key < work.length ? key : static_cast<int>(a.positions[work.batch][key - work.length]);
}

// Bit j: whether the node sees key first + j, j < count.
__device__ inline uint64_t seen_keys(const TreeAttention& a, const Work& work, int node, int first, int count) {
  const int prefix_keys = work.length - first;
  uint64_t seen = low_bits(prefix_keys);
  if (prefix_keys <= 0) {
    seen = seen_tree_rows(a, work.batch, node, -prefix_keys);
  } else if (prefix_keys < count) {
    seen |= seen_tree_rows(a, work.batch, node, 0) << prefix_keys;
  }
  if (a.window == 0) return seen;
  const int horizon = horizon_of(a, work.batch, node);
  for (int j = 0; j < count; ++j) {
    const uint64_t bit = uint64_t{1} << j;
    if ((seen & bit) != 0 && position_of(a, work, first + j) <= horizon) seen &= ~bit;
  }
  return seen;
}

}  // namespace
}  // namespace ltd::cuda
