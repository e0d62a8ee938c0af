// A policy's network, as the bindings hand it to the kernels.
#pragma once

#include "common/types.h"

namespace ltd {

inline constexpr int kMaxPolicyLayers = 8;
inline constexpr int64_t kMaxLayerOutputs = 1 << 20;
inline constexpr float kLengthUnit = 1000.0f;

// The context lengths that a policy was trained on; any, where they are unknown. Of all numbers in an observation the
// length alone has no bound of its own, so one beyond these is shown as the nearest of them.
struct LengthRange {
  int32_t shortest = 0;
  int32_t longest = INT32_MAX;

  LTD_INLINE float shown(int32_t length) const {
    const int32_t nearest = length < shortest ? shortest : length > longest ? longest : length;
    return static_cast<float>(nearest) / kLengthUnit;
  }
};

// outputs = weight * inputs + bias.
struct PolicyLayer {
  const float* weight;  // (outputs, inputs), contiguous
  const float* bias;    // (outputs)
  int64_t inputs;
  int64_t outputs;
};

// Layers with ReLU or tanh between them. The action is the index of the largest output, the smallest such index.
struct PolicyNetwork {
  PolicyLayer layers[kMaxPolicyLayers];
  int layer_count;
  bool uses_tanh;
  int threads;
};

}  // namespace ltd
