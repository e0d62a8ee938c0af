// The noise of places, as operators take it.
#pragma once

#include "bindings/checks.h"
#include "noise/place_noise.h"

namespace ltd {

// Random numbers belong to whole numbers of 32 bits, a sequence's or a cycle's ...
inline constexpr int64_t kLargestRow = UINT32_MAX;
// ... and so do those of noise to positions.
inline constexpr int64_t kLargestPlace = UINT32_MAX;

// Kernels multiply by the reciprocal of a float: neither may be 0 or infinite.
inline constexpr double kLeastTemperature = 1e-30;
inline constexpr double kLargestTemperature = 1e30;

// The ring of a batch; -1 is any vocabulary.
NoiseRing noise_ring(const Tensors& tensors, const at::Tensor& noise, const at::Tensor& places, const at::Tensor& rows,
                     const at::Tensor& seed, int64_t batch, int64_t vocabulary);

}  // namespace ltd
