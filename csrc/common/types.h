// Types shared by the argument structs of all operators, CPU and CUDA. Strides count elements, not bytes.
#pragma once

#include <cstdint>

// Kernel sources are compiled several times with different instruction sets. A shared inline function that is not
// inlined everywhere would be merged by the linker into one copy, perhaps one with instructions that this processor
// lacks.
#ifdef __CUDACC__
#define LTD_INLINE __host__ __device__ inline __attribute__((always_inline))
#else
#define LTD_INLINE inline __attribute__((always_inline))
#endif

#ifdef LTD_EMULATED
#include "emulation/pointer.h"
#else
namespace ltd {

// A pointer to memory that an operator's caller owns. The tests' emulation of CUDA has one of its own, which knows what
// the operator may touch.
template <typename T>
using Pointer = T*;

}  // namespace ltd
#endif

namespace ltd {

constexpr LTD_INLINE int64_t at_most(int64_t value, int64_t limit) { return value < limit ? value : limit; }

// For positive numbers, rounded up.
constexpr LTD_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

enum class DType { kFloat32, kFloat16, kBFloat16 };

// Raw bits of the two 16-bit floating-point types.
struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// Calls function(a value of the element type), so that kernels can be templates of the type. Inlined for the reason
// of LTD_INLINE, but for the host alone, which launches CUDA's kernels.
template <typename Function>
inline __attribute__((always_inline)) void with_type(DType dtype, Function&& function) {
  switch (dtype) {
    case DType::kFloat32:
      return function(float{});
    case DType::kFloat16:
      return function(Float16{});
    case DType::kBFloat16:
      return function(BFloat16{});
  }
}

inline constexpr int kMaxBeamWidth = 16;
inline constexpr int kMaxDepth = 12;
inline constexpr int kMaxCandidates = 2048;
inline constexpr int kMaxNodes = 513;  // the root and up to 512 candidates
inline constexpr int kMaxText = 64;    // candidates that the text itself proposes
inline constexpr int kTextFeatures = 24;

// Where CUDA kernels run; the CPU's take no notice of it.
struct Launch {
  void* stream;     // cudaStream_t
  void* workspace;  // as many bytes as the operator's *_workspace function says, 16-byte aligned; any content
};

// (B, n), the last dimension contiguous.
template <typename T>
struct Rows {
  T* data;
  int64_t batch_stride;

  LTD_INLINE Pointer<T> operator[](int64_t batch) const { return data + batch * batch_stride; }
};

// (B, R, n), the last dimension contiguous.
template <typename T>
struct Matrices {
  T* data;
  int64_t batch_stride;
  int64_t row_stride;

  LTD_INLINE Pointer<T> at(int64_t batch, int64_t row) const { return data + batch * batch_stride + row * row_stride; }
};

// (B, R, n) of a floating-point type known at run time only, the last dimension contiguous.
struct AnyMatrices {
  const void* data;
  DType dtype;
  int64_t batch_stride;
  int64_t row_stride;

  template <typename T>
  LTD_INLINE Pointer<const T> at(int64_t batch, int64_t row) const {
    return static_cast<const T*>(data) + batch * batch_stride + row * row_stride;
  }
};

}  // namespace ltd
