// One launch, a block per batch row. The V-th best key is found digit by digit; then a bitmap of the selected
// candidates says which node a candidate became: 1 + the selected ones before it.
#include "common/cuda_kernels.h"
#include "common/device.cuh"
#include "common/rank_keys.cuh"
#include "common/warp.cuh"
#include "select/select_tree.h"

namespace ltd::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kThreadCandidates = kMaxCandidates / kThreads;
constexpr int kBitmapWords = kMaxCandidates / 32;

// A key's digits: the bytes of the score, then the lower two of the index, whose others are 0.
constexpr int kDigits = 6;
constexpr int kBins = 256;
constexpr uint64_t kNoDigits = 0xffff0000u;
__device__ int digit_shift(int digit) { return digit < 4 ? 56 - 8 * digit : 40 - 8 * digit; }

using Histogram = Array<int, kBins>;
using NodeArray = Array<int32_t, kMaxNodes>;
using ThreadKeys = uint64_t[kThreadCandidates];

// The candidate that a thread has as its i-th.
__device__ int candidate_of(int i) { return i * kThreads + static_cast<int>(threadIdx.x); }

// --- which candidates are selected ---

// The digits that are known of the last selected key, from the highest on.
struct Cut {
  uint64_t digits;
  uint64_t known;  // the bits of `digits` that are
  int missing;     // so many keys with these digits are to be selected, the best
  bool all;        // that is all there are
};

// Finds the digit below which all keys and with which some are selected: by the first warp.
__device__ void take_digit(const Histogram& histogram, int shift, Cut& cut) {
  constexpr int kLaneBins = kBins / kWarp;
  const int lane = threadIdx.x;
  int counts[kLaneBins], own = 0;
#pragma unroll
  for (int i = 0; i < kLaneBins; ++i) own += counts[i] = histogram[lane * kLaneBins + i];
  int before = warp_inclusive_sum(own) - own;
  const int wanted = cut.missing;
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kLaneBins; ++i) {
    if (before < wanted && wanted <= before + counts[i]) {
      const uint64_t digit = lane * kLaneBins + i;
      cut.digits |= digit << shift;
      cut.known |= uint64_t{kBins - 1} << shift;
      cut.missing = wanted - before;
      cut.all = wanted == before + counts[i];
    }
    before += counts[i];
  }
}

// The largest key that is selected when `size` of the block's keys are, 1 or more and fewer than there are.
__device__ uint64_t find_cut(const ThreadKeys& keys, int count, int size) {
  using Histograms = Array<Histogram, kDigits>;
  LTD_SHARED(Histograms, histograms);
  LTD_SHARED(Cut, cut);
  for (int i = threadIdx.x; i < kDigits * kBins; i += kThreads) histograms[i / kBins][i % kBins] = 0;
  if (threadIdx.x == 0) cut = {0, kNoDigits, size, false};
  __syncthreads();
  for (int digit = 0; digit < kDigits && !cut.all; ++digit) {
    const int shift = digit_shift(digit);
#pragma unroll
    for (int i = 0; i < kThreadCandidates; ++i) {
      if (candidate_of(i) < count && (keys[i] & cut.known) == cut.digits) {
        atomicAdd(&histograms[digit][(keys[i] >> shift) % kBins], 1);
      }
    }
    __syncthreads();
    if (threadIdx.x < kWarp) take_digit(histograms[digit], shift, cut);
    __syncthreads();
  }
  return cut.digits | ~cut.known;
}

// The selected candidates.
struct Selection {
  Array<uint32_t, kBitmapWords> bits;
  Array<int32_t, kBitmapWords> before;  // how many are selected in the words before

  __device__ bool has(int candidate) const { return bits[candidate / 32] >> (candidate % 32) & 1; }
  __device__ int32_t node_of(int candidate) const {
    const uint32_t lower = (uint32_t{1} << (candidate % 32)) - 1;
    return 1 + before[candidate / 32] + __popc(bits[candidate / 32] & lower);
  }
};

__device__ void select_best(const SelectTree& a, Selection& selection) {
  const int64_t b = blockIdx.x;
  const int count = static_cast<int>(a.candidates), size = static_cast<int>(a.nodes) - 1;
  ThreadKeys keys;
#pragma unroll
  for (int i = 0; i < kThreadCandidates; ++i) {
    const int candidate = candidate_of(i);
    keys[i] = candidate < count ? rank_key(a.scores[b][candidate], candidate) : kWorstKey;
  }
  const uint64_t cut = size == 0 ? 0 : size < count ? find_cut(keys, count, size) : kWorstKey;
#pragma unroll
  for (int i = 0; i < kThreadCandidates; ++i) {
    const bool selected = size > 0 && candidate_of(i) < count && keys[i] <= cut;
    const uint32_t bits = __ballot_sync(kAllLanes, selected);
    if (threadIdx.x % kWarp == 0) selection.bits[candidate_of(i) / 32] = bits;
  }
  __syncthreads();
  if (threadIdx.x < kWarp) {
    const int first = 2 * threadIdx.x;
    const int even = __popc(selection.bits[first]), odd = __popc(selection.bits[first + 1]);
    const int before = warp_inclusive_sum(even + odd) - (even + odd);
    selection.before[first] = before;
    selection.before[first + 1] = before + even;
  }
  __syncthreads();
}

// --- the tree ---

struct Tree {
  NodeArray candidates;  // -1 for the root
  NodeArray parents;     // -1 for the root
  NodeArray first_child;
};

// A selected candidate without a selected parent hangs below the root: see select_tree.h.
__device__ void link_parents(const Selection& selection, const int32_t (&parents)[kThreadCandidates], Tree& tree) {
  if (threadIdx.x == 0) tree.candidates[0] = tree.parents[0] = -1;
#pragma unroll
  for (int i = 0; i < kThreadCandidates; ++i) {
    const int candidate = candidate_of(i);
    if (!selection.has(candidate)) continue;
    const bool has_parent = parents[i] >= 0 && parents[i] < candidate && selection.has(parents[i]);
    const int32_t node = selection.node_of(candidate);
    tree.candidates[node] = candidate;
    tree.parents[node] = has_parent ? selection.node_of(parents[i]) : 0;
  }
}

// A warp goes through the nodes, 32 at a time and the last first: of those behind the 32, the first child of a node's
// parent is known, and is the node's next sibling if there is none among the 32.
__device__ void link_children(const SelectTree& a, Tree& tree) {
  const int64_t b = blockIdx.x;
  const int lane = threadIdx.x % kWarp, nodes = static_cast<int>(a.nodes);
  for (int node = lane; node < nodes; node += kWarp) tree.first_child[node] = -1;
  __syncwarp();
  for (int first = (nodes - 1) / kWarp * kWarp; first >= 0; first -= kWarp) {
    const int node = first + lane;
    const int parent = node < nodes ? tree.parents[node] : -1;
    const uint32_t siblings = __match_any_sync(kAllLanes, parent);
    const uint32_t later = siblings & (kAllLanes << lane << 1);
    int next = parent < 0 ? -1 : tree.first_child[parent];
    if (parent >= 0 && later != 0) next = first + __ffs(later) - 1;
    if (node < nodes) a.next_sibling[b][node] = next;
    __syncwarp();
    if (parent >= 0 && (siblings & ~(kAllLanes << lane)) == 0) tree.first_child[parent] = node;
    __syncwarp();
  }
  for (int node = lane; node < nodes; node += kWarp) a.first_child[b][node] = tree.first_child[node];
}

__device__ void write_node(const SelectTree& a, const Tree& tree, int node) {
  const int64_t b = blockIdx.x;
  const int32_t candidate = tree.candidates[node];
  const int64_t token = candidate < 0 ? global(a.roots)[b] : a.tokens[b][candidate];
  const int64_t length = global(a.lengths)[b];
  const Pointer<int64_t> mask = a.masks.at(b, node);
  int ancestor = node, depth = -1;
  // Ancestors stand before their descendants, so the mask's words are met one after the other, the last first.
  for (int word = static_cast<int>(a.words) - 1; word >= 0; --word) {
    uint64_t bits = 0;
    for (; ancestor >= 64 * word; ancestor = tree.parents[ancestor]) {
      bits |= uint64_t{1} << (ancestor - 64 * word);
      ++depth;
    }
    mask[word] = static_cast<int64_t>(bits);
  }
  a.node_tokens[b][node] = token;
  a.node_parents[b][node] = tree.parents[node];
  a.positions[b][node] = length + depth;
  a.node_candidates[b][node] = candidate;
}

// Block (batch row).
__global__ void __launch_bounds__(kThreads) build_trees(SelectTree a) {
  await_earlier_kernels();
  LTD_SHARED(Selection, selection);
  LTD_SHARED(Tree, tree);
  const int64_t b = blockIdx.x;
  int32_t parents[kThreadCandidates];
#pragma unroll
  for (int i = 0; i < kThreadCandidates; ++i) {
    const int candidate = candidate_of(i);
    parents[i] = candidate < a.candidates ? a.parents[b][candidate] : -1;
  }
  select_best(a, selection);
  link_parents(selection, parents, tree);
  __syncthreads();
  if (threadIdx.x < kWarp) link_children(a, tree);
  // From the last thread on, as the first ones have other work.
  for (int node = kThreads - 1 - static_cast<int>(threadIdx.x); node < a.nodes; node += kThreads) {
    write_node(a, tree, node);
  }
}

}  // namespace

int64_t select_tree_workspace(const SelectTree&) { return 0; }

void select_tree(const SelectTree& a) {
  if (a.batch == 0) return;
  launch<kStartsEarly>(build_trees, dim3(static_cast<unsigned>(a.batch)), kThreads, 0, a.launch.stream, a);
}

}  // namespace ltd::cuda
