#include "accept/accept.h"
#include "accept/argmax.cuh"
#include "accept/distribution.cuh"
#include "common/cuda_kernels.h"
#include "noise/noise.cuh"

namespace ltd::cuda {
namespace {

// Both operators first find the next tokens of all nodes, visited or not, so that the rows are read at once; then a
// block for each row of the batch walks. It has what it needs of the tree in shared memory, where following links is
// fast.
struct SharedTree {
  int64_t* tokens;
  int64_t* next_tokens;
  int32_t* children;  // first the first child, then the one with the next token, or -1
  int32_t* siblings;
};

constexpr int64_t kSharedBytesPerNode = 24;

__device__ SharedTree load_tree(const TreeWalk& walk, int64_t b) {
  const int64_t nodes = walk.nodes;
  const SharedTree tree{dynamic_shared<int64_t>(0, nodes), dynamic_shared<int64_t>(8 * nodes, nodes),
                        dynamic_shared<int32_t>(16 * nodes, nodes), dynamic_shared<int32_t>(20 * nodes, nodes)};
  for (int64_t node = threadIdx.x; node < nodes; node += blockDim.x) {
    tree.tokens[node] = walk.tokens[b][node];
    tree.children[node] = walk.first_child[b][node];
    tree.siblings[node] = walk.next_sibling[b][node];
  }
  return tree;
}

// The child of `node` with the next token, or -1.
__device__ int32_t next_node(const SharedTree& tree, int64_t nodes, int64_t node) {
  const int64_t token = tree.next_tokens[node];
  if (token < 0) return -1;
  int32_t child = tree.children[node];
  for (int64_t tried = 0; child >= 0 && child < nodes && tried < nodes; ++tried) {
    if (tree.tokens[child] == token) return child;
    child = tree.siblings[child];
  }
  return -1;
}

// Walks through row b of the batch, whose next tokens are known.
__device__ void walk_row(const TreeWalk& walk, int64_t b, const SharedTree& tree) {
  __syncthreads();
  for (int64_t node = threadIdx.x; node < walk.nodes; node += blockDim.x) {
    tree.children[node] = next_node(tree, walk.nodes, node);
  }
  __syncthreads();
  if (threadIdx.x > 0) return;
  int32_t gained = 0;
  for (int32_t node = 0; node >= 0 && gained < walk.path_capacity; node = tree.children[node]) {
    walk.path[b][gained] = node;
    walk.gained_tokens[b][gained] = tree.next_tokens[node];
    ++gained;
  }
  global(walk.gained)[b] = gained;
}

__global__ void __launch_bounds__(kMostThreads) walk_greedily(TreeWalk walk, int64_t parts, const uint64_t* bests) {
  await_earlier_kernels();
  const int64_t b = blockIdx.x;
  const SharedTree tree = load_tree(walk, b);
  for (int64_t node = warp_index(); node < walk.nodes; node += warp_count()) {
    const int64_t token = token_of_parts(global(bests) + (b * walk.nodes + node) * parts, parts);
    if (lane_index() == 0) tree.next_tokens[node] = token;
  }
  walk_row(walk, b, tree);
}

// --- noise ---

// The ring holds the positions from the root's on, as many as it has slots. Trees may be deeper, and nodes that nobody
// sees stand anywhere: noise of other positions is made where it is needed.
__device__ bool has_slot(const AcceptSample& a, int64_t b, int64_t position) {
  const auto above = static_cast<uint64_t>(position) - static_cast<uint64_t>(a.positions[b][0]);
  return above < static_cast<uint64_t>(a.ring.slots);
}

// Block (b * slots + slot, part) makes its part of the noise in a slot, if a node stands at the slot's position and the
// slot holds another one. The places are noted when all is read: see note_places.
__global__ void __launch_bounds__(kNoiseThreads) make_missing_noise(AcceptSample a) {
  await_earlier_kernels();
  const NoiseRing& ring = a.ring;
  const int64_t b = blockIdx.x / static_cast<uint32_t>(ring.slots);
  const int64_t slot = blockIdx.x % static_cast<uint32_t>(ring.slots);
  const Pointer<const int64_t> positions = a.positions[b];
  const int64_t root = positions[0];
  const int64_t position = root + ring.slot_of(slot - ring.slot_of(root));
  bool is_wanted = false;
  for (int64_t node = threadIdx.x; node < a.walk.nodes; node += blockDim.x) is_wanted |= positions[node] == position;
  if (__syncthreads_or(is_wanted && ring.places[b][slot] != position) == 0) return;
  make_noise(place_of(ring, b, position), ring.vocabulary, blockIdx.y, gridDim.y, ring.noise.at(b, slot));
}

__device__ void note_places(const AcceptSample& a, int64_t b) {
  for (int64_t node = threadIdx.x; node < a.walk.nodes; node += blockDim.x) {
    const int64_t position = a.positions[b][node];
    if (has_slot(a, b, position)) a.ring.places[b][a.ring.slot_of(position)] = position;
  }
}

// The token that can be drawn and has the largest value, at a node of this position.
template <typename T>
__device__ int64_t best_token(const AcceptSample& a, int64_t b, int64_t position, const LogitRow<T>& row,
                              const Distribution& d, Shared& shared) {
  uint64_t best = 0;
  const auto offer = [&](int id, T logit, float noise) {
    const float value = __fadd_rn(__fmul_rn(to_float(logit) - d.peak, d.rate), noise);
    const uint64_t packed = Best::pack(key_of(value), static_cast<uint32_t>(id));
    if (d.keeps(id, logit) && packed > best) best = packed;
  };
  if (has_slot(a, b, position)) {
    const Pointer<const float> noise = a.ring.noise.at(b, a.ring.slot_of(position));
    row.visit([&](int id, T logit) { offer(id, logit, noise[id]); });
  } else {
    const NoisePlace place = place_of(a.ring, b, position);
    for (int id = threadIdx.x; id < row.vocabulary; id += blockDim.x) {
      offer(id, row.logits[id], place.noise(static_cast<uint32_t>(id)));
    }
  }
  return Best::token(best_of_block(best, shared));
}

// Block b * nodes + node samples the next token of that node.
template <typename T>
__global__ void __launch_bounds__(kMostThreads) sample_tokens(AcceptSample a, int64_t* tokens) {
  await_earlier_kernels();
  LTD_SHARED(Shared, shared);
  const int64_t b = blockIdx.x / static_cast<uint32_t>(a.walk.nodes);
  const int64_t node = blockIdx.x % static_cast<uint32_t>(a.walk.nodes);
  const LogitRow<T> row(a.walk.logits.at<T>(b, node), a.walk.vocabulary);
  const Distribution d = distribution_of(row, a.sampling, shared);
  int64_t token = -1;
  if (d.valid) token = best_token(a, b, a.positions[b][node], row, d, shared);
  if (threadIdx.x == 0) global(tokens)[blockIdx.x] = token;
}

__global__ void __launch_bounds__(kMostThreads) walk_sampled(AcceptSample a, const int64_t* next_tokens) {
  await_earlier_kernels();
  const TreeWalk& walk = a.walk;
  const int64_t b = blockIdx.x;
  const SharedTree tree = load_tree(walk, b);
  for (int64_t node = threadIdx.x; node < walk.nodes; node += blockDim.x) {
    tree.next_tokens[node] = global(next_tokens)[b * walk.nodes + node];
  }
  note_places(a, b);
  walk_row(walk, b, tree);
}

// Launches a kernel that walks, in which each node has so many threads.
template <typename Kernel, typename... Arguments>
void launch_walk(Kernel kernel, const TreeWalk& walk, int64_t threads_per_node, const Arguments&... arguments) {
  const int64_t threads = at_most(ceil_div(walk.nodes * threads_per_node, kWarp) * kWarp, kMostThreads);
  launch<kStartsEarly>(kernel, static_cast<unsigned>(walk.batch), static_cast<int>(threads),
                       walk.nodes * kSharedBytesPerNode, walk.launch.stream, arguments...);
}

}  // namespace

int64_t accept_greedy_workspace(const AcceptGreedy& a) {
  const int64_t parts = argmax_parts(a.walk.logits, a.walk.vocabulary);
  return a.walk.batch * a.walk.nodes * parts * static_cast<int64_t>(sizeof(uint64_t));
}

void accept_greedy(const AcceptGreedy& a) {
  const TreeWalk& walk = a.walk;
  if (walk.batch == 0) return;
  uint64_t* bests = static_cast<uint64_t*>(walk.launch.workspace);
  launch_argmax(walk.logits, walk.batch, walk.nodes, walk.vocabulary, bests, walk.launch.stream);
  launch_walk(walk_greedily, walk, kWarp, walk, argmax_parts(walk.logits, walk.vocabulary), bests);
}

int64_t accept_sample_workspace(const AcceptSample& a) {
  return a.walk.batch * a.walk.nodes * static_cast<int64_t>(sizeof(int64_t));
}

void accept_sample(const AcceptSample& a) {
  const TreeWalk& walk = a.walk;
  if (walk.batch == 0) return;
  int64_t* tokens = static_cast<int64_t*>(walk.launch.workspace);
  const dim3 blocks(static_cast<unsigned>(walk.batch * a.ring.slots), noise_blocks(walk.vocabulary));
  launch<kStartsEarly>(make_missing_noise, blocks, kNoiseThreads, 0, walk.launch.stream, a);
  with_type(walk.logits.dtype, [&](auto type) {
    launch<kStartsEarly>(sample_tokens<decltype(type)>, static_cast<unsigned>(walk.batch * walk.nodes),
                         threads_of_row(walk.vocabulary), 0, walk.launch.stream, a, tokens);
  });
  launch_walk(walk_sampled, walk, 1, a, tokens);
}

}  // namespace ltd::cuda
