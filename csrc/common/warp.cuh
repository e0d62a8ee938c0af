// What the lanes of a warp find together. All of them take part, in an order that does not depend on anything.
#pragma once

#include "common/device.cuh"

namespace ltd::cuda {

// combine(a, b) over the values of all lanes, for every lane; it must not matter which of the two comes first.
template <typename T, typename Combine>
__device__ inline T warp_reduce(T value, Combine combine) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value = combine(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
  return value;
}

template <typename T>
__device__ inline T warp_sum(T value) {
  return warp_reduce(value, [](T a, T b) { return a + b; });
}

// Of what is not NaN; NaN if all are.
__device__ inline float warp_max(float value) {
  return warp_reduce(value, [](float a, float b) { return fmaxf(a, b); });
}

// NaN if one is.
__device__ inline float warp_max_or_nan(float value) {
  return warp_reduce(value, [](float a, float b) { return larger_or_nan(a, b); });
}

// The sum of the values of the lanes up to this one.
template <typename T>
__device__ inline T warp_inclusive_sum(T value) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const T other = __shfl_up_sync(kAllLanes, value, distance);
    if (lane >= distance) value += other;
  }
  return value;
}

}  // namespace ltd::cuda
