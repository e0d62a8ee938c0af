// What an operator works on, in a device's memory.
#pragma once

#include <cstdint>
#include <vector>

#include "common/types.h"
#include "device.h"

namespace ltd::bench {

// Threads of the CPU's kernels.
int thread_count();

BFloat16 to_bfloat16(float value);

// The same numbers at every call: normally distributed, times `scale`. They repeat themselves after a while.
std::vector<BFloat16> bfloat16_noise(int64_t count, float scale);
std::vector<float> float_noise(int64_t count, float scale);

// Blocks of a device's memory that live as long as this.
class Memory {
 public:
  explicit Memory(Device& device) : device_(device) {}
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory();

  Device& device() { return device_; }
  const std::vector<Block>& blocks() const { return blocks_; }

  template <typename T>
  T* copy(const std::vector<T>& values) {
    const int64_t bytes = static_cast<int64_t>(values.size() * sizeof(T));
    void* block = bytes_of(bytes);
    device_.copy_in(block, values.data(), bytes);
    return static_cast<T*>(block);
  }

  template <typename T>
  T* zeros(int64_t count) {
    return copy(std::vector<T>(count));
  }

  void* bytes_of(int64_t bytes);

 private:
  Device& device_;
  std::vector<Block> blocks_;
};

}  // namespace ltd::bench
