// draft_token and accept_chain: speculative sampling with a chain of tokens that a draft model sampled (Leviathan et
// al., "Fast Inference from Transformers via Speculative Decoding"; Chen et al., "Accelerating Large Language Model
// Decoding with Speculative Sampling").
//
// Every random number belongs to one cycle, one position and one of the three uses (the draft's token, whether it is
// kept, what replaces it), so that all are independent, whatever made the chain end where it ended.
#pragma once

#include "accept/accept.h"

namespace ltd {

struct ChainDraws {
  uint64_t seed;
  int64_t cycle;     // the number of the chain in its call
  int64_t position;  // of the token before the one that is drawn
};

// A token drawn from the distribution of the logits; the first largest logit at temperature 0.
struct DraftToken {
  AnyMatrices logits;  // (1, 1, vocabulary)
  int64_t vocabulary;
  SamplingParameters sampling;  // temperature 0: greedy
  ChainDraws draws;
  int threads;
  Launch launch;
  int64_t* token;  // (1), -1 if the logits hold NaN or +inf, or only -inf
  float* chance;   // (1), the token's probability, at temperature 1 if greedy
};

// Keeps drafted token x with probability min(1, p(x) / q(x)), p and q being the target's and the draft's distributions;
// the first that is not kept is replaced by a token of max(p - q, 0) / sum, and behind a whole chain stands one of p.
// So every token has the distribution p. At temperature 0 tokens are kept as long as they are the target's first
// largest logit.
//
// CUDA's drafted ids and words cannot be looked at before. Where a drafted id is not in the draft's vocabulary, or its
// word not in the target's, the target's own token follows, as if the draft had offered nothing; other such words take
// nothing from p.
struct AcceptChain {
  AnyMatrices logits;        // (1, K + 1, vocabulary), the target's
  AnyMatrices draft_logits;  // (1, K, draft_vocabulary); not read if greedy
  const int64_t* words;      // (draft_vocabulary), the target's ids of the draft's; null = the same
  const int64_t* drafted;    // (K), the draft's ids
  int64_t count;             // K
  int64_t vocabulary;
  int64_t draft_vocabulary;
  SamplingParameters sampling;  // of both; temperature 0: greedy
  ChainDraws draws;             // position: of the target's first row
  int threads;
  Launch launch;
  int64_t* result;  // (2): how many are kept and the token behind them, -1 if the target's logits there are not finite
};

}  // namespace ltd
