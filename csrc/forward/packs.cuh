// Rows in packs of kPack numbers, read and written as floats: 16 bytes at once where a row's memory allows it, else one
// number.
#pragma once

#include "common/device.cuh"

namespace ltd::cuda {

// Numbers of type T that are read or written in one go.
template <typename T>
inline constexpr int kWidePack = 16 / sizeof(T);

template <int kPack, typename T>
__device__ inline void load_floats(Pointer<const T> source, float (&values)[kPack]) {
  constexpr int kOnce = kPack < kWidePack<T> ? kPack : kWidePack<T>;
#pragma unroll
  for (int start = 0; start < kPack; start += kOnce) {
    const Pack<T, kOnce> pack = load_pack<kOnce>(source + start);
#pragma unroll
    for (int i = 0; i < kOnce; ++i) values[start + i] = to_float(pack[i]);
  }
}

// Rounds them to T.
template <int kPack, typename T>
__device__ inline void store_floats(Pointer<T> target, const float (&values)[kPack]) {
  Pack<T, kPack> pack;
#pragma unroll
  for (int i = 0; i < kPack; ++i) pack[i] = from_float<T>(values[i]);
  store_pack(target, pack);
}

// Values as type T holds them.
template <typename T>
__device__ inline float rounded(float value) {
  return to_float(from_float<T>(value));
}

// Calls function(std::integral_constant of the numbers in a pack).
template <typename T, typename Function>
void with_pack(bool is_aligned, Function&& function) {
  if (is_aligned) {
    function(std::integral_constant<int, kWidePack<T>>());
  } else {
    function(std::integral_constant<int, 1>());
  }
}

// Whether all of these, addresses or distances in bytes, are multiples of 16.
template <typename... Numbers>
bool are_wide(Numbers... numbers) {
  return ((static_cast<uintptr_t>(numbers) | ...) % 16) == 0;
}

inline uintptr_t address_of(const void* data) { return reinterpret_cast<uintptr_t>(data); }

}  // namespace ltd::cuda
