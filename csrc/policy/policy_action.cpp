#include "policy/policy_action.h"

#include "common/scratch.h"
#include "common/vector.h"

namespace ltd::LTD_ISA {
namespace {

constexpr float kLowestScore = -100.0f;

// Below this many weights a second thread costs more than it saves.
constexpr int64_t kWeightsPerThread = 65536;

// Four accumulators hide the latency of the additions.
LTD_INLINE float dot(const float* a, const float* b, int64_t count) {
  Floats sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    for (int s = 0; s < 4; ++s) sums[s] += load(a + i + s * kLanes) * load(b + i + s * kLanes);
  }
  for (; i < count; i += kLanes) {
    const int64_t left = count - i;
    sums[0] += left >= kLanes ? load(a + i) * load(b + i) : load_some(a + i, left, 0.0f) * load_some(b + i, left, 0.0f);
  }
  return sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// Inputs that are not 0 by construction: [0, head) and [tail, inputs).
struct Span {
  int64_t head;
  int64_t tail;
};

void apply(const PolicyLayer& layer, Span used, const float* inputs, float* outputs, bool rectify, int max_threads) {
  const int64_t useful_threads = layer.outputs * layer.inputs / kWeightsPerThread + 1;
  [[maybe_unused]] const int threads = static_cast<int>(useful_threads < max_threads ? useful_threads : max_threads);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
  for (int64_t row = 0; row < layer.outputs; ++row) {
    const float* weights = layer.weight + row * layer.inputs;
    float value = layer.bias[row] + dot(weights, inputs, used.head);
    if (used.tail < layer.inputs) value += dot(weights + used.tail, inputs + used.tail, layer.inputs - used.tail);
    outputs[row] = rectify && value < 0.0f ? 0.0f : value;
  }
}

void observe(const PolicyAction& a, int64_t b, float* observation) {
  const float* scores = a.scores[b];
  for (int64_t i = 0; i < a.score_count; ++i) observation[i] = scores[i] > kLowestScore ? scores[i] : kLowestScore;
  for (int64_t i = a.score_count; i < a.score_slots; ++i) observation[i] = 0.0f;
  float* rest = observation + a.score_slots;
  for (int64_t i = 0; i < a.repeats; ++i) {
    rest[i] = static_cast<float>(a.lengths[b]) / 1000.0f;
    rest[a.repeats + i] = static_cast<float>(a.depth) / 10.0f;
  }
}

int32_t largest_index(const float* values, int64_t count) {
  int64_t best = 0;
  for (int64_t i = 1; i < count; ++i) best = values[i] > values[best] ? i : best;
  return static_cast<int32_t>(best);
}

}  // namespace

void policy_action(const PolicyAction& a) {
  int64_t widest = a.layers[0].inputs;
  for (int i = 0; i < a.layer_count; ++i) widest = a.layers[i].outputs > widest ? a.layers[i].outputs : widest;
  thread_local Scratch scratch;
  float* inputs = scratch.reserve<float>(2 * widest);
  float* outputs = inputs + widest;
  for (int64_t b = 0; b < a.batch; ++b) {
    observe(a, b, inputs);
    Span used{a.score_count, a.score_slots};
    for (int i = 0; i < a.layer_count; ++i) {
      apply(a.layers[i], used, inputs, outputs, i + 1 < a.layer_count, a.threads);
      float* const swapped = inputs;
      inputs = outputs;
      outputs = swapped;
      used = {a.layers[i].outputs, a.layers[i].outputs};
    }
    a.actions[b] = largest_index(inputs, a.layers[a.layer_count - 1].outputs);
  }
}

}  // namespace ltd::LTD_ISA
