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

// Which of the tokens from i on, with logits x, stand before a token in the order in which a nucleus takes them.
LTD_INLINE Ints are_before(Floats x, int64_t i, float logit, int64_t id) {
  Ints ids;
  for (int lane = 0; lane < kLanes; ++lane) ids[lane] = static_cast<int32_t>(i) + lane;
  return (x > logit) | ((x == logit) & (ids < static_cast<int32_t>(id)));
}

// What the tokens before a token weigh.
template <typename T>
double weight_before(const Row<T>& row, const Weights& weights, float logit, int64_t id) {
  double weight = 0.0;
  for (int64_t chunk = 0; chunk < row.chunks(); ++chunk) {
    if (weights.chunk_sums[chunk] == 0.0 || !any(load(row.lane_peaks + chunk * kLanes) >= logit)) continue;
    Doubles sums{};
    for (int64_t i = row.begin(chunk); i < row.end(chunk); i += kLanes) {
      const Floats counted = are_before(row.at(i), i, logit, id) ? load(weights.values + i) : Floats{};
      sums += __builtin_convertvector(counted, Doubles);
    }
    weight += sum_lanes(sums);
  }
  return weight;
}

template <typename T>
int64_t sampled_token(const Row<T>& row, const SamplingParameters& sampling, const float* noise) {
  const float rate = 1.0f / sampling.temperature;
  const float bound = least_logit(row, sampling, walk_buffers);
  int64_t token = best_token(row, rate, noise, [&](Floats x, int64_t) { return x >= bound; });
  if (sampling.top_p == 1.0) return token;
  const Weights weights = weights_above(row, sampling.temperature, bound, walk_buffers);
  // A token stays if what is before it weighs less than top_p of all. Where the best one does not, nor do those behind
  // it: so it is the best of those before it, or the next one, and so on. The first peak always stays.
  for (;;) {
    const float logit = row.at(token)[0];
    if (weight_before(row, weights, logit, token) < sampling.top_p * weights.total) return token;
    token = best_token(row, rate, noise, [&](Floats x, int64_t i) { return are_before(x, i, logit, token); });
  }
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
