// The checks of the operators' arguments, on every device the same: only bindings and these say what is refused.
//
// check_tensors() is called with all tensors of a call before its operator runs (see register.h): their device, their
// sizes, and their memory. An operator itself says what it wants of each of them, with `Tensors` and the functions
// here; it looks at what tensors hold on the CPU only. On the meta device there is nothing but shapes: data is null.
//
// Bad arguments raise ValueError with the tensor, what was wanted and what it is. In the sizes wanted, -1 is any.
#pragma once

#include <ATen/core/Tensor.h>

#include <initializer_list>
#include <string>
#include <type_traits>
#include <vector>

#include "common/types.h"

#define LTD_CHECK(condition, ...) TORCH_CHECK_VALUE(condition, __VA_ARGS__)

namespace ltd {

// The largest size of a tensor and the largest count of anything. Sums of a few and products of two then fit into 64
// bits, and the numbers of rows, nodes and tokens that kernels keep in 32 bits fit into those.
inline constexpr int64_t kMaxSize = int64_t{1} << 30;

// An argument and what it is called in messages.
struct Named {
  const char* name;
  const at::Tensor& tensor;
};

// --- numbers ---

inline void check_range(const char* name, int64_t value, int64_t low, int64_t high) {
  LTD_CHECK(value >= low && value <= high, name, " must be ", low, " to ", high, ", but is ", value);
}

// The product of sizes, which must not be above kMaxSize either.
inline int64_t checked_count(const char* what, std::initializer_list<int64_t> sizes) {
  int64_t count = 1;
  for (const int64_t size : sizes) {
    count *= size;
    LTD_CHECK(count <= kMaxSize, "there must be at most ", kMaxSize, " ", what, ", but there are ",
              at::IntArrayRef(sizes.begin(), sizes.size()), " multiplied");
  }
  return count;
}

// Positions in a text; kernels that compare them with a window do so in 32 bits.
inline void check_positions(Rows<const int64_t> positions, int64_t batch, int64_t nodes) {
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t n = 0; n < nodes; ++n) {
      LTD_CHECK(positions[b][n] >= 0 && positions[b][n] < kMaxSize, "with a window, positions must be 0 to ",
                kMaxSize - 1, ", but hold ", positions[b][n]);
    }
  }
}

// --- what all tensors must be ---

// A tensor argument's name, whether the operator writes it, and whether it may be in pinned memory of the host while
// the others are on a device, which reaches that too.
struct TensorInfo {
  std::string name;
  bool is_written;
  bool may_be_pinned;
};

// A tensor of a call. In a list it is number `number`; else that is -1.
struct TensorArgument {
  const at::Tensor* tensor;
  int place;
  int number;
};

// All tensors must be on the device of the first but for those that may be pinned, dense, of no size above kMaxSize,
// aligned, and lie within their memory. What is written must have memory of its own: no two elements of a tensor in the
// same place, and none in that of another tensor. `signature` has the info of every place, tensors' or not.
void check_tensors(at::ArrayRef<TensorArgument> tensors, const std::vector<TensorInfo>& signature);

// The same of a tensor alone that is only read.
void check_tensor(const Named& a, at::Device device);

// --- what an operator wants of each ---

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

// Null where there is only a shape.
inline const void* data_of(const at::Tensor& tensor) { return tensor.is_meta() ? nullptr : tensor.const_data_ptr(); }

// The same of a tensor that the operator writes.
template <typename T = void>
T* written(const at::Tensor& tensor) {
  return tensor.is_meta() ? nullptr : static_cast<T*>(tensor.mutable_data_ptr());
}

// The tensors of one call.
class Tensors {
 public:
  explicit Tensors(at::Device device) : device_(device) {}

  at::Device device() const { return device_; }

  // Only there can their content be checked without waiting for it.
  bool are_on_cpu() const { return device_.is_cpu(); }

  // The data of a tensor of this type and these sizes, contiguous in its last dimension.
  const void* checked(const Named& a, at::ScalarType type, at::IntArrayRef sizes) const {
    LTD_CHECK(a.tensor.scalar_type() == type, a.name, " must be of type ", type, ", but is ", a.tensor.scalar_type());
    check_sizes(a, sizes);
    check_last_contiguous(a);
    return data_of(a.tensor);
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
    const DType dtype = float_type(a);
    check_sizes(a, {batch, matrix_rows, -1});
    check_last_contiguous(a);
    return {data_of(a.tensor), dtype, a.tensor.stride(0), a.tensor.stride(1)};
  }

  // (R, n) as (1, R, n).
  AnyMatrices float_rows(const Named& a, int64_t count, int64_t columns) const {
    const DType dtype = float_type(a);
    check_sizes(a, {count, columns});
    check_last_contiguous(a);
    return {data_of(a.tensor), dtype, 0, a.tensor.stride(0)};
  }

 private:
  at::Device device_;
};

}  // namespace ltd
