#include "accept/accept.h"

#include "accept/distribution.h"
#include "noise/gumbel.h"
#include "noise/noise_rows.h"

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

// The token of the largest value so far; of equal values the smallest id.
struct BestToken {
  float value;
  int64_t id;

  LTD_INLINE void offer(float other, int64_t other_id) {
    if (other > value || (other == value && other_id < id)) *this = {other, other_id};
  }
};

// The token that stays and has the largest value. keeps(x, i) says in which lanes the logits x from i on stay; the
// first peak does.
template <typename T, typename Keeps>
LTD_INLINE int64_t best_token(const Row<T>& row, float rate, const float* noise, Keeps keeps) {
  const int64_t peak_id = first_peak(row);
  BestToken best{noise[peak_id], peak_id};
  for (int64_t chunk = 0; chunk < row.chunks(); ++chunk) {
    // Noise is bounded: most chunks hold nothing that it could lift so far.
    if (!any((load(row.lane_peaks + chunk * kLanes) - row.peak) * rate + kMostNoise >= best.value)) continue;
    for (int64_t i = row.begin(chunk); i < row.end(chunk); i += kLanes) {
      const Floats x = row.at(i);
      const int64_t count = row.vocabulary - i;
      const Floats lift = count >= kLanes ? load(noise + i) : load_some(noise + i, count, -kInfinity);
      const Floats values = keeps(x, i) ? (x - row.peak) * rate + lift : splat(-kInfinity);
      if (!any(values >= best.value)) continue;
      for (int lane = 0; lane < kLanes; ++lane) best.offer(values[lane], i + lane);
    }
  }
  return best.id;
}

template <typename T>
int64_t sampled_token(const Row<T>& row, const SamplingParameters& sampling, const float* noise) {
  const float rate = 1.0f / sampling.temperature;
  if (sampling.top_p == 1.0) {
    const float bound = least_logit(row, sampling, walk_buffers);
    return best_token(row, rate, noise, [&](Floats x, int64_t) { return x >= bound; });
  }
  const Weights weights = weights_of(row, sampling, walk_buffers);
  return best_token(row, rate, noise, [&](Floats, int64_t i) {
    return (weights.chunk_sums[i / kChunk] > 0.0 ? load(weights.values + i) : Floats{}) > 0.0f;
  });
}

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
        return sampled_token(row, a.sampling, noise_of(a.ring, b, a.positions[b][node], a.walk.threads));
      });
    }
  });
}

}  // namespace ltd::LTD_ISA
