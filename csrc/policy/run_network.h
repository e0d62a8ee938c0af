// Runs a policy's network on one observation. Included by kernel sources only.
#pragma once

#include "common/scratch.h"
#include "common/team.h"
#include "common/vector.h"
#include "policy/network.h"

namespace ltd::LTD_ISA {
namespace {

// Below this many weights a second thread costs more than it saves.
constexpr int64_t kWeightsPerThread = 65536;

// Inputs that are not 0 by construction: [0, head) and [tail, inputs).
struct Span {
  int64_t head;
  int64_t tail;
};

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

LTD_INLINE void apply_row(const PolicyLayer& layer, Span used, const float* inputs, float* outputs, int64_t row) {
  const float* weights = layer.weight + row * layer.inputs;
  float value = layer.bias[row] + dot(weights, inputs, used.head);
  if (used.tail < layer.inputs) value += dot(weights + used.tail, inputs + used.tail, layer.inputs - used.tail);
  outputs[row] = value;
}

// Calls compute(row) for the rows of a layer, each of which reads so many weights.
template <typename Compute>
LTD_INLINE void for_rows(int64_t rows, int64_t weights, int max_threads, const Compute& compute) {
  const int64_t useful_threads = rows * weights / kWeightsPerThread + 1;
  const int threads = static_cast<int>(useful_threads < max_threads ? useful_threads : max_threads);
  for_items(threads, rows, compute);
}

// The built-in is libm's function. std::tanh might leave a copy of itself for all instruction sets (see LTD_INLINE).
void activate(float* values, int64_t count, bool uses_tanh) {
  if (uses_tanh) {
    for (int64_t i = 0; i < count; ++i) values[i] = __builtin_tanhf(values[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) values[i] = values[i] < 0.0f ? 0.0f : values[i];
  }
}

int32_t largest_index(const float* values, int64_t count) {
  int64_t best = 0;
  for (int64_t i = 1; i < count; ++i) best = values[i] > values[best] ? i : best;
  return static_cast<int32_t>(best);
}

// Floats that choose_action needs.
LTD_INLINE int64_t room_of(const PolicyNetwork& network) {
  int64_t widest = 0;
  for (int i = 0; i < network.layer_count; ++i) {
    widest = network.layers[i].outputs > widest ? network.layers[i].outputs : widest;
  }
  return 2 * widest;
}

// What a network makes of an observation, of which the numbers in `used` may not be 0. The bias of the first layer is
// `first_bias`: the layer's own, or with what others have worked out of the rest of the observation.
inline int32_t choose_action(const PolicyNetwork& network, const float* observation, Span used, const float* first_bias,
                             float* room) {
  const float* inputs = observation;
  float* outputs = room;
  for (int i = 0; i < network.layer_count; ++i) {
    PolicyLayer layer = network.layers[i];
    if (i == 0) layer.bias = first_bias;
    for_rows(layer.outputs, layer.inputs, network.threads,
             [&](int64_t row) { apply_row(layer, used, inputs, outputs, row); });
    if (i + 1 < network.layer_count) activate(outputs, layer.outputs, network.uses_tanh);
    inputs = outputs;
    outputs = outputs == room ? room + room_of(network) / 2 : room;
    used = {layer.outputs, layer.outputs};
  }
  return largest_index(inputs, network.layers[network.layer_count - 1].outputs);
}

}  // namespace
}  // namespace ltd::LTD_ISA
