// accept_greedy and accept_sample: the walk through the tree along the target's own tokens.
//
// At every node the target's next token t is determined, by argmax or by sampling; the node and t are recorded. If a
// child of the node has the token t the walk goes on there, otherwise t is the bonus token and the walk ends. A visited
// row that holds NaN or +inf, or nothing but -inf, has no next token: -1 is recorded and the walk ends.
#pragma once

#include "common/types.h"
#include "noise/place_noise.h"

namespace ltd {

// The part that both operators share.
struct TreeWalk {
  AnyMatrices logits;                // (B, N, vocabulary); the CPU reads no rows but the visited ones
  Rows<const int64_t> tokens;        // (B, N)
  Rows<const int32_t> first_child;   // (B, N), -1 = none
  Rows<const int32_t> next_sibling;  // (B, N), -1 = none
  int64_t batch;
  int64_t nodes;
  int64_t vocabulary;
  int64_t path_capacity;        // P: the walk ends there
  Rows<int32_t> path;           // (B, P), visited nodes
  Rows<int64_t> gained_tokens;  // (B, P)
  int32_t* gained;              // (B), entries recorded
  int threads;
  Launch launch;
};

struct AcceptGreedy {
  TreeWalk walk;
};

// What makes logits the distribution that tokens are drawn from: softmax(logits / temperature) after top-k (all logits
// >= the k-th largest stay), then top-p (a token stays if the mass of the strictly better ones, ties broken by smaller
// id, is < top_p).
struct SamplingParameters {
  float temperature;  // 1e-30 ... 1e30: neither it nor its reciprocal is 0 or infinite
  int64_t top_k;      // 0 = off
  double top_p;       // 1 = off
};

// t is the token v, of those that stay, with the largest logit / temperature + noise[v] of the node's position; of
// equal ones the smaller id. It has that distribution (noise/place_noise.h), and does not depend on the tree. In
// numbers: (logit - peak) * (1 / temperature) + noise, each operation rounded to float, `peak` being the row's largest
// logit.
struct AcceptSample {
  TreeWalk walk;
  Rows<const int64_t> positions;  // (B, N), 0 ... 2^32 - 1
  SamplingParameters sampling;
  NoiseRing ring;
};

}  // namespace ltd
