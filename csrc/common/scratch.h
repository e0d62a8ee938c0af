// Memory for intermediate results that is kept between calls. Included by kernel sources only.
#pragma once

#include <cstddef>
#include <new>

#include "common/types.h"

namespace ltd::LTD_ISA {
namespace {

// Aligned memory that grows to the largest amount asked for; its content is lost at every call of reserve().
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { release(); }

  template <typename T>
  T* reserve(size_t count) {
    const size_t bytes = count * sizeof(T);
    if (bytes > capacity_) {
      release();
      data_ = ::operator new(bytes, kAlignment);
      capacity_ = bytes;
    }
    return static_cast<T*>(data_);
  }

 private:
  static constexpr std::align_val_t kAlignment{64};

  void release() {
    if (data_ != nullptr) ::operator delete(data_, kAlignment);
    data_ = nullptr;
    capacity_ = 0;
  }

  void* data_ = nullptr;
  size_t capacity_ = 0;
};

}  // namespace
}  // namespace ltd::LTD_ISA
