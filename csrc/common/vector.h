// Vectors of kLanes floats for the instruction set that this translation unit is compiled for, by the vector extensions
// of GCC and Clang. Included by kernel sources only. Everything is in an unnamed namespace: see LTD_INLINE for the
// reason.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__aarch64__) && !defined(LTD_EMULATED_TILES)
#include <arm_neon.h>
#define LTD_NEON
#endif

#include "common/types.h"

namespace ltd::LTD_ISA {
namespace {

#if defined(__AVX512F__) || defined(LTD_EMULATED_TILES)  // tiles are wide, emulated on a narrow processor too
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

constexpr float kInfinity = __builtin_inff();

typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef int32_t Ints __attribute__((vector_size(kLanes * 4)));
typedef uint32_t Words __attribute__((vector_size(kLanes * 4)));
typedef uint16_t HalfWords __attribute__((vector_size(kLanes * 2)));
typedef double Doubles __attribute__((vector_size(kLanes * 8)));

// x - 0 is x for every x, unlike x + 0: the compiler leaves the subtraction out.
LTD_INLINE Floats splat(float value) { return value - Floats{}; }
LTD_INLINE Ints splat(int32_t value) { return Ints{} + value; }

template <typename Vector>
LTD_INLINE Vector load_raw(const void* source) {
  Vector vector;
  std::memcpy(&vector, source, sizeof vector);
  return vector;
}

LTD_INLINE Floats load(const float* source) { return load_raw<Floats>(source); }

LTD_INLINE Floats load(const BFloat16* source) {
#if defined(__AVX512F__)
  // GCC 12 would widen the two halves one by one. Masked: see the load of Float16.
  return (Floats)((Words)_mm512_maskz_cvtepu16_epi32(0xffff, load_raw<__m256i>(source)) << 16);
#else
  return (Floats)(__builtin_convertvector(load_raw<HalfWords>(source), Words) << 16);
#endif
}

LTD_INLINE Floats load(const Float16* source) {
#if defined(__AVX512F__)
  // Masked, with all lanes on: GCC 12 warns of the uninitialised operand inside the plain form.
  return (Floats)_mm512_maskz_cvtph_ps(0xffff, load_raw<__m256i>(source));
#elif defined(__F16C__)
  return (Floats)_mm256_cvtph_ps(load_raw<__m128i>(source));
#elif defined(LTD_NEON)
  return (Floats)vcvt_f32_f16(load_raw<float16x4_t>(source));
#else
  // Shifted down with its sign, all of which but one is then left out.
  const Ints shifted = (Ints)(__builtin_convertvector(load_raw<HalfWords>(source), Words) << 16) >> 3;
  const Words placed = (Words)shifted & 0x8fffe000u;
  // The product moves the exponent to float's bias, and makes subnormal halves normal. Infinity and NaN need all its
  // bits.
  const Words scaled = (Words)((Floats)placed * 0x1p112f);
  const Words special = (Words)((placed & 0x0f800000u) == 0x0f800000u) & 0x7f800000u;
  return (Floats)(scaled | special);
#endif
}

LTD_INLINE void store(float* target, Floats values) { std::memcpy(target, &values, sizeof values); }

// Rounds to nearest, ties to even; NaN stays NaN.
LTD_INLINE void store(BFloat16* target, Floats values) {
  const Words bits = (Words)values;
  const Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Words quiet = (bits >> 16) | 0x40;
  const HalfWords halves = __builtin_convertvector((values == values) ? rounded : quiet, HalfWords);
  std::memcpy(target, &halves, sizeof halves);
}

LTD_INLINE void store(Float16* target, Floats values) {
#if defined(__AVX512F__)
  const __m256i halves = _mm512_maskz_cvtps_ph(0xffff, (__m512)values, _MM_FROUND_TO_NEAREST_INT);
  std::memcpy(target, &halves, sizeof halves);
#elif defined(__F16C__)
  const __m128i halves = _mm256_cvtps_ph((__m256)values, _MM_FROUND_TO_NEAREST_INT);
  std::memcpy(target, &halves, sizeof halves);
#elif defined(LTD_NEON)
  const float16x4_t halves = vcvt_f16_f32((float32x4_t)values);
  std::memcpy(target, &halves, sizeof halves);
#else
  const Words bits = (Words)values;
  const Words magnitude = bits & 0x7fffffff;
  const Words normal = (magnitude - 0x38000000u + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // Adding a half makes the float's unit in the last place that of a subnormal half: the addition rounds as wanted.
  const Words subnormal = (Words)((Floats)magnitude + 0.5f) - 0x3f000000u;
  Words half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x477ff000u ? (Words{} + 0x7c00u) : half;
  half = magnitude > 0x7f800000u ? (Words{} + 0x7e00u) : half;
  const HalfWords halves = __builtin_convertvector(half | ((bits >> 16) & 0x8000), HalfWords);
  std::memcpy(target, &halves, sizeof halves);
#endif
}

// `count` < kLanes elements; the other lanes become `fill`.
template <typename T>
LTD_INLINE Floats load_some(const T* source, int64_t count, float fill) {
  T elements[kLanes] = {};
  std::memcpy(elements, source, count * sizeof(T));
  Floats values = load(elements);
  for (int64_t lane = count; lane < kLanes; ++lane) values[lane] = fill;
  return values;
}

LTD_INLINE Floats load_some(const float* source, int64_t count, float fill) {
#if defined(__AVX512F__)
  return (Floats)_mm512_mask_loadu_ps((__m512)splat(fill), static_cast<__mmask16>((1u << count) - 1), source);
#else
  Floats values = splat(fill);
  std::memcpy(&values, source, count * sizeof(float));
  return values;
#endif
}

template <typename T>
LTD_INLINE void store_some(T* target, Floats values, int64_t count) {
  T elements[kLanes];
  store(elements, values);
  std::memcpy(target, elements, count * sizeof(T));
}

LTD_INLINE Floats larger(Floats a, Floats b) { return a > b ? a : b; }

// a0 b0 a1 b1 ... of the first halves of a and b, or of the second.
#if defined(__clang__)
template <int kFirst, int... kIndices>
LTD_INLINE Floats interleave(Floats a, Floats b, std::integer_sequence<int, kIndices...>) {
  return __builtin_shufflevector(a, b, (kFirst + kIndices / 2 + kIndices % 2 * kLanes)...);
}
template <int kFirst>
LTD_INLINE Floats interleave(Floats a, Floats b) {
  return interleave<kFirst>(a, b, std::make_integer_sequence<int, kLanes>());
}
#else
template <int kFirst>
LTD_INLINE Floats interleave(Floats a, Floats b) {
  Ints indices;
  for (int lane = 0; lane < kLanes; ++lane) indices[lane] = kFirst + lane / 2 + lane % 2 * kLanes;
  return __builtin_shuffle(a, b, indices);
}
#endif

// Transposes kLanes vectors. Interleaving row i with row i + kLanes / 2 rotates the bits of an element's (row, lane)
// number by one; after as many steps as a lane number has bits, row and lane have changed places.
LTD_INLINE void transpose(Floats (&rows)[kLanes]) {
  for (int step = 1; step < kLanes; step *= 2) {
    Floats next[kLanes];
    for (int i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = interleave<0>(rows[i], rows[i + kLanes / 2]);
      next[2 * i + 1] = interleave<kLanes / 2>(rows[i], rows[i + kLanes / 2]);
    }
    for (int i = 0; i < kLanes; ++i) rows[i] = next[i];
  }
}

LTD_INLINE bool any(Ints condition) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)condition, (__m512i)condition) != 0;
#elif defined(__AVX2__) && !defined(LTD_EMULATED_TILES)
  return _mm256_movemask_ps((__m256)condition) != 0;
#elif defined(__SSE2__) && !defined(LTD_EMULATED_TILES)
  return _mm_movemask_ps((__m128)condition) != 0;
#elif defined(LTD_NEON)
  return vmaxvq_u32((uint32x4_t)condition) != 0;
#else
  int32_t found = 0;
  for (int lane = 0; lane < kLanes; ++lane) found |= condition[lane];
  return found != 0;
#endif
}

// In every step lane i of each half meets lane i of the other: after the last one all lanes have met.
LTD_INLINE float largest_lane(Floats values) {
  for (int step = 1; step < kLanes; step *= 2) {
    values = larger(interleave<0>(values, values), interleave<kLanes / 2>(values, values));
  }
  return values[0];
}

LTD_INLINE float sum_lanes(Floats values) {
  for (int step = 1; step < kLanes; step *= 2) {
    values = interleave<0>(values, values) + interleave<kLanes / 2>(values, values);
  }
  return values[0];
}

LTD_INLINE double sum_lanes(Doubles values) {
  double result = values[0];
  for (int lane = 1; lane < kLanes; ++lane) result += values[lane];
  return result;
}

constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.693147182f;

// 2^whole * e^rest for a whole number >= -126 (given in both types) and |rest| <= ln(2)/2. The polynomial was fitted to
// (e^r - 1 - r) / r^2 at Chebyshev nodes; its relative error is 1e-8. Of numbers that are too large for it the result
// is rubbish, which callers replace: in words without a sign, which may wrap.
LTD_INLINE Floats scaled_exp(Ints whole, Floats rest) {
  Floats sum = splat(0.00139336884f);
  sum = sum * rest + 0.00836320501f;
  sum = sum * rest + 0.0416664630f;
  sum = sum * rest + 0.166665763f;
  sum = sum * rest + 0.5f;
  sum = sum * (rest * rest) + rest + 1.0f;
  return sum * (Floats)(((Words)whole + 127) << 23);
}

// Adding this to a float of magnitude < 2^22 rounds it to a whole number, which then stands in the low bits.
constexpr float kRounder = 12582912.0f;

// e^x for x <= 0 to 2 units in the last place; results below the normal floats are 0, NaN stays NaN.
LTD_INLINE Floats exp_nonpositive(Floats x) {
  const Floats shifted = x * kLog2E + kRounder;
  const Floats whole = shifted - kRounder;
  const Floats rest = x - whole * 0.693359375f - whole * -2.12194440e-4f;
  const Floats result = scaled_exp((Ints)((Words)shifted - (Words)splat(kRounder)), rest);
  return x < -87.3f ? Floats{} : result;
}

// 2^x, likewise.
LTD_INLINE Floats exp2_nonpositive(Floats x) {
  const Floats shifted = x + kRounder;
  const Floats rest = (x - (shifted - kRounder)) * kLn2;
  const Floats result = scaled_exp((Ints)((Words)shifted - (Words)splat(kRounder)), rest);
  return x < -126.0f ? Floats{} : result;
}

}  // namespace
}  // namespace ltd::LTD_ISA
