// What the CUDA kernels are written with. A kernel source includes this and its operator's contract, nothing else of
// CUDA: then the same source also compiles for the host, where tests/cuda/emulation runs a block's threads as fibres
// and checks what they touch. So kernels
//   - reach the caller's memory through Pointer<T>: from Rows, Matrices, AnyMatrices, or global(a plain pointer);
//   - declare shared memory with LTD_SHARED or take it from dynamic_shared();
//   - start with launch().
// Everything else is CUDA as it is: threadIdx, __syncthreads, __shfl_xor_sync, atomicAdd, ...
#pragma once

#include <cstdint>

#include "common/types.h"

namespace ltd::cuda {

// A block gets 48 KB of shared memory, what is static included, unless launch() asks for more: which it does for more
// dynamic memory than this.
inline constexpr int64_t kDynamicUnasked = 40 << 10;

}  // namespace ltd::cuda

#ifdef LTD_EMULATED
#include "emulation/device.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>
#include <utility>

// A shared variable of a block, uninitialised: LTD_SHARED(float, peaks[32]) is written LTD_SHARED(Floats32, peaks) with
// Floats32 = Array<float, 32>.
#define LTD_SHARED(Type, name) __shared__ Type name

namespace ltd::cuda {

template <typename T>
LTD_INLINE Pointer<T> global(T* pointer) {
  return pointer;
}

// An array of which the emulation checks the indices.
template <typename T, int N>
struct Array {
  T values[N];
  LTD_INLINE T& operator[](int64_t i) { return values[i]; }
  LTD_INLINE const T& operator[](int64_t i) const { return values[i]; }
};

// `count` elements of the block's dynamic shared memory, from `byte` on, which must be a multiple of T's alignment.
template <typename T>
__device__ inline T* dynamic_shared(int64_t byte, [[maybe_unused]] int64_t count) {
  extern __shared__ __align__(16) char memory[];
  return reinterpret_cast<T*>(memory + byte);
}

// N elements that are read or written in one go; addresses must be multiples of their size, 16 bytes at most.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T values[N];
  LTD_INLINE T& operator[](int i) { return values[i]; }
  LTD_INLINE const T& operator[](int i) const { return values[i]; }
};

template <int N, typename T>
__device__ inline Pack<std::remove_const_t<T>, N> load_pack(Pointer<T> source) {
  return *reinterpret_cast<const Pack<std::remove_const_t<T>, N>*>(source);
}

template <int N, typename T>
__device__ inline void store_pack(Pointer<T> target, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(target) = pack;
}

// Whether packs of so many bytes may be read from here.
template <typename T>
LTD_INLINE bool is_aligned(Pointer<T> pointer, int bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(BFloat16 value) { return __uint_as_float(static_cast<uint32_t>(value.bits) << 16); }
__device__ inline float to_float(Float16 value) { return __half2float(__ushort_as_half(value.bits)); }

// The larger of two values; NaN if one is.
__device__ inline float larger_or_nan(float a, float b) {
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
  return larger;
}

// Rounds to nearest, ties to even.
template <typename T>
__device__ T from_float(float value);
template <>
__device__ inline float from_float<float>(float value) {
  return value;
}
template <>
__device__ inline BFloat16 from_float<BFloat16>(float value) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
}
template <>
__device__ inline Float16 from_float<Float16>(float value) {
  return {__half_as_ushort(__float2half_rn(value))};
}

// 2^x to about 2 units in the last place; 0 where that is below the smallest normal float.
__device__ inline float fast_exp2(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}

// --- steps of the tensor cores; all lanes of a warp take part ---

// d += a * b for a 16 x 16 tile a and a 16 x 8 tile b of T (Float16 or BFloat16), d being 16 x 8 floats. With g = lane
// / 4 and t = lane % 4: a[0] holds row g, columns 2t and 2t + 1 (the lower column in the lower half of the word), a[1]
// row g + 8, a[2] and a[3] the same 8 columns further; b[0] holds rows 2t and 2t + 1 of column g, b[1] the same 8 rows
// further; d[0] and d[1] are row g, columns 2t and 2t + 1, d[2] and d[3] row g + 8.
template <typename T>
__device__ void multiply_tiles(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

#define LTD_MULTIPLY_TILES(Type, name)                                                                         \
  template <>                                                                                                  \
  __device__ inline void multiply_tiles<Type>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." name "." name                                        \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                        \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                              \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                          \
  }
LTD_MULTIPLY_TILES(BFloat16, "bf16")
LTD_MULTIPLY_TILES(Float16, "f16")
#undef LTD_MULTIPLY_TILES

// Loads four 8 x 8 tiles of a 16-bit T from shared memory. Lane 8i + j says where row j of tile i begins, a multiple of
// 16 bytes. With g and t as above, tiles[i] gets columns 2t and 2t + 1 of row g; transposed, rows 2t and 2t + 1 of
// column g.
template <bool kTransposed, typename T>
__device__ inline void load_tiles(uint32_t (&tiles)[4], const T* row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
                 : "r"(address)
                 : "memory");
  }
}

// Two numbers rounded to T in one word, the first in its lower half.
template <typename T>
__device__ uint32_t round_pair(float low, float high);
template <>
__device__ inline uint32_t round_pair<BFloat16>(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
template <>
__device__ inline uint32_t round_pair<Float16>(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// --- copies from global to shared memory that other work may overlap ---

// 16 bytes, both ends aligned to that. Seen by the thread after wait_for_copies, by the block after a barrier more.
template <typename T>
__device__ inline void copy_async16(T* shared, Pointer<const T> source) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(source) : "memory");
}

// Closes a group of the thread's copies.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until all but the last kLeft groups of the thread have arrived.
template <int kLeft>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

// --- launches ---

// Whether the small kernels of a cycle start early, see launch(). It should save part of the time between two of them,
// but nobody has measured it: without a card it stays off.
inline constexpr bool kStartsEarly = false;

// Until the kernels before this one on the stream are done, and what they wrote is seen; from then on the next one may
// start. Nothing that others write may be read before, and nothing written.
__device__ inline void await_earlier_kernels() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if constexpr (kStartsEarly) {
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  }
#endif
}

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  // The runtime keeps it as its last error, which torch would find behind its own next launch and blame on that.
  cudaGetLastError();
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// Of the current device. The runtime knows it without asking the device.
inline int multiprocessors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  return count;
}

// Whether the current device can start kernels before the ones before them have ended.
inline bool can_overlap_launches() {
  int device = 0, major = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
  return major >= 9;
}

// Runs `kernel` on `grid` blocks of `threads` threads. Throws std::runtime_error if it cannot be launched.
//
// With kEarly, which is for kernels that begin with await_earlier_kernels(), blocks may start while the kernel before
// this one on the stream still runs: "programmatic dependent launch".
template <bool kEarly = false, typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, int64_t shared_bytes, void* stream,
            Arguments&&... arguments) {
  if (shared_bytes > kDynamicUnasked) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
          "cudaFuncSetAttribute");
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute early{};
  if constexpr (kEarly) {
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &early;
    config.numAttrs = can_overlap_launches() ? 1 : 0;
  }
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), "a CUDA kernel cannot be launched");
}

}  // namespace ltd::cuda

#endif

namespace ltd::cuda {

inline constexpr int kWarp = 32;
inline constexpr uint32_t kAllLanes = 0xffffffffu;
inline constexpr float kInfinity = __builtin_inff();

}  // namespace ltd::cuda
