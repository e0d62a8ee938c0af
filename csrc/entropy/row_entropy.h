// row_entropy: the entropy, in nats, of the softmax over each row of logits.
//
// With y = x - max x and Z = Σ e^y it is log Z - Σ e^y * y / Z, never negative. A logit of -inf contributes nothing; a
// row with NaN or +inf, or with -inf only, has no distribution: its entropy is NaN.
#pragma once

#include "common/types.h"

namespace ltd {

// Values of y below this count as this: e to them is 0 in float, and their product is 0, not NaN, where they are -inf.
inline constexpr float kLeastDifference = -200.0f;

struct RowEntropy {
  AnyMatrices logits;  // (B, rows, vocabulary)
  int64_t batch;       // B
  int64_t rows;
  int64_t vocabulary;     // >= 1
  Rows<float> entropies;  // (B, rows)
  int threads;
  Launch launch;
};

}  // namespace ltd
