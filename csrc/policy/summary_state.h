// summary_state: what the first layers of a summary's networks (summary_decision.h) make of the draft's state. It stays
// the same in all of a cycle's questions, and is nearly all of their work.
//
// sums = [bias + weight * state / root of its mean square] of the depth network's first layer, then of the size
// network's; the weights are the columns of the layers that read the state.
#pragma once

#include "policy/network.h"

namespace ltd {

inline constexpr float kStateEpsilon = 1e-6f;  // added to the mean square

struct SummaryState {
  AnyMatrices states;     // (B, 1, H)
  int64_t batch;          // B
  int64_t state_size;     // H
  int64_t state_from;     // where the state begins in an observation
  PolicyLayer layers[2];  // the first of the depth network and of the size network; no outputs without a network
  Rows<float> sums;       // (B, outputs of both)
  int threads;
  Launch launch;

  LTD_INLINE int64_t outputs() const { return layers[0].outputs + layers[1].outputs; }
};

}  // namespace ltd
