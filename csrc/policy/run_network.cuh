// Runs the layers of a policy's network. Included by kernel sources only.
#pragma once

#include "common/device.cuh"
#include "common/warp.cuh"
#include "policy/network.h"

namespace ltd::cuda {
namespace {

// Inputs that are not 0 by construction: [0, head) and [tail, inputs).
struct Span {
  int head;
  int tail;
};

LTD_INLINE int64_t widest_layer(const PolicyNetwork& network) {
  int64_t widest = 0;
  for (int i = 0; i < network.layer_count; ++i) {
    widest = network.layers[i].outputs > widest ? network.layers[i].outputs : widest;
  }
  return widest;
}

// The sum of weights[i] * input(i), of which a lane reads kWeights at once; for a whole warp.
template <int kWeights, typename Input>
__device__ float dot(Pointer<const float> weights, int inputs, Span used, const Input& input) {
  const int head_packs = static_cast<int>(ceil_div(used.head, kWeights));
  const int tail_pack = used.tail / kWeights > head_packs ? used.tail / kWeights : head_packs;
  const int packs = head_packs + inputs / kWeights - tail_pack;
  float sum = 0.0f;
#pragma unroll 4
  for (int i = threadIdx.x % kWarp; i < packs; i += kWarp) {
    const int first = (i < head_packs ? i : i - head_packs + tail_pack) * kWeights;
    const Pack<float, kWeights> values = load_pack<kWeights>(weights + first);
#pragma unroll
    for (int j = 0; j < kWeights; ++j) {
      if (first + j < used.head || first + j >= used.tail) sum = fmaf(values[j], input(first + j), sum);
    }
  }
  return warp_sum(sum);
}

__device__ inline float activated(float value, bool uses_tanh) {
  if (uses_tanh) return tanhf(value);
  return value < 0.0f ? 0.0f : value;
}

// Rows of a layer that a warp computes: first, first + step, ...
struct Share {
  int64_t first;
  int64_t step;
};

// Outputs of layer `index`, activated unless it is the last; for a whole warp.
template <typename Input>
__device__ void apply_rows(const PolicyNetwork& network, int index, Span used, const Input& input,
                           Pointer<const float> bias, Share share, Pointer<float> outputs) {
  const PolicyLayer& layer = network.layers[index];
  const Pointer<const float> weights = global(layer.weight);
  const int inputs = static_cast<int>(layer.inputs);
  const bool aligned = inputs % 4 == 0 && is_aligned(weights, 16);
  for (int64_t row = share.first; row < layer.outputs; row += share.step) {
    const Pointer<const float> row_weights = weights + row * inputs;
    const float sum = aligned ? dot<4>(row_weights, inputs, used, input) : dot<1>(row_weights, inputs, used, input);
    if (threadIdx.x % kWarp > 0) continue;
    const float value = bias[row] + sum;
    outputs[row] = index + 1 < network.layer_count ? activated(value, network.uses_tanh) : value;
  }
}

// Where layers leave their outputs: in one half and the other by turns.
struct Activations {
  Pointer<float> data;
  int64_t half;

  __device__ Pointer<float> of_layer(int index) const { return data + index % 2 * half; }
};

// A layer whose inputs are the observation or, behind the first layer, the outputs of the one before. The observation
// says what the first layer's bias is: its own, or with what others have worked out of the rest of the observation.
template <typename Observation>
__device__ void apply_layer(const PolicyNetwork& network, int index, const Observation& observation,
                            const Activations& activations, Share share) {
  const Pointer<float> outputs = activations.of_layer(index);
  if (index == 0) {
    apply_rows(network, index, observation.used(), observation, observation.bias(network), share, outputs);
  } else {
    const int inputs = static_cast<int>(network.layers[index].inputs);
    const Pointer<float> values = activations.of_layer(index - 1);
    const Pointer<const float> bias = global(network.layers[index].bias);
    apply_rows(network, index, {inputs, inputs}, [&](int i) { return values[i]; }, bias, share, outputs);
  }
}

// Layers begin ... end - 1, all by this block.
template <typename Observation>
__device__ void apply_layers(const PolicyNetwork& network, int begin, int end, const Observation& observation,
                             const Activations& activations) {
  const Share share{threadIdx.x / kWarp, blockDim.x / kWarp};
  for (int index = begin; index < end; ++index) {
    apply_layer(network, index, observation, activations, share);
    __syncthreads();
  }
}

// The index of the last layer's largest output, the smallest such index; NaN is larger than nothing, and nothing is
// larger than it. For a whole warp.
__device__ inline int largest_output(const PolicyNetwork& network, const Activations& activations) {
  const int last = network.layer_count - 1;
  const Pointer<float> outputs = activations.of_layer(last);
  float largest = outputs[0];
  int place = 0;
  for (int i = threadIdx.x % kWarp; i < network.layers[last].outputs; i += kWarp) {
    const float value = outputs[i];
    place = value > largest ? i : place;
    largest = value > largest ? value : largest;
  }
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, largest, distance);
    const int other_place = __shfl_xor_sync(kAllLanes, place, distance);
    if (other > largest || (other == largest && other_place < place)) {
      largest = other;
      place = other_place;
    }
  }
  return place;
}

}  // namespace
}  // namespace ltd::cuda
