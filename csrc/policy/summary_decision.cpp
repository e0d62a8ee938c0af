#include "policy/summary_decision.h"

#include "policy/state_sums.h"

namespace ltd::LTD_ISA {
namespace {

// The largest `count` values that it has been given, descending; -20 where there were fewer above -20.
class Ranking {
 public:
  explicit Ranking(int64_t count) : count_(count) {
    for (int64_t i = 0; i < kLanes; ++i) room_[i] = kInfinity;
    for (int64_t i = 0; i < kMaxRanked; ++i) values()[i] = kLeastRanked;
  }

  LTD_INLINE float* values() { return room_ + kLanes; }

  // Nearly all scores fail the comparison with the least of the ranking, kLanes of them at once. NaN fails it too.
  LTD_INLINE void add(const float* scores, int64_t score_count) {
    for (int64_t i = 0; i < score_count; i += kLanes) {
      const int64_t left = score_count - i;
      const Floats several = left >= kLanes ? load(scores + i) : load_some(scores + i, left, kLeastRanked);
      if (!any(several > splat(least()))) continue;
      for (int lane = 0; lane < kLanes; ++lane) {
        if (several[lane] > least()) insert(several[lane]);
      }
    }
  }

 private:
  LTD_INLINE float least() { return values()[count_ - 1]; }

  // Every place takes the larger of what it holds and what comes down to it: its neighbour above, or the value if that
  // is smaller. From the end, so that neighbours are read before they change. Above the first place is infinity.
  LTD_INLINE void insert(float value) {
    for (int64_t i = (count_ - 1) / kLanes * kLanes; i >= 0; i -= kLanes) {
      const Floats above = load(values() + i - 1);
      const Floats coming = above < splat(value) ? above : splat(value);
      store(values() + i, larger(load(values() + i), coming));
    }
  }

  int64_t count_;
  float room_[kLanes + kMaxRanked];
};

static_assert(kMaxRanked % kLanes == 0);

// Writes the ranking's scores and their exponentials; returns the sum of the latter.
float write_ranked(Ranking& ranking, int64_t count, float* scores, float* exponentials) {
  const float* values = ranking.values();
  float rounded_up[kMaxRanked];
  for (int64_t i = 0; i < count; i += kLanes) store(rounded_up + i, exp_nonpositive(load(values + i)));
  float sum = 0.0f;
  for (int64_t i = 0; i < count; ++i) {
    scores[i] = values[i] / kRankedUnit;
    exponentials[i] = rounded_up[i];
    sum += rounded_up[i];
  }
  return sum;
}

// The numbers that the networks read here; the state's are left out.
void observe(const SummaryDecision& a, int64_t b, float* observation) {
  Ranking best(a.best), newest(a.newest);
  best.add(a.scores[b], a.score_count);
  newest.add(a.scores[b] + a.newest_from, a.score_count - a.newest_from);
  const int64_t ranked = a.best + a.newest;
  float* const exponentials = observation + ranked;
  float* rest = exponentials + ranked;
  *rest++ = write_ranked(best, a.best, observation, exponentials);
  *rest++ = write_ranked(newest, a.newest, observation + a.best, exponentials + a.best);
  *rest++ = a.length_range.shown(a.lengths[b]);
  for (int64_t depth = 0; depth <= kMaxDepth; ++depth) *rest++ = depth == a.depth ? 1.0f : 0.0f;
  float* const text = observation + a.text_from();
  for (int64_t i = 0; i < a.text_size; ++i) text[i] = a.text[b][i];
}

}  // namespace

void summary_decision(const SummaryDecision& a) {
  const int64_t width = a.width(), depth_room = room_of(a.depth_network), size_room = room_of(a.size_network);
  const int64_t room_size = depth_room > size_room ? depth_room : size_room;
  SummaryState state = a.state();
  thread_local Scratch scratch;
  float* const observation = scratch.reserve<float>(width + room_size + a.batch * a.sums_to_find());
  float* const room = observation + width;
  Rows<const float> sums = a.sums;
  if (a.sums_to_find() > 0) {
    state.sums = {room + room_size, state.outputs()};
    sum_states(state);
    sums = {state.sums.data, state.sums.batch_stride};
  }
  const Span used = a.state_size > 0 ? Span{a.state_from(), a.text_from()} : Span{width, width};
  for (int64_t b = 0; b < a.batch; ++b) {
    observe(a, b, observation);
    const auto action_of = [&](const PolicyNetwork& network, int64_t first_sum) {
      if (network.layer_count == 0) return 0;
      const float* const bias = a.reads_state() ? sums[b] + first_sum : network.layers[0].bias;
      return choose_action(network, observation, used, bias, room);
    };
    a.actions[b][0] = action_of(a.depth_network, 0);
    a.actions[b][1] = action_of(a.size_network, state.layers[0].outputs);
  }
}

}  // namespace ltd::LTD_ISA
