// Arithmetic of the tensor cores and conversions of numbers, as CUDA does them.
#include "common/device.cuh"

namespace ltd::cuda {

template <>
float from_float<float>(float value) {
  return value;
}

template <>
BFloat16 from_float<BFloat16>(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

template <>
Float16 from_float<Float16>(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (std::isnan(value)) return {0x7fff};
  if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // 65520 and more
  if (magnitude < 0x38800000u) {  // below 2^-14: multiples of 2^-24, to which adding 2^-1 rounds
    const float sum = std::bit_cast<float>(magnitude) + 0.5f;
    return {static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(sum) - std::bit_cast<uint32_t>(0.5f)))};
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return {static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
}

namespace {

struct Tiles {
  float (*d)[4];
  const uint32_t (*a)[4];
  const uint32_t (*b)[2];
};

template <typename T>
float half_of(uint32_t word, int half) {
  return to_float(T{static_cast<uint16_t>(word >> (16 * half))});
}

// Products of 11-bit or 8-bit mantissas are exact in float32; they are added to d one after the other.
template <typename T>
void multiply(void* const (&lanes)[emulation::kLanes], uint32_t) {
  float a[16][16];
  float b[16][8];
  for (int lane = 0; lane < emulation::kLanes; ++lane) {
    const Tiles& tiles = *static_cast<const Tiles*>(lanes[lane]);
    const int group = lane / 4;
    for (int half = 0; half < 2; ++half) {
      const int pair = lane % 4 * 2 + half;
      for (int word = 0; word < 4; ++word) {
        a[group + word % 2 * 8][pair + word / 2 * 8] = half_of<T>((*tiles.a)[word], half);
      }
      for (int word = 0; word < 2; ++word) b[pair + word * 8][group] = half_of<T>((*tiles.b)[word], half);
    }
  }
  for (int lane = 0; lane < emulation::kLanes; ++lane) {
    float (&d)[4] = *static_cast<const Tiles*>(lanes[lane])->d;
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8;
      const int column = lane % 4 * 2 + i % 2;
      for (int k = 0; k < 16; ++k) d[i] += a[row][k] * b[k][column];
    }
  }
}

template <typename T>
void multiply_together(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                       const emulation::Location& where) {
  Tiles mine{&d, &a, &b};
  emulation::meet_warp("multiply_tiles", kAllLanes, &mine, multiply<T>, where);
}

}  // namespace

template <>
void multiply_tiles<BFloat16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                              emulation::Location where) {
  multiply_together<BFloat16>(d, a, b, where);
}

template <>
void multiply_tiles<Float16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], emulation::Location where) {
  multiply_together<Float16>(d, a, b, where);
}

}  // namespace ltd::cuda
