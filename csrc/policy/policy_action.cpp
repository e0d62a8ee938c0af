#include "policy/policy_action.h"

#include "policy/run_network.h"

namespace ltd::LTD_ISA {
namespace {

void observe(const PolicyAction& a, int64_t b, float* observation) {
  const float* scores = a.scores[b];
  for (int64_t i = 0; i < a.score_count; ++i) observation[i] = scores[i] > kLowestScore ? scores[i] : kLowestScore;
  for (int64_t i = a.score_count; i < a.score_slots; ++i) observation[i] = 0.0f;
  float* rest = observation + a.score_slots;
  for (int64_t i = 0; i < a.repeats; ++i) {
    rest[i] = a.length_range.shown(a.lengths[b]);
    rest[a.repeats + i] = static_cast<float>(a.depth) / 10.0f;
  }
}

}  // namespace

void policy_action(const PolicyAction& a) {
  const int64_t width = a.score_slots + 2 * a.repeats;
  thread_local Scratch scratch;
  float* const observation = scratch.reserve<float>(width + room_of(a.network));
  for (int64_t b = 0; b < a.batch; ++b) {
    observe(a, b, observation);
    a.actions[b] = choose_action(a.network, observation, {a.score_count, a.score_slots}, a.network.layers[0].bias,
                                 observation + width);
  }
}

}  // namespace ltd::LTD_ISA
