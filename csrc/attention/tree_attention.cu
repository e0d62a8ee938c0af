// An attention row is one query head of one node. A block of threads takes a block of the rows that share a key/value
// head over some of the keys (a split), tile by tile, with the softmax running online in powers of 2. The rows are
// dealt out to the warps, which then need each other only for copying keys and values. With several splits a block
// leaves unnormalised outputs, peaks and sums in the workspace, to be merged.
//
// A row's result does not depend, to the last bit, on where its ancestors lie or which of them the prefix holds
// already, at one number of rows. Tiles and splits are cut at fixed slots (slots.cuh, work.cuh), a slot has the same
// place in every step of the tensor cores, and what a row does not see is added to it as 0, or not at all. Whole tiles
// of the prefix are the same for all rows. In the others each node of a tree has keys of its own, which are gathered
// for it.
//
// There are two kernels of this form. 16-bit numbers of the usual head sizes are multiplied by the tensor cores, the
// next tile being copied meanwhile; anything else, odd strides included, by plain multiply-adds in float32. They differ
// in how tiles are stored and multiplied, and share what happens to scores and outputs: both have those in registers,
// each thread some columns of some rows (Fragments, Patch).
#include <type_traits>

#include "attention/merge.cuh"
#include "attention/plain.cuh"
#include "attention/tensor_attention.cuh"
#include "attention/tree_attention.h"
#include "attention/work.cuh"
#include "common/cuda_kernels.h"
#include "common/device.cuh"

namespace ltd::cuda {
namespace {

// Of the partial results of so many rows.
int64_t partial_bytes(const TreeAttention& a, const Plan& plan, int64_t rows) {
  return rows * plan.splits * (a.head_dim + 2) * static_cast<int64_t>(sizeof(float));
}

// How many splits the chunks are dealt out to: one each, if a prefix may be so long.
int count_splits(const TreeAttention& a, const Plan& plan) {
  int splits = 1;
  while (splits < kMaxSplits && plan.chunk_start(splits) < a.longest) ++splits;
  return splits;
}

// The fewer blocks share a chunk, the shorter chunks are, down to the least. Their lengths must depend on nothing that
// differs between two forwards of as many rows: not on `longest`.
Plan make_plan(const TreeAttention& a, int block_rows, int tile_keys, int value_elements) {
  Plan plan{};
  plan.group_heads = static_cast<int>(a.query_heads / a.kv_heads);
  plan.rows = plan.group_heads * static_cast<int>(a.nodes);
  plan.block_rows = block_rows;
  plan.row_blocks = static_cast<int>(ceil_div(plan.rows, block_rows));
  plan.tile_keys = tile_keys;
  plan.value_blocks = static_cast<int>(ceil_div(a.head_dim, value_elements));
  plan.splits = 1;
  const int64_t room = multiprocessors() * kBlocksPerMultiprocessor / plan.blocks(a);
  const int least = kLeastKeysPerRow * block_rows > kLeastChunkKeys ? kLeastKeysPerRow * block_rows : kLeastChunkKeys;
  plan.chunk_keys = kEvenKeys / 2;
  while (plan.chunk_keys > least && kEvenKeys / plan.chunk_keys <= room) plan.chunk_keys /= 2;
  // Few chunks hold a window, which may be anywhere.
  while (plan.doublings < kMostDoublings && (a.window == 0 || int64_t{kEvenKeys} << plan.doublings < a.window)) {
    ++plan.doublings;
  }
  if (room > 1) plan.splits = count_splits(a, plan);
  plan.last_merges = plan.splits > 1 && a.counters != nullptr && plan.heads(a) * plan.row_blocks <= kMergeCounters &&
                     partial_bytes(a, plan, at_most(plan.rows, block_rows)) <= kBytesOfLastBlock;
  return plan;
}

Plan plain_plan(const TreeAttention& a) { return make_plan(a, kPlainRows, kPlainKeys, kPlainElements); }

template <typename Shape>
Plan tensor_plan(const TreeAttention& a) {
  return make_plan(a, Shape::kBlockRows, Shape::kTileKeys, Shape::kHeadDim);
}

int64_t workspace_bytes(const TreeAttention& a, const Plan& plan) {
  if (plan.splits == 1) return 0;
  return partial_bytes(a, plan, plan.heads(a) * plan.rows);
}

// Whether rows fill low blocks better than tall ones, of twice the rows: those would leave half of the last one empty.
// Of many rows that is a small part.
bool fill_low_blocks(int64_t rows, int64_t block_rows) {
  constexpr int64_t kMostLowBlocks = 3;
  return rows <= kMostLowBlocks * block_rows && ceil_div(rows, block_rows) % 2 == 1;
}

// Calls function(the shape of blocks for these sizes). Few rows are spread over the warps; of many a warp takes twice
// as many, as it then reads keys and values half as often. For large heads it would run out of registers.
template <int kHeadDim, typename Function>
void with_tallness(const TreeAttention& a, Function&& function) {
  using Low = TensorShape<kHeadDim, 1>;
  if constexpr (kHeadDim <= 128) {
    const int64_t rows = a.query_heads / a.kv_heads * a.nodes;
    if (!fill_low_blocks(rows, Low::kBlockRows)) return function(TensorShape<kHeadDim, 2>{});
  }
  function(Low{});
}

// Returns false if the tensor cores' kernel does not come in this head size.
template <typename Function>
bool with_shape(const TreeAttention& a, Function&& function) {
  switch (a.head_dim) {
    case 64:
      return with_tallness<64>(a, function), true;
    case 80:
      return with_tallness<80>(a, function), true;
    case 96:
      return with_tallness<96>(a, function), true;
    case 128:
      return with_tallness<128>(a, function), true;
    case 256:
      return with_tallness<256>(a, function), true;
    default:
      return false;
  }
}

// Whether all rows begin at multiples of 16 bytes.
bool is_aligned16(const HeadRows& rows) {
  const int64_t strides = rows.batch_stride | rows.head_stride | rows.row_stride;
  return reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && strides % 8 == 0;
}

template <typename T>
void launch_merge(const TreeAttention& a, const Plan& plan) {
  if (plan.splits == 1 || plan.last_merges) return;
  const dim3 grid(static_cast<unsigned>(ceil_div(plan.heads(a) * plan.rows, kWarps)));
  launch(merge<T>, grid, kThreads, 0, a.launch.stream, a, plan);
}

template <typename T>
void launch_plainly(const TreeAttention& a) {
  const Plan plan = plain_plan(a);
  const dim3 grid(static_cast<unsigned>(plan.blocks(a)));
  launch(attend_plainly<T>, grid, kThreads, PlainMemory::kSharedBytes, a.launch.stream, a, plan);
  launch_merge<T>(a, plan);
}

// Returns false where the tensor cores cannot be used.
template <typename T>
bool launch_in_tiles(const TreeAttention& a) {
  if (!is_aligned16(a.query) || !is_aligned16(a.keys) || !is_aligned16(a.values)) return false;
  return with_shape(a, [&](auto shape) {
    using Shape = decltype(shape);
    const Plan plan = tensor_plan<Shape>(a);
    const dim3 grid(static_cast<unsigned>(plan.blocks(a)));
    launch(attend_in_tiles<T, Shape>, grid, kThreads, Shape::kSharedBytes, a.launch.stream, a, plan);
    launch_merge<T>(a, plan);
  });
}

bool is_empty(const TreeAttention& a) { return a.batch * a.query_heads * a.nodes * a.head_dim == 0; }

}  // namespace

// Enough for either kernel, as pointers, which decide between them, are not sizes.
int64_t tree_attention_workspace(const TreeAttention& a) {
  if (is_empty(a)) return 0;
  int64_t bytes = workspace_bytes(a, plain_plan(a));
  if (a.dtype == DType::kFloat32) return bytes;
  with_shape(a, [&](auto shape) {
    const int64_t other = workspace_bytes(a, tensor_plan<decltype(shape)>(a));
    if (other > bytes) bytes = other;
  });
  return bytes;
}

void tree_attention(const TreeAttention& a) {
  if (is_empty(a)) return;
  with_type(a.dtype, [&](auto type) {
    using T = decltype(type);
    if constexpr (!std::is_same_v<T, float>) {
      if (launch_in_tiles<T>(a)) return;
    }
    launch_plainly<T>(a);
  });
}

}  // namespace ltd::cuda
