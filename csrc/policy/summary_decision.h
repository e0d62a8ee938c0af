// summary_decision: our own observation and both of a policy's networks in one go.
//
// observation = [best and newest scores / 4, their exponentials, the sum of the exponentials of the best and of the
// newest, length within its range / 1000, 1 at the place of the depth among 0 ... 12, state / root of its mean square].
// The best scores are the largest of all, descending; the newest those from newest_from on. NaN and scores below -20,
// and those that are missing, count as -20.
#pragma once

#include "policy/network.h"

namespace ltd {

inline constexpr int64_t kMaxRanked = 64;

struct SummaryDecision {
  Rows<const float> scores;     // (B, n or more)
  const int32_t* lengths;       // (B)
  LengthRange length_range;     // of what is shown of them
  AnyMatrices states;           // (B, 1, H)
  int64_t batch;                // B
  int64_t score_count;          // n
  int64_t newest_from;          // 0 ... n
  int64_t best;                 // 1 ... kMaxRanked
  int64_t newest;               // 1 ... kMaxRanked
  int64_t depth;                // 0 ... kMaxDepth
  int64_t state_size;           // H
  PolicyNetwork depth_network;  // without layers, its action is 0
  PolicyNetwork size_network;   // the same
  Rows<int32_t> actions;        // (B, 2)
  Launch launch;

  // Numbers in an observation.
  LTD_INLINE int64_t width() const { return 2 * (best + newest) + 2 + 1 + (kMaxDepth + 1) + state_size; }
};

}  // namespace ltd
