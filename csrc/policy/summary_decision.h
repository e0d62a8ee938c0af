// summary_decision: our own observation and both of a policy's networks in one go.
//
// observation = [best and newest scores / 4, their exponentials, the sum of the exponentials of the best and of the
// newest, length within its range / 1000, 1 at the place of the depth among 0 ... 12, state / root of its mean square,
// what the text proposes, as it is]. The best scores are the largest of all, descending; the newest those from
// newest_from on. NaN and scores below -20, and those that are missing, count as -20. At depth -1, before anything is
// drafted, there are no scores, the depth has no place, and the state, which nobody knows yet, counts as 0.
//
// Of the first layers' sums the state's part comes first, with the bias, then the others: whether summary_state has
// worked it out before or not, the results are the same to the last bit.
#pragma once

#include "policy/summary_state.h"

namespace ltd {

inline constexpr int64_t kMaxRanked = 64;
inline constexpr float kLeastRanked = -20.0f;
inline constexpr float kRankedUnit = 4.0f;

struct SummaryDecision {
  Rows<const float> scores;     // (B, n or more)
  const int32_t* lengths;       // (B)
  LengthRange length_range;     // of what is shown of them
  AnyMatrices states;           // (B, 1, H); not read at depth -1, and with sums
  Rows<const float> sums;       // those of summary_state; data == null: found here
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

  LTD_INLINE bool reads_state() const { return state_size > 0 && depth >= 0; }

  // What summary_state is asked here, but for where its sums go.
  LTD_INLINE SummaryState state() const {
    const auto first = [](const PolicyNetwork& network) {
      return network.layer_count > 0 ? network.layers[0] : PolicyLayer{};
    };
    SummaryState state{};
    state.states = states;
    state.batch = batch;
    state.state_size = state_size;
    state.state_from = state_from();
    state.layers[0] = first(depth_network);
    state.layers[1] = first(size_network);
    state.threads = depth_network.threads;
    state.launch = launch;
    return state;
  }

  // Sums of a sequence that nobody has given.
  LTD_INLINE int64_t sums_to_find() const { return reads_state() && sums.data == nullptr ? state().outputs() : 0; }
};

}  // namespace ltd
