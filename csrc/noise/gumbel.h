// Gumbel noise from 32 random bits: g = -ln(E) with E = -ln(1 - u) and u = (word + 1/2) * 2^-32.
//
// E, an exponential number, is accurate where it is small, which is where the winners of an argmax are: u is rounded to
// 24 bits of its own, not to multiples of 2^-24. -3.14 < g < 22.88, and it is within 1.2e-6 of what the formula gives
// in exact numbers. All kernels do the same operations in the same order and none is fused with another, so that all
// devices and instruction sets make the same bits.
#pragma once

#include "common/types.h"

namespace ltd {

// g is at most -ln(2^-33), rounded.
inline constexpr float kMostNoise = 22.875f;

// `A` says how to compute: with one number on a GPU, with vectors on a CPU. Its products and sums must not be fused.
template <typename A>
struct Gumbel {
  using Number = typename A::Number;
  using Word = typename A::Word;

  // x = 2^exponent * (1 + rest) with sqrt(1/2) <= 1 + rest < sqrt(2), for normal x > 0.
  struct Parts {
    Number exponent;
    Number rest;
  };

  static LTD_INLINE Parts parts_of(Number x) {
    constexpr uint32_t kRootOfHalf = 0x3f3504f3u;
    const Word exponent = A::shift_with_sign(A::bits(x) - kRootOfHalf, 23);
    return {A::from_signed(exponent), A::number(A::bits(x) - (exponent << 23)) - 1.0f};
  }

  // ln(2^exponent * (1 + rest)). The polynomial is fitted to (ln(1 + r) - r + r^2 / 2) / r^3 for a relative error of
  // the logarithm of 3e-8; its terms are added in pairs, so that few of them wait for one another. The two parts of
  // ln(2) are Cephes' (Moshier, logf.c).
  static LTD_INLINE Number log_of(Parts x) {
    const Number r = x.rest;
    const Number square = r * r;
    const Number low = (r * -0.250013381f + 0.333339095f) + (r * -0.16577585f + 0.199630633f) * square;
    const Number high = (r * -0.142674878f + 0.149147674f) + square * 0.087004371f;
    const Number sum = high * (square * square) + low;
    const Number tail = sum * (square * r) - x.exponent * 2.12194440e-4f - square * 0.5f;
    return r + tail + x.exponent * 0.693359375f;
  }

  // (word + 1/2) * 2^-32.
  static LTD_INLINE Number fraction(Word word) { return (A::from_word(word) + 0.5f) * 0x1p-32f; }

  static LTD_INLINE Number noise(Word word) {
    // Of 1 - u its own bits count, but where it is nearly 1 those of u.
    Parts complement = parts_of(fraction(~word));
    complement.rest = A::where_zero(complement.exponent, -fraction(word), complement.rest);
    return -log_of(parts_of(-log_of(complement)));
  }
};

}  // namespace ltd
