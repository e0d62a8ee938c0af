// What happens to one row between the products of a forward: norms, rotary positions, activation. Included by sources
// of CPU kernels only.
//
// A function treats an element in a way that depends on nothing but the row's size.
#pragma once

#include <cmath>
#include <type_traits>

#include "common/vector.h"

namespace ltd::LTD_ISA {
namespace {

// Up to kLanes elements; the other lanes are 0.
template <typename T>
LTD_INLINE Floats load_part(const T* source, int64_t count) {
  return count >= kLanes ? load(source) : load_some(source, count, 0.0f);
}

template <typename T>
LTD_INLINE void store_part(T* target, Floats values, int64_t count) {
  count >= kLanes ? store(target, values) : store_some(target, values, count);
}

// Values as type T holds them; for BFloat16 what store() and load() make of them, without leaving the registers.
template <typename T>
LTD_INLINE Floats rounded(Floats values) {
  if constexpr (std::is_same_v<T, float>) return values;
  if constexpr (std::is_same_v<T, Float16>) {
    Float16 elements[kLanes];
    store(elements, values);
    return load(elements);
  }
  const Words bits = (Words)values;
  const Words nearest = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
  const Words quiet = (bits | 0x400000u) & 0xffff0000u;
  return (Floats)((values == values) ? nearest : quiet);
}

// Root-mean-square norm (Zhang and Sennrich, 2019) of `row` (size) of type T; the result may be kept in a wider type.
template <typename T, typename Result>
void norm_row(const T* row, const T* weight, int64_t size, float epsilon, Result* result) {
  Floats squares{};
  for (int64_t i = 0; i < size; i += kLanes) {
    const Floats values = load_part(row + i, size - i);
    squares += values * values;
  }
  const Floats factor = splat(1.0f / std::sqrt(sum_lanes(squares) / static_cast<float>(size) + epsilon));
  for (int64_t i = 0; i < size; i += kLanes) {
    const Floats normed = rounded<T>(load_part(row + i, size - i) * factor);
    store_part(result + i, rounded<T>(normed * load_part(weight + i, size - i)), size - i);
  }
}

// Rotary positions (Su et al., 2021), half-split layout; products are rounded to the tables' type.
template <typename T, typename Table>
void rotate_row(const T* row, const Table* cosines, const Table* sines, int64_t size, T* result) {
  const int64_t half = size / 2;
  for (int64_t i = 0; i < half; i += kLanes) {
    const int64_t count = half - i;
    const Floats low = load_part(row + i, count);
    const Floats high = load_part(row + half + i, count);
    const auto product = [&](Floats values, const Table* factors) {
      return rounded<Table>(values * load_part(factors + i, count));
    };
    store_part(result + i, product(low, cosines) - product(high, sines), count);
    store_part(result + half + i, product(high, cosines + half) + product(low, sines + half), count);
  }
}

// x / (1 + e^-x)
LTD_INLINE Floats silu(Floats x) {
  const Floats decay = exp_nonpositive(x < 0.0f ? x : -x);
  return x * (x < 0.0f ? decay : splat(1.0f)) / (1.0f + decay);
}

}  // namespace
}  // namespace ltd::LTD_ISA
