// The sums of summary_state. Included by kernel sources only.
#pragma once

#include "policy/run_network.h"
#include "policy/summary_state.h"

namespace ltd::LTD_ISA {
namespace {

// The state divided by the root of its mean square.
template <typename T>
LTD_INLINE void normalise_state(const T* state, int64_t size, float* target) {
  Floats squares{};
  for (int64_t i = 0; i < size; i += kLanes) {
    const int64_t left = size - i;
    const Floats values = left >= kLanes ? load(state + i) : load_some(state + i, left, 0.0f);
    squares += values * values;
    left >= kLanes ? store(target + i, values) : store_some(target + i, values, left);
  }
  const float scale = 1.0f / __builtin_sqrtf(sum_lanes(squares) / static_cast<float>(size) + kStateEpsilon);
  for (int64_t i = 0; i < size; ++i) target[i] *= scale;
}

void sum_states(const SummaryState& a) {
  if (a.state_size == 0) {
    for (int64_t b = 0; b < a.batch; ++b) {
      float* sums = a.sums[b];
      for (const PolicyLayer& layer : a.layers) {
        for (int64_t row = 0; row < layer.outputs; ++row) *sums++ = layer.bias[row];
      }
    }
    return;
  }
  thread_local Scratch scratch;
  float* const state = scratch.reserve<float>(a.state_size);
  for (int64_t b = 0; b < a.batch; ++b) {
    with_type(a.states.dtype,
              [&](auto type) { normalise_state(a.states.at<decltype(type)>(b, 0), a.state_size, state); });
    float* sums = a.sums[b];
    for (const PolicyLayer& layer : a.layers) {
      for_rows(layer.outputs, a.state_size, a.threads, [&](int64_t row) {
        sums[row] = layer.bias[row] + dot(layer.weight + row * layer.inputs + a.state_from, state, a.state_size);
      });
      sums += layer.outputs;
    }
  }
}

}  // namespace
}  // namespace ltd::LTD_ISA
