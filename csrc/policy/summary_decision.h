// summary_decision: our own observation and both of a policy's networks in one go.
//
// observation = [best and newest scores / 4, their exponentials, the sum of the exponentials of the best and of the
// newest, length within its range / 1000, 1 at the place of the depth among 0 ... 12, state / root of its mean square,
// what the text proposes, as it is]. The best scores are the largest of all, descending; the newest those from
// newest_from on. NaN and scores below -20, and those that are missing, count as -20. At depth -1, before anything is
// drafted, there are no scores, the depth has no place, and the state, which nobody knows yet, counts as 0.
#pragma once

#include "policy/network.h"

namespace ltd {

inline constexpr int64_t kMaxRanked = 64;

struct SummaryDecision {
  Rows<const float> scores;     // (B, n or more)
  const int32_t* lengths;       // (B)
  LengthRange length_range;     // of what is shown of them
  AnyMatrices states;           // (B, 1, H); not read at depth -1
  Rows<const float> text;       // (B, X)
  int64_t batch;                // B
  int64_t score_count;          // n
  int64_t newest_from;          // 0 ... n
  int64_t best;                 // 1 ... kMaxRanked
  int64_t newest;               // 1 ... kMaxRanked
  int64_t depth;                // 0 ... kMaxDepth; with X, from -1 on
  int64_t state_size;           // H
  int64_t text_size;            // X, 0 or kTextFeatures
  PolicyNetwork depth_network;  // without layers, its action is 0
  PolicyNetwork size_network;   // the same
  Rows<int32_t> actions;        // (B, 2)
  Launch launch;

  // Numbers in an observation.
  LTD_INLINE int64_t width() const { return text_from() + text_size; }

  // Where in it the states and the text begin.
  LTD_INLINE int64_t state_from() const { return 2 * (best + newest) + 2 + 1 + (kMaxDepth + 1); }
  LTD_INLINE int64_t text_from() const { return state_from() + state_size; }
};

}  // namespace ltd
