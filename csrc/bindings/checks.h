// What the operators' bindings share: checks of tensor arguments, and the structs that kernels take in their place.
//
// Bad arguments raise ValueError with the tensor, what was wanted and what it is. In the sizes wanted, -1 is any.
#pragma once

#include <ATen/core/Tensor.h>

#include <type_traits>

#include "common/types.h"

#define LTD_CHECK(condition, ...) TORCH_CHECK_VALUE(condition, __VA_ARGS__)

namespace ltd {

// An argument and what it is called in messages.
struct Named {
  const char* name;
  const at::Tensor& tensor;
};

inline void check_sizes(const Named& a, at::IntArrayRef wanted) {
  LTD_CHECK(a.tensor.dim() == static_cast<int64_t>(wanted.size()), a.name, " must have ", wanted.size(),
            " dimensions, but its shape is ", a.tensor.sizes());
  for (size_t d = 0; d < wanted.size(); ++d) {
    LTD_CHECK(wanted[d] < 0 || a.tensor.size(d) == wanted[d], a.name, " must have size ", wanted[d], " in dimension ",
              d, ", but its shape is ", a.tensor.sizes());
  }
}

inline void check_last_contiguous(const Named& a) {
  LTD_CHECK(a.tensor.size(-1) <= 1 || a.tensor.stride(-1) == 1, a.name,
            " must be contiguous in its last dimension, but its strides are ", a.tensor.strides());
}

inline DType float_type(const Named& a) {
  switch (a.tensor.scalar_type()) {
    case at::kFloat:
      return DType::kFloat32;
    case at::kHalf:
      return DType::kFloat16;
    case at::kBFloat16:
      return DType::kBFloat16;
    default:
      LTD_CHECK(false, a.name, " must be of type Float, Half or BFloat16, but is ", a.tensor.scalar_type());
  }
}

// The tensors of one call, all on the same device.
class Tensors {
 public:
  explicit Tensors(at::Device device) : device_(device) {}

  at::Device device() const { return device_; }

  // Only there can their content be checked without waiting for it.
  bool are_on_cpu() const { return device_.is_cpu(); }

  void check_device(const Named& a) const {
    LTD_CHECK(a.tensor.device() == device_, a.name, " must be on ", are_on_cpu() ? "the CPU" : device_.str(),
              " like the other tensors, but is on ", a.tensor.device());
  }

  // The data of a tensor of this type and these sizes, contiguous in its last dimension.
  const void* checked(const Named& a, at::ScalarType type, at::IntArrayRef sizes) const {
    check_device(a);
    LTD_CHECK(a.tensor.scalar_type() == type, a.name, " must be of type ", type, ", but is ", a.tensor.scalar_type());
    check_sizes(a, sizes);
    check_last_contiguous(a);
    return a.tensor.const_data_ptr();
  }

  // The same for a tensor that must be of another one's type.
  const void* checked_like(const Named& a, const Named& like, at::IntArrayRef sizes) const {
    const at::ScalarType type = like.tensor.scalar_type();
    LTD_CHECK(a.tensor.scalar_type() == type, a.name, " must be of the same type as ", like.name, ", ", type,
              ", but is ", a.tensor.scalar_type());
    return checked(a, type, sizes);
  }

  template <typename T>
  T* checked(const Named& a, at::IntArrayRef sizes) const {
    constexpr at::ScalarType type = c10::CppTypeToScalarType<std::remove_const_t<T>>::value;
    return static_cast<T*>(const_cast<void*>(checked(a, type, sizes)));
  }

  template <typename T>
  Rows<T> rows(const Named& a, int64_t batch, int64_t columns) const {
    T* data = checked<T>(a, {batch, columns});
    return {data, a.tensor.stride(0)};
  }

  template <typename T>
  Matrices<T> matrices(const Named& a, int64_t batch, int64_t matrix_rows, int64_t columns) const {
    T* data = checked<T>(a, {batch, matrix_rows, columns});
    return {data, a.tensor.stride(0), a.tensor.stride(1)};
  }

  // One number for each row of the batch.
  template <typename T>
  T* per_row(const Named& a, int64_t batch) const {
    return checked<T>(a, {batch});
  }

  AnyMatrices float_matrices(const Named& a, int64_t batch, int64_t matrix_rows) const {
    check_device(a);
    const DType dtype = float_type(a);
    check_sizes(a, {batch, matrix_rows, -1});
    check_last_contiguous(a);
    return {a.tensor.const_data_ptr(), dtype, a.tensor.stride(0), a.tensor.stride(1)};
  }

  // (R, n) as (1, R, n).
  AnyMatrices float_rows(const Named& a, int64_t count, int64_t columns) const {
    check_device(a);
    const DType dtype = float_type(a);
    check_sizes(a, {count, columns});
    check_last_contiguous(a);
    return {a.tensor.const_data_ptr(), dtype, 0, a.tensor.stride(0)};
  }

 private:
  at::Device device_;
};

}  // namespace ltd
