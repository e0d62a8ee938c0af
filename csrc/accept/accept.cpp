#include "accept/accept.h"

#include "accept/distribution.h"
#include "accept/philox.h"

namespace ltd::LTD_ISA {
namespace {

// The child of `node` with this token, or -1.
int32_t child_with(const TreeWalk& walk, int64_t b, int32_t node, int64_t token) {
  int32_t child = walk.first_child[b][node];
  for (int64_t tried = 0; child >= 0 && child < walk.nodes && tried < walk.nodes; ++tried) {
    if (walk.tokens[b][child] == token) return child;
    child = walk.next_sibling[b][child];
  }
  return -1;
}

// Walks one row of the batch; next_token(row, node) chooses the token from a row of logits with its peaks found.
template <typename T, typename NextToken>
LTD_INLINE void walk_row(const TreeWalk& walk, int64_t b, Buffers& buffers, NextToken next_token) {
  int32_t node = 0;
  int32_t gained = 0;
  while (node >= 0 && gained < walk.path_capacity) {
    const Row<T> row = read_row(walk.logits.at<T>(b, node), walk.vocabulary, walk.threads, buffers);
    const int64_t token = row.valid ? next_token(row, node) : -1;
    walk.path[b][gained] = node;
    walk.gained_tokens[b][gained] = token;
    ++gained;
    node = token < 0 ? -1 : child_with(walk, b, node, token);
  }
  walk.gained[b] = gained;
}

thread_local Buffers walk_buffers;

}  // namespace

void accept_greedy(const AcceptGreedy& a) {
  with_type(a.walk.logits.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t b = 0; b < a.walk.batch; ++b) {
      walk_row<T>(a.walk, b, walk_buffers, [](const Row<T>& row, int32_t) { return first_peak(row); });
    }
  });
}

void accept_sample(const AcceptSample& a) {
  with_type(a.walk.logits.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t b = 0; b < a.walk.batch; ++b) {
      walk_row<T>(a.walk, b, walk_buffers, [&](const Row<T>& row, int32_t node) {
        const Weights weights = weights_of(row, a.sampling, walk_buffers);
        return draw(row, weights, sampling_uniform(a.seed, a.positions[b][node], a.rows[b], kTargetStream));
      });
    }
  });
}

}  // namespace ltd::LTD_ISA
