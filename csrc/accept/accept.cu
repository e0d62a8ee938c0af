#include "accept/accept.h"
#include "accept/argmax.cuh"
#include "accept/warped.cuh"
#include "common/cuda_kernels.h"

namespace ltd::cuda {
namespace {

// Both operators first find the next tokens of all nodes, visited or not, so that the rows are read at once.
struct WalkSpace {
  int64_t* tokens;    // (B, N), the next tokens
  uint64_t* bests;    // (B, N, parts), of parts of the rows
  int32_t* children;  // (B, N), the children with the next tokens, or -1
};

int64_t walk_bytes(const TreeWalk& walk, int64_t parts) {
  const int64_t bytes_per_node = sizeof(int64_t) + parts * sizeof(uint64_t) + sizeof(int32_t);
  return walk.batch * walk.nodes * bytes_per_node;
}

WalkSpace walk_space(const TreeWalk& walk, int64_t parts) {
  const int64_t count = walk.batch * walk.nodes;
  int64_t* tokens = static_cast<int64_t*>(walk.launch.workspace);
  uint64_t* bests = reinterpret_cast<uint64_t*>(tokens + count);
  return {tokens, bests, reinterpret_cast<int32_t*>(bests + count * parts)};
}

// The child of `node` with this token, or -1.
__device__ int32_t child_with(const TreeWalk& walk, int64_t b, int64_t node, int64_t token) {
  int32_t child = walk.first_child[b][node];
  for (int64_t tried = 0; child >= 0 && child < walk.nodes && tried < walk.nodes; ++tried) {
    if (walk.tokens[b][child] == token) return child;
    child = walk.next_sibling[b][child];
  }
  return -1;
}

// Walks through row b of the batch; the block has found the next tokens.
__device__ void walk_row(const TreeWalk& walk, int64_t b, const WalkSpace& space) {
  const Pointer<const int64_t> tokens = global<const int64_t>(space.tokens) + b * walk.nodes;
  const Pointer<int32_t> children = global(space.children) + b * walk.nodes;
  for (int64_t node = threadIdx.x; node < walk.nodes; node += blockDim.x) {
    children[node] = tokens[node] < 0 ? -1 : child_with(walk, b, node, tokens[node]);
  }
  __syncthreads();
  if (threadIdx.x > 0) return;
  int32_t gained = 0;
  for (int32_t node = 0; node >= 0 && gained < walk.path_capacity; node = children[node]) {
    walk.path[b][gained] = node;
    walk.gained_tokens[b][gained] = tokens[node];
    ++gained;
  }
  global(walk.gained)[b] = gained;
}

// The next tokens from the bests of the rows' parts, then the walk.
__global__ void __launch_bounds__(kMostThreads) walk_greedily(TreeWalk walk, int64_t parts, WalkSpace space) {
  const int64_t b = blockIdx.x;
  for (int64_t node = warp_index(); node < walk.nodes; node += warp_count()) {
    const int64_t row = b * walk.nodes + node;
    const int64_t token = token_of_parts(global<const uint64_t>(space.bests) + row * parts, parts);
    if (lane_index() == 0) global(space.tokens)[row] = token;
  }
  __syncthreads();
  walk_row(walk, b, space);
}

// Block b * nodes + node samples the next token of that node.
template <typename T>
__global__ void __launch_bounds__(kMostThreads) sample_tokens(AcceptSample a, WalkSpace space) {
  LTD_SHARED(Shared, shared);
  const int64_t b = blockIdx.x / static_cast<uint32_t>(a.walk.nodes);
  const int64_t node = blockIdx.x % static_cast<uint32_t>(a.walk.nodes);
  const LogitRow<T> row(a.walk.logits.at<T>(b, node), a.walk.vocabulary);
  const Distribution d = warped(row, a.warp, shared);
  int64_t token = -1;
  if (d.valid) {
    token = draw(row, d, sampling_uniform(a.seed, a.positions[b][node], global(a.rows)[b], kTargetStream), shared).id;
  }
  if (threadIdx.x == 0) global(space.tokens)[blockIdx.x] = token;
}

__global__ void __launch_bounds__(kMostThreads) walk_sampled(TreeWalk walk, WalkSpace space) {
  walk_row(walk, blockIdx.x, space);
}

// Threads of the blocks that walk, if each looks after so many nodes.
int walk_threads(const TreeWalk& walk, int64_t threads_per_node) {
  return static_cast<int>(at_most(ceil_div(walk.nodes * threads_per_node, kWarp) * kWarp, kMostThreads));
}

}  // namespace

int64_t accept_greedy_workspace(const AcceptGreedy& a) {
  return walk_bytes(a.walk, argmax_parts(a.walk.logits, a.walk.vocabulary));
}

void accept_greedy(const AcceptGreedy& a) {
  const TreeWalk& walk = a.walk;
  if (walk.batch == 0) return;
  const int64_t parts = argmax_parts(walk.logits, walk.vocabulary);
  const WalkSpace space = walk_space(walk, parts);
  launch_argmax(walk.logits, walk.batch, walk.nodes, walk.vocabulary, space.bests, walk.launch.stream);
  launch(walk_greedily, static_cast<unsigned>(walk.batch), walk_threads(walk, kWarp), 0, walk.launch.stream, walk,
         parts, space);
}

int64_t accept_sample_workspace(const AcceptSample& a) { return walk_bytes(a.walk, 0); }

void accept_sample(const AcceptSample& a) {
  const TreeWalk& walk = a.walk;
  if (walk.batch == 0) return;
  const WalkSpace space = walk_space(walk, 0);
  with_type(walk.logits.dtype, [&](auto type) {
    launch(sample_tokens<decltype(type)>, static_cast<unsigned>(walk.batch * walk.nodes),
           threads_of_row(walk.vocabulary), 0, walk.launch.stream, a, space);
  });
  launch(walk_sampled, static_cast<unsigned>(walk.batch), walk_threads(walk, 1), 0, walk.launch.stream, walk, space);
}

}  // namespace ltd::cuda
