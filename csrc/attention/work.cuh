// What the blocks of tree_attention are given to do: how rows and keys are cut.
#pragma once

#include "attention/slots.cuh"

namespace ltd::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;

// Blocks that the splits aim at, per multiprocessor: what fits there at once.
constexpr int kBlocksPerMultiprocessor = 2;
constexpr int kMaxSplits = 128;

// Slots of a chunk per row of a block, and by themselves, at least. With fewer the partial results would be as much
// traffic as the keys.
constexpr int kLeastKeysPerRow = 2;
constexpr int kLeastChunkKeys = 128;

// Chunks are equally long up to here, and double so often at most.
constexpr int kEvenKeys = 4096;
constexpr int kMostDoublings = 20;

constexpr float kLog2E = 1.4426950408889634f;

// Of partial results that the last block merges by itself: about what a multiprocessor reads in the time that a second
// launch would take, which spreads them over all of them. By the data sheets, not measured.
constexpr int64_t kBytesOfLastBlock = 192 << 10;

// How the work is cut.
//
// Slots are cut into chunks at fixed places, whatever the lengths: a row's sums are then made of the same parts in the
// same order wherever the prefix ends and the tree begins. Chunks are equally long at first and twice as long with
// every doubling of the place, as long texts have enough of them. Split s takes the chunks s, s + splits, ..., of which
// mostly one holds keys. How long they are follows from how many rows there are, how many splits from how long a prefix
// may be: splits that find nothing to do change no bit.
struct Plan {
  int group_heads;  // query heads per key/value head
  int rows;         // per key/value head: row r is head r % group_heads of node r / group_heads
  int block_rows;
  int row_blocks;
  int tile_keys;
  int value_blocks;  // parts that the elements of outputs are cut into
  int chunk_keys;    // slots of the first chunks, a power of 2
  int doublings;     // of that, at most
  int splits;
  bool last_merges;  // the last block of those that share rows merges their results, instead of a second launch

  LTD_INLINE int64_t heads(const TreeAttention& a) const { return a.batch * a.kv_heads; }
  LTD_INLINE int64_t blocks(const TreeAttention& a) const { return heads(a) * splits * value_blocks * row_blocks; }

  // The first slot of a chunk.
  LTD_INLINE int64_t chunk_start(int64_t chunk) const {
    const int64_t per_doubling = kEvenKeys / 2 / chunk_keys;
    int64_t doubled = at_most(chunk / per_doubling - 1, doublings);
    if (doubled < 0) doubled = 0;
    return ((chunk - doubled * per_doubling) * chunk_keys) << doubled;
  }
};

// The work of a block of threads. It lies in shared memory: registers are few.
struct Work : Sequence {
  int kv_head;
  int value_block;
  int split;
  int first_row;
  int rows;
  int begin;    // of the slots of which the rows see keys, a multiple of tile_keys
  int end;      // exclusive
  int horizon;  // with a window, some rows do not see keys at positions up to here
};

// One of a block's chunks, and the slots in it of which the rows see keys.
struct Chunk {
  int index;
  int first_key;
  int last_key;  // exclusive

  __device__ bool is_empty() const { return first_key >= last_key; }
};

__device__ inline int node_of(const Plan& plan, int row) { return row / plan.group_heads; }

// From where the first of the rows sees keys to where the last ceases to. The first warp.
__device__ inline void set_range(const TreeAttention& a, const Plan& plan, Work& work) {
  const int first_node = node_of(plan, work.first_row);
  const int last_node = node_of(plan, work.first_row + work.rows - 1);
  const bool chain = a.masks.data == nullptr;
  work.begin = 0;
  work.end = work.length + last_node + 1;
  work.horizon = -1;
  if (chain && a.window == 0) return;
  int most = 0;
  int lowest = work.length - 1;  // tree keys are not left out
  for (int node = first_node + threadIdx.x; node <= last_node; node += kWarp) {
    const int count = tree_keys_of(a, work.batch, node);
    most = count > most ? count : most;
    if (a.window == 0) continue;
    const int horizon = horizon_of(a, work.batch, node);
    lowest = horizon < lowest ? horizon : lowest;
    work.horizon = horizon > work.horizon ? horizon : work.horizon;
  }
  work.end = work.length + __reduce_max_sync(kAllLanes, most);
  if (a.window == 0) return;
  lowest = __reduce_min_sync(kAllLanes, lowest);
  work.horizon = __reduce_max_sync(kAllLanes, work.horizon);
  if (lowest >= 0) work.begin = (lowest + 1) / plan.tile_keys * plan.tile_keys;
}

// The first of the chunks `index`, index + splits, ... in which rows see keys; an empty one if there is none.
__device__ inline Chunk chunk_from(const Plan& plan, const Work& work, int index) {
  int64_t behind = plan.chunk_start(index + 1);
  while (behind <= work.begin) {
    index += plan.splits;
    behind = plan.chunk_start(index + 1);
  }
  const int64_t first = plan.chunk_start(index);
  return {index, first < work.begin ? work.begin : static_cast<int>(at_most(first, work.end)),
          static_cast<int>(at_most(behind, work.end))};
}

// What the block has to do, for all its threads to see. Blocks that read the same keys follow each other, so that most
// find them in the cache. The last chunks, which are the longest, come first.
__device__ inline void find_work(const TreeAttention& a, const Plan& plan, Work& shared) {
  if (threadIdx.x < kWarp) {
    Work work{};
    int rest = blockIdx.x;
    const auto take = [&](int count) {
      const int index = rest % count;
      rest /= count;
      return index;
    };
    work.first_row = take(plan.row_blocks) * plan.block_rows;
    work.value_block = take(plan.value_blocks);
    work.split = plan.splits - 1 - take(plan.splits);
    work.kv_head = take(static_cast<int>(a.kv_heads));
    work.batch = rest;
    work.length = global(a.lengths)[work.batch];
    work.rows = static_cast<int>(at_most(plan.rows - work.first_row, plan.block_rows));
    set_range(a, plan, work);
    if (threadIdx.x == 0) shared = work;
  }
  __syncthreads();
}

}  // namespace
}  // namespace ltd::cuda
