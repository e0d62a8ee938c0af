// The noise of places on the device.
#pragma once

#include "common/device.cuh"
#include "noise/gumbel.h"
#include "noise/philox.h"
#include "noise/place_noise.h"

namespace ltd::cuda {
namespace {

// A number whose products and sums are not fused with one another.
struct Unfused {
  float value;
  LTD_INLINE Unfused(float value) : value(value) {}
};

#ifdef __CUDA_ARCH__
LTD_INLINE Unfused operator+(Unfused a, Unfused b) { return __fadd_rn(a.value, b.value); }
LTD_INLINE Unfused operator-(Unfused a, Unfused b) { return __fsub_rn(a.value, b.value); }
LTD_INLINE Unfused operator*(Unfused a, Unfused b) { return __fmul_rn(a.value, b.value); }
#else
LTD_INLINE Unfused operator+(Unfused a, Unfused b) { return a.value + b.value; }
LTD_INLINE Unfused operator-(Unfused a, Unfused b) { return a.value - b.value; }
LTD_INLINE Unfused operator*(Unfused a, Unfused b) { return a.value * b.value; }
#endif
LTD_INLINE Unfused operator-(Unfused a) { return -a.value; }

struct DeviceArithmetic {
  using Number = Unfused;
  using Word = uint32_t;

  static LTD_INLINE Unfused from_word(uint32_t word) { return static_cast<float>(word); }
  static LTD_INLINE Unfused from_signed(uint32_t word) { return static_cast<float>(static_cast<int32_t>(word)); }
  static LTD_INLINE uint32_t bits(Unfused number) {
    uint32_t bits;
    memcpy(&bits, &number.value, sizeof bits);
    return bits;
  }
  static LTD_INLINE Unfused number(uint32_t bits) {
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
  }
  static LTD_INLINE uint32_t shift_with_sign(uint32_t word, int count) {
    return static_cast<uint32_t>(static_cast<int32_t>(word) >> count);
  }
  static LTD_INLINE Unfused where_zero(Unfused tested, Unfused then, Unfused otherwise) {
    return tested.value == 0.0f ? then : otherwise;
  }
};

// A place, as the generator knows it.
struct NoisePlace {
  uint32_t position;
  uint32_t row;
  uint64_t seed;

  __device__ NoisePlace(Pointer<const int64_t> seed, int64_t row, int64_t position)
      : position(static_cast<uint32_t>(position)),
        row(static_cast<uint32_t>(row)),
        seed(static_cast<uint64_t>(seed[0])) {}

  // Words for the tokens 4 * block ... 4 * block + 3.
  __device__ PhiloxBlock words(uint32_t block) const {
    return philox4x32_10({{position, row, block, kNoiseStream}}, static_cast<uint32_t>(seed),
                         static_cast<uint32_t>(seed >> 32));
  }
  __device__ float noise(uint32_t token) const {
    const PhiloxBlock random = words(token / 4);
    uint32_t word = random.words[0];
#pragma unroll
    for (uint32_t i = 1; i < 4; ++i) word = token % 4 == i ? random.words[i] : word;
    return Gumbel<DeviceArithmetic>::noise(word).value;
  }
};

__device__ inline NoisePlace place_of(const NoiseRing& ring, int64_t b, int64_t position) {
  return {global(ring.seed), global(ring.rows)[b], position};
}

constexpr int kNoiseThreads = 256;
constexpr int64_t kNoisePart = 16 * kNoiseThreads;  // tokens whose noise a block makes at a time

// How many blocks make the noise of a place.
inline unsigned noise_blocks(int64_t vocabulary) {
  constexpr int64_t kMostBlocks = 1024;
  return static_cast<unsigned>(at_most(ceil_div(vocabulary, kNoisePart), kMostBlocks));
}

// The part of a place's noise that is this block's, number `worker` of `workers`.
__device__ inline void make_noise(const NoisePlace& place, int64_t vocabulary, unsigned worker, unsigned workers,
                                  Pointer<float> noise) {
  for (int64_t begin = worker * kNoisePart; begin < vocabulary; begin += workers * kNoisePart) {
    const int64_t end = at_most(begin + kNoisePart, vocabulary);
    for (int64_t first = begin + 4 * threadIdx.x; first < end; first += 4 * blockDim.x) {
      const PhiloxBlock random = place.words(static_cast<uint32_t>(first / 4));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (first + i < end) noise[first + i] = Gumbel<DeviceArithmetic>::noise(random.words[i]).value;
      }
    }
  }
}

}  // namespace
}  // namespace ltd::cuda
