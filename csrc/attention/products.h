// The matrix products of attention, and how their operands are stored. Included by kernel sources only.
//
// An arithmetic multiplies words: a word is one float, or a pair of bfloat16 that are multiplied and added up in one
// instruction. The first factor of a product is read word by word and broadcast, the second in whole vectors.
#pragma once

#include "common/vector.h"

namespace ltd::LTD_ISA {
namespace {

// Register block of the products: kTileRows x kTileVectors accumulators.
#if defined(__AVX512F__)
constexpr int kTileRows = 8;
#else
constexpr int kTileRows = 4;
#endif
constexpr int kTileVectors = 3;

// Words of the first factor: element (m, k) at data[m * row_stride + k * step].
template <typename Word>
struct Factor {
  const Word* data;
  int64_t row_stride;
  int64_t step;
};

struct FloatArithmetic {
  using Word = float;
  static constexpr int64_t kElements = 1;  // of a word

  // A word in every lane.
  LTD_INLINE static Floats spread(Word word) { return splat(word); }
  LTD_INLINE static Floats multiply_add(Floats sum, Floats factors, Floats row) { return sum + factors * row; }

  // Vectors of query words.
  template <typename T>
  LTD_INLINE static Floats query_words(const T* source, int64_t count) {
    return count >= kLanes ? load(source) : load_some(source, count, 0.0f);
  }

  // Rows as float32: what is stored, or a converted copy.
  LTD_INLINE static Factor<Word> rows(const float* source, int64_t stride, int64_t, int64_t, Word*) {
    return {source, stride, 1};
  }
  template <typename T>
  LTD_INLINE static Factor<Word> rows(const T* source, int64_t stride, int64_t count, int64_t head_dim, Word* copy) {
    for (int64_t r = 0; r < count; ++r) {
      int64_t d = 0;
      for (; d + kLanes <= head_dim; d += kLanes) store(copy + r * head_dim + d, load(source + r * stride + d));
      if (d == head_dim) continue;
      store_some(copy + r * head_dim + d, load_some(source + r * stride + d, head_dim - d, 0.0f), head_dim - d);
    }
    return {copy, head_dim, 1};
  }

  template <typename T>
  LTD_INLINE static Factor<Word> keys(const T* source, int64_t stride, int64_t count, int64_t head_dim, Word* copy) {
    return rows(source, stride, count, head_dim, copy);
  }
  template <typename T>
  LTD_INLINE static Factor<Word> values(const T* source, int64_t stride, int64_t count, int64_t head_dim, Word* copy) {
    const Factor<Word> factor = rows(source, stride, count, head_dim, copy);
    return {factor.data, 1, factor.row_stride};
  }
};

struct BFloat16Words {
  using Word = uint32_t;
  static constexpr int64_t kElements = 2;

  LTD_INLINE static Floats query_words(const BFloat16* source, int64_t count) {
    if (count >= 2 * kLanes) return load_raw<Floats>(source);
    float words[kLanes] = {};
    std::memcpy(words, source, count * sizeof(BFloat16));
    return load(words);
  }
};

#if defined(__AVX512BF16__)
struct BFloat16Arithmetic : BFloat16Words {
  // Pairs are read in place: they must not straddle rows.
  static bool fits(const void* data, int64_t strides, int64_t head_dim) {
    return reinterpret_cast<uintptr_t>(data) % 4 == 0 && strides % 2 == 0 && head_dim % 2 == 0;
  }

  LTD_INLINE static Floats spread(Word word) { return (Floats)_mm512_set1_epi32(static_cast<int>(word)); }
  LTD_INLINE static Floats multiply_add(Floats sum, Floats factors, Floats row) {
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)factors, (__m512bh)row);
  }

  LTD_INLINE static Factor<Word> keys(const BFloat16* source, int64_t stride, int64_t, int64_t, Word*) {
    return {reinterpret_cast<const Word*>(source), stride / 2, 1};
  }

  // Word (k, d): element d of rows 2k and 2k + 1, or 0 behind the last row.
  LTD_INLINE static Factor<Word> values(const BFloat16* source, int64_t stride, int64_t count, int64_t head_dim,
                                        Word* copy) {
    for (int64_t r = 0; r < count; r += 2) {
      const BFloat16* even = source + r * stride;
      Word* words = copy + r / 2 * head_dim;
      for (int64_t d = 0; d < head_dim; d += kLanes) {
        const int64_t lanes = head_dim - d;
        const Words high = r + 1 < count ? (Words)some(even + stride + d, lanes) : Words{};
        const Words pairs = ((Words)some(even + d, lanes) >> 16) | high;
        // Words too many are overwritten by the next row, or fit behind the last.
        std::memcpy(words + d, &pairs, sizeof pairs);
      }
    }
    return {copy, 1, head_dim};
  }

  // Rounds two vectors to bfloat16 and pairs them lane by lane.
  LTD_INLINE static Floats pair(Floats low, Floats high) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (Floats)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low));
  }

 private:
  LTD_INLINE static Floats some(const BFloat16* source, int64_t lanes) {
    return lanes >= kLanes ? load(source) : load_some(source, lanes, 0.0f);
  }
};
#endif

// Whether no number in some rows is infinite or NaN. By the largest of their bits without the sign, as whole numbers: a
// maximum is ready sooner for the next one than a sum.
template <typename T>
bool are_finite(const T* rows, int64_t stride, int64_t count, int64_t head_dim) {
  constexpr int32_t kBitsOfInfinity = 0x7f800000;
  Ints largest{};
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t d = 0; d < head_dim; d += kLanes) {
      const T* const source = rows + r * stride + d;
      const Floats values = head_dim - d >= kLanes ? load(source) : load_some(source, head_dim - d, 0.0f);
      const Ints bits = (Ints)values & 0x7fffffff;
      largest = bits > largest ? bits : largest;
    }
  }
  return !any(largest >= kBitsOfInfinity);
}

// c[m][n] (+)= sum over k of a(m, k) * b[k][n] for M rows m and V vectors of n; rows of b and c are V vectors of words,
// floats.
template <typename Arithmetic, int M, int V, bool kAdd>
LTD_INLINE void product_tile(Factor<typename Arithmetic::Word> a, const float* b, int64_t depth, float* c) {
  Floats sums[M][V];
  for (int m = 0; m < M; ++m) {
    for (int v = 0; v < V; ++v) sums[m][v] = kAdd ? load(c + (m * V + v) * kLanes) : Floats{};
  }
  for (int64_t k = 0; k < depth; ++k) {
    Floats row[V];
    for (int v = 0; v < V; ++v) row[v] = load(b + (k * V + v) * kLanes);
    for (int m = 0; m < M; ++m) {
      typename Arithmetic::Word factor;
      std::memcpy(&factor, a.data + m * a.row_stride + k * a.step, sizeof factor);
      const Floats factors = Arithmetic::spread(factor);
      for (int v = 0; v < V; ++v) sums[m][v] = Arithmetic::multiply_add(sums[m][v], factors, row[v]);
    }
  }
  for (int m = 0; m < M; ++m) {
    for (int v = 0; v < V; ++v) store(c + (m * V + v) * kLanes, sums[m][v]);
  }
}

template <typename Arithmetic, int M, int V, bool kAdd>
LTD_INLINE void product(Factor<typename Arithmetic::Word> a, const float* b, int64_t rows, int64_t depth, float* c) {
  int64_t m = 0;
  for (; m + M <= rows; m += M) {
    const Factor<typename Arithmetic::Word> part{a.data + m * a.row_stride, a.row_stride, a.step};
    product_tile<Arithmetic, M, V, kAdd>(part, b, depth, c + m * V * kLanes);
  }
  if constexpr (M > 1) {
    if (m < rows) {
      const Factor<typename Arithmetic::Word> rest{a.data + m * a.row_stride, a.row_stride, a.step};
      product<Arithmetic, M / 2, V, kAdd>(rest, b, rows - m, depth, c + m * V * kLanes);
    }
  }
}

}  // namespace
}  // namespace ltd::LTD_ISA
