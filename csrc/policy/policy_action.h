// depth_action and size_action: a policy's observation and its network in one go.
//
// observation = [scores clamped to >= -100, zeros up to score_slots, length within its range / 1000 x repeats,
// depth / 10 x repeats] (the paper's vectors: 100 + 14 + 14 for the depth, 1210 + 29 + 29 for the size). NaN scores
// count as -100.
#pragma once

#include "policy/network.h"

namespace ltd {

inline constexpr float kLowestScore = -100.0f;

struct PolicyAction {
  Rows<const float> scores;  // (B, n)
  const int32_t* lengths;    // (B)
  LengthRange length_range;  // of what is shown of them
  int64_t batch;             // B
  int64_t score_count;       // n <= score_slots
  int64_t score_slots;
  int64_t repeats;
  int64_t depth;
  PolicyNetwork network;
  int32_t* actions;  // (B)
  Launch launch;
};

}  // namespace ltd
