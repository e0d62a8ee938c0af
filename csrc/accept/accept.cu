#include "accept/accept.h"
#include "accept/argmax.cuh"
#include "accept/distribution.cuh"
#include "common/cuda_kernels.h"

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

__global__ void __launch_bounds__(kMostThreads) walk_sampled(TreeWalk walk, const int64_t* next_tokens) {
  await_earlier_kernels();
  const int64_t b = blockIdx.x;
  const SharedTree tree = load_tree(walk, b);
  for (int64_t node = threadIdx.x; node < walk.nodes; node += blockDim.x) {
    tree.next_tokens[node] = global(next_tokens)[b * walk.nodes + node];
  }
  walk_row(walk, b, tree);
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
  if (d.valid) {
    token = draw(row, d, sampling_uniform(a.seed, a.positions[b][node], global(a.rows)[b], kTargetStream), shared).id;
  }
  if (threadIdx.x == 0) global(tokens)[blockIdx.x] = token;
}

// Launches a kernel that walks, in which each node has so many threads.
template <typename Kernel, typename... Arguments>
void launch_walk(Kernel kernel, const TreeWalk& walk, int64_t threads_per_node, const Arguments&... arguments) {
  const int64_t threads = at_most(ceil_div(walk.nodes * threads_per_node, kWarp) * kWarp, kMostThreads);
  launch<kStartsEarly>(kernel, static_cast<unsigned>(walk.batch), static_cast<int>(threads),
                       walk.nodes * kSharedBytesPerNode, walk.launch.stream, walk, arguments...);
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
  launch_walk(walk_greedily, walk, kWarp, argmax_parts(walk.logits, walk.vocabulary), bests);
}

int64_t accept_sample_workspace(const AcceptSample& a) {
  return a.walk.batch * a.walk.nodes * static_cast<int64_t>(sizeof(int64_t));
}

void accept_sample(const AcceptSample& a) {
  const TreeWalk& walk = a.walk;
  if (walk.batch == 0) return;
  int64_t* tokens = static_cast<int64_t*>(walk.launch.workspace);
  with_type(walk.logits.dtype, [&](auto type) {
    launch<kStartsEarly>(sample_tokens<decltype(type)>, static_cast<unsigned>(walk.batch * walk.nodes),
                         threads_of_row(walk.vocabulary), 0, walk.launch.stream, a, tokens);
  });
  launch_walk(walk_sampled, walk, 1, tokens);
}

}  // namespace ltd::cuda
