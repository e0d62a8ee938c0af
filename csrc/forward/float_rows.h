// Rows of the floating-point type that a call of a forward's operators has, which is known at run time only.
#pragma once

#include "common/types.h"

namespace ltd {

// (R, n), the last dimension contiguous; null data is none.
struct FloatRows {
  void* data;
  int64_t row_stride;

  template <typename T>
  LTD_INLINE Pointer<T> at(int64_t row) const {
    return static_cast<T*>(data) + row * row_stride;
  }
};

}  // namespace ltd
