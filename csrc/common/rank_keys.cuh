// Values and their indices as whole numbers that rank them: the smaller key is the better, and no two are equal.
#pragma once

#include "common/device.cuh"

namespace ltd::cuda {

// Worse than every other key.
inline constexpr uint64_t kWorstKey = ~uint64_t{0};

// Ranks by (value descending, index ascending). NaN counts as -inf.
__device__ inline uint64_t rank_key(float value, uint32_t index) {
  const float number = fmaxf(value, -kInfinity) + 0.0f;  // -0 becomes +0, which it equals
  const uint32_t bits = __float_as_uint(number);
  const uint32_t ascending = (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
  return (uint64_t{~ascending} << 32) | index;
}

__device__ inline float value_of(uint64_t key) {
  const uint32_t ascending = ~static_cast<uint32_t>(key >> 32);
  return __uint_as_float((ascending & 0x80000000u) ? ascending & 0x7fffffffu : ~ascending);
}

__device__ inline uint32_t index_of(uint64_t key) { return static_cast<uint32_t>(key); }

// Up to N keys in shared memory.
template <int N>
struct alignas(16) KeyList {
  Array<uint64_t, N> keys;

  // How many of the first `count` are better: the key's rank, from 0, if it is one of them.
  __device__ int count_better(int count, uint64_t key) const {
    int better = 0;
#pragma unroll 8
    for (int i = 0; i < count; ++i) better += keys[i] < key;
    return better;
  }
};

}  // namespace ltd::cuda
