#include "memory.h"

#include <algorithm>
#include <cstring>
#include <random>

namespace ltd::bench {
namespace {

constexpr int64_t kPeriod = 65521;  // a prime, so that rows of the usual sizes differ

const std::vector<float>& normal_numbers() {
  static const std::vector<float> numbers = [] {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> made(kPeriod);
    for (float& number : made) number = normal(random);
    return made;
  }();
  return numbers;
}

template <typename T, typename Make>
std::vector<T> repeated(int64_t count, Make make) {
  const std::vector<float>& numbers = normal_numbers();
  std::vector<T> made(count);
  for (int64_t i = 0; i < std::min(count, kPeriod); ++i) made[i] = make(numbers[i]);
  for (int64_t i = kPeriod; i < count; i += kPeriod) {
    std::memcpy(made.data() + i, made.data(), std::min(count - i, kPeriod) * sizeof(T));
  }
  return made;
}

}  // namespace

BFloat16 to_bfloat16(float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  return {static_cast<uint16_t>(bits >> 16)};
}

std::vector<BFloat16> bfloat16_noise(int64_t count, float scale) {
  return repeated<BFloat16>(count, [scale](float number) { return to_bfloat16(scale * number); });
}

std::vector<float> float_noise(int64_t count, float scale) {
  return repeated<float>(count, [scale](float number) { return scale * number; });
}

Memory::~Memory() {
  for (const Block& block : blocks_) device_.release(block.data);
}

void* Memory::bytes_of(int64_t bytes) {
  blocks_.push_back({device_.allocate(std::max<int64_t>(bytes, 1)), bytes});
  return blocks_.back().data;
}

}  // namespace ltd::bench
