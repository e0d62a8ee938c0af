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

struct VectorArithmetic {
  using Number = Floats;
  using Word = Words;

  // Rounded to nearest.
  static LTD_INLINE Floats from_word(Words word) {
#if defined(__AVX512F__)
    return (Floats)_mm512_maskz_cvtepu32_ps(0xffff, (__m512i)word);
#else
    // Both halves are exact, and their sum is rounded once.
    return from_signed(word >> 16) * 65536.0f + from_signed(word & 0xffffu);
#endif
  }
  static LTD_INLINE Floats from_signed(Words word) { return __builtin_convertvector((Ints)word, Floats); }
  static LTD_INLINE Words bits(Floats number) { return (Words)number; }
  static LTD_INLINE Floats number(Words bits) { return (Floats)bits; }
  static LTD_INLINE Words shift_with_sign(Words word, int count) { return (Words)((Ints)word >> count); }
  static LTD_INLINE Floats where_zero(Floats tested, Floats then, Floats otherwise) {
    return tested == 0.0f ? then : otherwise;
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
  alignas(64) uint32_t words[kChunk];
  for (int64_t start = first; start < last; start += kChunk) {
    const int64_t count = at_most(last - start, kChunk);
    make_words(place, start, count, words);
    for (int64_t i = 0; i < count; i += kLanes) {
      const Floats made = Gumbel<VectorArithmetic>::noise(load_raw<Words>(words + i));
      if (i + kLanes <= count) {
        store(noise + start + i, made);
      } else {
        store_some(noise + start + i, made, count - i);
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
