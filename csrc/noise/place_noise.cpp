#include "noise/place_noise.h"

#include "common/team.h"
#include "common/vector.h"
#include "noise/gumbel.h"
#include "noise/noise_rows.h"
#include "noise/philox.h"

namespace ltd::LTD_ISA {
namespace {

// Tokens that a thread takes at a time; with few more than that a second one costs more than it saves.
constexpr int64_t kPart = 4096;
constexpr int64_t kPartsPerThread = 4;

// Of kLanes / 2 counters. The lower halves count; what stands above them is rubbish.
typedef uint64_t Longs __attribute__((vector_size(kLanes * 4)));

// Products of the lower halves with a number.
LTD_INLINE Longs multiply(Longs a, uint32_t b) {
#if defined(__AVX512F__)
  return (Longs)_mm512_maskz_mul_epu32(0xff, (__m512i)a, _mm512_set1_epi64(b));
#elif defined(__AVX2__) && !defined(LTD_EMULATED_TILES)
  return (Longs)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b));
#elif defined(__SSE2__) && !defined(LTD_EMULATED_TILES)
  return (Longs)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(b));
#else
  return (a & 0xffffffffu) * (Longs{} + b);
#endif
}

// Philox4x32-10 (noise/philox.h) of kLanes / 2 counters side by side.
struct Counters {
  Longs words[4];

  LTD_INLINE void encrypt(uint32_t key0, uint32_t key1) {
    Longs* c = words;
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const Longs product0 = multiply(c[0], 0xD2511F53u);
      const Longs product1 = multiply(c[2], 0xCD9E8D57u);
      c[0] = (product1 >> 32) ^ c[1] ^ key0;
      c[1] = product1;
      c[2] = (product0 >> 32) ^ c[3] ^ key1;
      c[3] = product0;
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
  }
};

LTD_INLINE Longs pair(Longs low, Longs high) { return (low & 0xffffffffu) | high << 32; }

// a0 b0 a1 b1 ... of the first halves of a and b, or of the second.
#if defined(__clang__)
template <int kFirst, int... kIndices>
LTD_INLINE Words interleave_longs(Longs a, Longs b, std::integer_sequence<int, kIndices...>) {
  return (Words)__builtin_shufflevector(a, b, (kFirst + kIndices / 2 + kIndices % 2 * (kLanes / 2))...);
}
template <int kFirst>
LTD_INLINE Words interleave_longs(Longs a, Longs b) {
  return interleave_longs<kFirst>(a, b, std::make_integer_sequence<int, kLanes / 2>());
}
#else
template <int kFirst>
LTD_INLINE Words interleave_longs(Longs a, Longs b) {
  Longs indices;
  for (int lane = 0; lane < kLanes / 2; ++lane) indices[lane] = kFirst + lane / 2 + lane % 2 * (kLanes / 2);
  return (Words)__builtin_shuffle(a, b, indices);
}
#endif

// Vectors that are computed with side by side. A step of Gumbel waits for the one before it; other vectors' steps
// between them keep the processor busy.
constexpr int kGroup = 4;

template <typename V>
struct Group {
  V parts[kGroup];
};

// make(i) for every part.
template <typename Make>
LTD_INLINE auto each(Make make) {
  Group<decltype(make(0))> made;
#pragma GCC unroll 4
  for (int i = 0; i < kGroup; ++i) made.parts[i] = make(i);
  return made;
}

using FloatGroup = Group<Floats>;
using WordGroup = Group<Words>;

template <typename V>
LTD_INLINE Group<V> operator+(const Group<V>& a, const Group<V>& b) {
  return each([&](int i) { return a.parts[i] + b.parts[i]; });
}
template <typename V>
LTD_INLINE Group<V> operator-(const Group<V>& a, const Group<V>& b) {
  return each([&](int i) { return a.parts[i] - b.parts[i]; });
}
LTD_INLINE FloatGroup operator*(const FloatGroup& a, const FloatGroup& b) {
  return each([&](int i) { return a.parts[i] * b.parts[i]; });
}
LTD_INLINE FloatGroup operator+(const FloatGroup& a, float b) {
  return each([&](int i) { return a.parts[i] + b; });
}
LTD_INLINE FloatGroup operator-(const FloatGroup& a, float b) {
  return each([&](int i) { return a.parts[i] - b; });
}
LTD_INLINE FloatGroup operator*(const FloatGroup& a, float b) {
  return each([&](int i) { return a.parts[i] * b; });
}
LTD_INLINE FloatGroup operator-(const FloatGroup& a) {
  return each([&](int i) { return -a.parts[i]; });
}
LTD_INLINE WordGroup operator-(const WordGroup& a, uint32_t b) {
  return each([&](int i) { return a.parts[i] - b; });
}
LTD_INLINE WordGroup operator<<(const WordGroup& a, int count) {
  return each([&](int i) { return a.parts[i] << count; });
}
LTD_INLINE WordGroup operator~(const WordGroup& a) {
  return each([&](int i) { return ~a.parts[i]; });
}

LTD_INLINE Floats signed_to_floats(Words words) { return __builtin_convertvector((Ints)words, Floats); }

// Rounded to nearest.
LTD_INLINE Floats to_floats(Words words) {
#if defined(__AVX512F__)
  return (Floats)_mm512_maskz_cvtepu32_ps(0xffff, (__m512i)words);
#else
  // Both halves are exact, and their sum is rounded once.
  return signed_to_floats(words >> 16) * 65536.0f + signed_to_floats(words & 0xffffu);
#endif
}

struct VectorArithmetic {
  using Number = FloatGroup;
  using Word = WordGroup;

  static LTD_INLINE FloatGroup from_word(const WordGroup& words) {
    return each([&](int i) { return to_floats(words.parts[i]); });
  }
  static LTD_INLINE FloatGroup from_signed(const WordGroup& words) {
    return each([&](int i) { return signed_to_floats(words.parts[i]); });
  }
  static LTD_INLINE WordGroup bits(const FloatGroup& numbers) {
    return each([&](int i) { return (Words)numbers.parts[i]; });
  }
  static LTD_INLINE FloatGroup number(const WordGroup& bits) {
    return each([&](int i) { return (Floats)bits.parts[i]; });
  }
  static LTD_INLINE WordGroup shift_with_sign(const WordGroup& words, int count) {
    return each([&](int i) { return (Words)((Ints)words.parts[i] >> count); });
  }
  static LTD_INLINE FloatGroup where_zero(const FloatGroup& tested, const FloatGroup& then,
                                          const FloatGroup& otherwise) {
    return each([&](int i) { return tested.parts[i] == 0.0f ? then.parts[i] : otherwise.parts[i]; });
  }
};

// A place, as the generator knows it.
struct NoisePlace {
  uint32_t position;
  uint32_t row;
  uint32_t key[2];

  NoisePlace(uint64_t seed, int64_t row, int64_t position)
      : position(static_cast<uint32_t>(position)),
        row(static_cast<uint32_t>(row)),
        key{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)} {}
};

// Tokens whose words are made before their noise: each of the two loops then has many of its steps under way at once.
constexpr int64_t kChunk = 1024;

// Words of the tokens first ... first + kChunk - 1; `first` is a multiple of 4.
LTD_INLINE void make_words(const NoisePlace& place, int64_t first, int64_t count, uint32_t* words) {
  Longs block;
  for (int lane = 0; lane < kLanes / 2; ++lane) block[lane] = static_cast<uint64_t>(first / 4 + lane);
  for (int64_t i = 0; i < count; i += 2 * kLanes) {
    Counters random{{Longs{} + place.position, Longs{} + place.row, block, Longs{} + uint64_t{kNoiseStream}}};
    random.encrypt(place.key[0], place.key[1]);
    const Longs front = pair(random.words[0], random.words[1]);
    const Longs back = pair(random.words[2], random.words[3]);
    const Words made[2] = {interleave_longs<0>(front, back), interleave_longs<kLanes / 4>(front, back)};
    std::memcpy(words + i, made, sizeof made);
    block += kLanes / 2;
  }
}

// Noise of the tokens first ... last - 1; `first` is a multiple of 4.
void fill_part(const NoisePlace& place, int64_t first, int64_t last, float* noise) {
  constexpr int64_t kStep = kGroup * kLanes;
  static_assert(kChunk % kStep == 0 && kStep % (2 * kLanes) == 0);
  alignas(64) uint32_t words[kChunk];
  for (int64_t start = first; start < last; start += kChunk) {
    const int64_t count = at_most(last - start, kChunk);
    make_words(place, start, ceil_div(count, kStep) * kStep, words);
    for (int64_t i = 0; i < count; i += kStep) {
      const FloatGroup made = Gumbel<VectorArithmetic>::noise(load_raw<WordGroup>(words + i));
      if (i + kStep <= count) {
        std::memcpy(noise + start + i, made.parts, sizeof made.parts);
      } else {
        std::memcpy(noise + start + i, made.parts, (count - i) * sizeof(float));
      }
    }
  }
}

void fill(const NoisePlace& place, int64_t vocabulary, int threads, float* noise) {
  const int64_t parts = ceil_div(vocabulary, kPart);
  for_items(static_cast<int>(at_most(threads, parts / kPartsPerThread + 1)), parts,
            [&](int64_t part) { fill_part(place, part * kPart, at_most((part + 1) * kPart, vocabulary), noise); });
}

}  // namespace

const float* noise_of(const NoiseRing& ring, int64_t b, int64_t position, int threads) {
  const int64_t slot = ring.slot_of(position);
  float* noise = ring.noise.at(b, slot);
  if (ring.places[b][slot] != position) {
    fill(NoisePlace(static_cast<uint64_t>(*ring.seed), ring.rows[b], position), ring.vocabulary, threads, noise);
    ring.places[b][slot] = position;
  }
  return noise;
}

void place_noise(const PlaceNoise& a) {
  fill(NoisePlace(static_cast<uint64_t>(*a.seed), a.row, a.position), a.vocabulary, a.threads, a.noise);
}

}  // namespace ltd::LTD_ISA
