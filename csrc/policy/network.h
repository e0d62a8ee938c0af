// A policy's network, as the bindings hand it to the kernels.
#pragma once

#include "common/types.h"

namespace ltd {

inline constexpr int kMaxPolicyLayers = 8;
inline constexpr int64_t kMaxLayerOutputs = 1 << 20;

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
