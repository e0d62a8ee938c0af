// Which keys a node of tree_attention sees, and in which order.
//
// The keys of a node have slots: those of the prefix have their row as slot, and behind them come the tree's keys that
// the node sees, in the order of their rows. A node's ancestors so have the slots that are their rows once the branch
// has been accepted: a token's keys have the same slots whichever of them still are in a tree, and wherever in it.
#pragma once

#include "attention/tree_attention.h"
#include "common/device.cuh"

namespace ltd::cuda {
namespace {

struct Sequence {
  int batch;
  int length;  // of its prefix
};

__device__ inline uint64_t low_bits(int64_t count) {
  if (count <= 0) return 0;
  return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
}

// Word i of a node's mask, without the bits from tree_rows on.
__device__ inline uint64_t mask_word(const TreeAttention& a, int64_t batch, int node, int64_t i) {
  return static_cast<uint64_t>(a.masks.at(batch, node)[i]) & low_bits(a.tree_rows - 64 * i);
}

// How many keys of the tree a node sees, windows left aside.
__device__ inline int tree_keys_of(const TreeAttention& a, int64_t batch, int node) {
  if (a.masks.data == nullptr) return node + 1;
  int count = 0;
  for (int64_t i = 0; 64 * i < a.tree_rows; ++i) count += __popcll(mask_word(a, batch, node, i));
  return count;
}

// The row in the tree of key number `rank` of those; -1 if they are fewer.
__device__ inline int tree_row_of(const TreeAttention& a, int64_t batch, int node, int rank) {
  if (a.masks.data == nullptr) return rank <= node ? rank : -1;
  for (int64_t i = 0; 64 * i < a.tree_rows; ++i) {
    uint64_t bits = mask_word(a, batch, node, i);
    const int count = __popcll(bits);
    if (rank < count) {
      for (; rank > 0; --rank) bits &= bits - 1;
      return static_cast<int>(64 * i) + __ffsll(bits) - 1;
    }
    rank -= count;
  }
  return -1;
}

// The row in the cache of the key that a node has in a slot; -1 if none.
__device__ inline int row_of_slot(const TreeAttention& a, const Sequence& sequence, int node, int slot) {
  if (slot < sequence.length) return slot;
  const int row = tree_row_of(a, sequence.batch, node, slot - sequence.length);
  return row < 0 ? -1 : sequence.length + row;
}

// With a window a node sees no key up to this position.
__device__ inline int horizon_of(const TreeAttention& a, int64_t batch, int node) {
  return static_cast<int>(a.positions[batch][node] - a.window);
}

__device__ inline int position_of(const TreeAttention& a, const Sequence& sequence, int row) {
  return row < sequence.length ? row : static_cast<int>(a.positions[sequence.batch][row - sequence.length]);
}

// Bit j: whether the node sees the key in slot first + j, j < count.
__device__ inline uint64_t seen_slots(const TreeAttention& a, const Sequence& sequence, int node, int first,
                                      int count) {
  uint64_t seen = low_bits(sequence.length + tree_keys_of(a, sequence.batch, node) - first);
  if (a.window == 0) return seen;
  const int horizon = horizon_of(a, sequence.batch, node);
  for (int j = 0; j < count; ++j) {
    const uint64_t bit = uint64_t{1} << j;
    if ((seen & bit) == 0) break;
    if (position_of(a, sequence, row_of_slot(a, sequence, node, first + j)) <= horizon) seen &= ~bit;
  }
  return seen;
}

}  // namespace
}  // namespace ltd::cuda
