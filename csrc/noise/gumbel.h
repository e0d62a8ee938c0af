// Gumbel noise from 32 random bits: g = -ln(E) with E = -ln(1 - u) and u = (word + 1/2) * 2^-32.
//
// E, an exponential number, is accurate where it is small, which is where the winners of an argmax are: u is rounded to
// 24 bits of its own, not to multiples of 2^-24. -3.14 < g < 22.88; it is within kNoiseError of what the formula gives
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

  // ln(2^exponent * (1 + rest)). The polynomial is Cephes' (Moshier, logf.c), and so are the two parts of ln(2).
  static LTD_INLINE Number log_of(Parts x) {
    const Number r = x.rest;
    Number sum = r * 7.0376836292e-2f - 1.1514610310e-1f;
    sum = sum * r + 1.1676998740e-1f;
    sum = sum * r - 1.2420140846e-1f;
    sum = sum * r + 1.4249322787e-1f;
    sum = sum * r - 1.6668057665e-1f;
    sum = sum * r + 2.0000714765e-1f;
    sum = sum * r - 2.4999993993e-1f;
    sum = sum * r + 3.3333331174e-1f;
    const Number square = r * r;
    const Number tail = sum * r * square - x.exponent * 2.12194440e-4f - square * 0.5f;
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
