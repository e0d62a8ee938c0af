// The host's twin of what common/device.cuh offers to kernels, and of the CUDA built-ins that they use.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <functional>
#include <source_location>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "common/types.h"
#include "emulation/block.h"

// --- the language ---

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __restrict__
#define __align__(bytes) alignas(bytes)

#define threadIdx (::ltd::emulation::now.thread)
#define blockIdx (::ltd::emulation::now.block)
#define blockDim (::ltd::emulation::now.threads)
#define gridDim (::ltd::emulation::now.blocks)
#define warpSize (::ltd::emulation::kLanes)

#define LTD_SHARED(Type, name)                      \
  static ::ltd::emulation::SharedKey name##_shared; \
  Type& name = ::ltd::emulation::shared_variable<Type>(name##_shared)

struct uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// --- barriers ---

inline void __syncthreads(ltd::emulation::Location where = ltd::emulation::Location::current()) {
  ltd::emulation::meet_block("__syncthreads", false, where);
}
inline int __syncthreads_count(int vote, ltd::emulation::Location where = ltd::emulation::Location::current()) {
  return ltd::emulation::meet_block("__syncthreads_count", vote != 0, where);
}
inline int __syncthreads_or(int vote, ltd::emulation::Location where = ltd::emulation::Location::current()) {
  return ltd::emulation::meet_block("__syncthreads_or", vote != 0, where) > 0;
}
inline int __syncthreads_and(int vote, ltd::emulation::Location where = ltd::emulation::Location::current()) {
  return ltd::emulation::meet_block("__syncthreads_and", vote == 0, where) == 0;
}
inline void __syncwarp(uint32_t mask = 0xffffffffu,
                       ltd::emulation::Location where = ltd::emulation::Location::current()) {
  if (ltd::emulation::is_skipped(where)) return;
  ltd::emulation::meet_warp("__syncwarp", mask, nullptr, nullptr, where);
}

inline void __threadfence() {}
inline void __threadfence_block() {}

// --- shuffles, votes, reductions and matches of a warp ---

namespace ltd::emulation {

template <typename T>
concept Word = std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8);

// Calls visit(lane) for the lanes of a mask.
template <typename Visit>
void for_lanes(uint32_t mask, Visit visit) {
  for (; mask != 0; mask &= mask - 1) visit(std::countr_zero(mask));
}

// What a lane gives and gets.
template <typename T, typename Result>
struct Exchange {
  T value;
  int source;  // the lane of which it gets the value, in shuffles
  Result result;
};

inline int lane() { return static_cast<int>(now.thread.x % kLanes); }

template <typename T>
T shuffle(const char* operation, uint32_t mask, T value, int source, const Location& where) {
  using Mine = Exchange<T, T>;
  Mine mine{value, source, value};
  if ((mask >> source & 1) == 0) fail_source(operation, source, where);
  meet_warp(
      operation, mask, &mine,
      [](void* const(&lanes)[kLanes], uint32_t all) {
        for_lanes(all, [&](int i) {
          Mine& one = *static_cast<Mine*>(lanes[i]);
          one.result = static_cast<const Mine*>(lanes[one.source])->value;
        });
      },
      where);
  return mine.result;
}

// The first lane of the group of `width` lanes that this lane is in.
inline int group_start(int width) { return lane() / width * width; }

// Combines the values of all lanes of a mask: every lane gets the same.
template <typename Combine, typename T>
T reduce(const char* operation, uint32_t mask, T value, const Location& where) {
  using Mine = Exchange<T, T>;
  Mine mine{value, 0, value};
  meet_warp(
      operation, mask, &mine,
      [](void* const(&lanes)[kLanes], uint32_t all) {
        T sum = static_cast<const Mine*>(lanes[std::countr_zero(all)])->value;
        for_lanes(all & (all - 1), [&](int i) { sum = Combine{}(sum, static_cast<const Mine*>(lanes[i])->value); });
        for_lanes(all, [&](int i) { static_cast<Mine*>(lanes[i])->result = sum; });
      },
      where);
  return mine.result;
}

struct Largest {
  template <typename T>
  T operator()(T a, T b) const {
    return std::max(a, b);
  }
};
struct Smallest {
  template <typename T>
  T operator()(T a, T b) const {
    return std::min(a, b);
  }
};

template <typename T>
concept Integer32 = std::integral<T> && sizeof(T) == 4;

}  // namespace ltd::emulation

template <ltd::emulation::Word T>
T __shfl_sync(uint32_t mask, T value, int source, int width = 32,
              ltd::emulation::Location where = ltd::emulation::Location::current()) {
  const int lane = ltd::emulation::group_start(width) + (source & (width - 1));
  return ltd::emulation::shuffle("__shfl_sync", mask, value, lane, where);
}
template <ltd::emulation::Word T>
T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32,
                  ltd::emulation::Location where = ltd::emulation::Location::current()) {
  const int lane = ltd::emulation::lane() ^ bits;
  const bool inside = lane < ltd::emulation::group_start(width) + width;
  return ltd::emulation::shuffle("__shfl_xor_sync", mask, value, inside ? lane : ltd::emulation::lane(), where);
}
template <ltd::emulation::Word T>
T __shfl_up_sync(uint32_t mask, T value, unsigned distance, int width = 32,
                 ltd::emulation::Location where = ltd::emulation::Location::current()) {
  const int lane = ltd::emulation::lane() - static_cast<int>(distance);
  const bool inside = lane >= ltd::emulation::group_start(width);
  return ltd::emulation::shuffle("__shfl_up_sync", mask, value, inside ? lane : ltd::emulation::lane(), where);
}
template <ltd::emulation::Word T>
T __shfl_down_sync(uint32_t mask, T value, unsigned distance, int width = 32,
                   ltd::emulation::Location where = ltd::emulation::Location::current()) {
  const int lane = ltd::emulation::lane() + static_cast<int>(distance);
  const bool inside = lane < ltd::emulation::group_start(width) + width;
  return ltd::emulation::shuffle("__shfl_down_sync", mask, value, inside ? lane : ltd::emulation::lane(), where);
}

inline uint32_t __ballot_sync(uint32_t mask, int vote,
                              ltd::emulation::Location where = ltd::emulation::Location::current()) {
  const uint32_t mine = vote != 0 ? 1u << ltd::emulation::lane() : 0u;
  return ltd::emulation::reduce<std::bit_or<>>("__ballot_sync", mask, mine, where);
}
inline int __any_sync(uint32_t mask, int vote, ltd::emulation::Location where = ltd::emulation::Location::current()) {
  return ltd::emulation::reduce<std::bit_or<>>("__any_sync", mask, static_cast<int>(vote != 0), where);
}
inline int __all_sync(uint32_t mask, int vote, ltd::emulation::Location where = ltd::emulation::Location::current()) {
  return ltd::emulation::reduce<std::bit_and<>>("__all_sync", mask, static_cast<int>(vote != 0), where);
}

template <ltd::emulation::Integer32 T>
T __reduce_max_sync(uint32_t mask, T value, ltd::emulation::Location where = ltd::emulation::Location::current()) {
  return ltd::emulation::reduce<ltd::emulation::Largest>("__reduce_max_sync", mask, value, where);
}
template <ltd::emulation::Integer32 T>
T __reduce_min_sync(uint32_t mask, T value, ltd::emulation::Location where = ltd::emulation::Location::current()) {
  return ltd::emulation::reduce<ltd::emulation::Smallest>("__reduce_min_sync", mask, value, where);
}
template <ltd::emulation::Integer32 T>
T __reduce_add_sync(uint32_t mask, T value, ltd::emulation::Location where = ltd::emulation::Location::current()) {
  const auto sum = ltd::emulation::reduce<std::plus<>>("__reduce_add_sync", mask, static_cast<uint32_t>(value), where);
  return static_cast<T>(sum);
}
inline uint32_t __reduce_or_sync(uint32_t mask, uint32_t value,
                                 ltd::emulation::Location where = ltd::emulation::Location::current()) {
  return ltd::emulation::reduce<std::bit_or<>>("__reduce_or_sync", mask, value, where);
}
inline uint32_t __reduce_and_sync(uint32_t mask, uint32_t value,
                                  ltd::emulation::Location where = ltd::emulation::Location::current()) {
  return ltd::emulation::reduce<std::bit_and<>>("__reduce_and_sync", mask, value, where);
}

template <ltd::emulation::Word T>
uint32_t __match_any_sync(uint32_t mask, T value,
                          ltd::emulation::Location where = ltd::emulation::Location::current()) {
  using Mine = ltd::emulation::Exchange<T, uint32_t>;
  Mine mine{value, 0, 0};
  ltd::emulation::meet_warp(
      "__match_any_sync", mask, &mine,
      [](void* const(&lanes)[ltd::emulation::kLanes], uint32_t all) {
        ltd::emulation::for_lanes(all, [&](int i) {
          Mine& one = *static_cast<Mine*>(lanes[i]);
          ltd::emulation::for_lanes(all, [&](int j) {
            const T other = static_cast<const Mine*>(lanes[j])->value;
            if (std::memcmp(&other, &one.value, sizeof(T)) == 0) one.result |= 1u << j;
          });
        });
      },
      where);
  return mine.result;
}

// --- atomics: on Pointer<T>, or on plain pointers to shared memory and checked elements ---

namespace ltd::emulation {

// Replaces a value by combine(value); returns what was there.
template <typename T, typename Combine>
T update(T* address, Combine combine) {
  perhaps_yield();
  set_in_atomic(true);
  const T before = *address;
  *address = combine(before);
  set_in_atomic(false);
  perhaps_yield();
  return before;
}

}  // namespace ltd::emulation

template <typename T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return ltd::emulation::update(address, [&](T before) { return static_cast<T>(before + value); });
}
template <typename T>
T atomicSub(T* address, std::type_identity_t<T> value) {
  return ltd::emulation::update(address, [&](T before) { return static_cast<T>(before - value); });
}
template <std::integral T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return ltd::emulation::update(address, [&](T before) { return std::max(before, value); });
}
template <std::integral T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return ltd::emulation::update(address, [&](T before) { return std::min(before, value); });
}
template <std::integral T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return ltd::emulation::update(address, [&](T before) { return before | value; });
}
template <std::integral T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
  return ltd::emulation::update(address, [&](T before) { return before & value; });
}
template <typename T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return ltd::emulation::update(address, [&](T) { return value; });
}
template <std::integral T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return ltd::emulation::update(address, [&](T before) { return before == expected ? value : before; });
}
inline unsigned atomicInc(unsigned* address, unsigned limit) {
  return ltd::emulation::update(address, [&](unsigned before) { return before >= limit ? 0u : before + 1u; });
}

#define LTD_ATOMIC_OF_POINTER(name)                   \
  template <typename T, typename... Values>           \
  T name(ltd::Pointer<T> address, Values... values) { \
    return name(&*address, values...);                \
  }
LTD_ATOMIC_OF_POINTER(atomicAdd)
LTD_ATOMIC_OF_POINTER(atomicSub)
LTD_ATOMIC_OF_POINTER(atomicMax)
LTD_ATOMIC_OF_POINTER(atomicMin)
LTD_ATOMIC_OF_POINTER(atomicOr)
LTD_ATOMIC_OF_POINTER(atomicAnd)
LTD_ATOMIC_OF_POINTER(atomicExch)
LTD_ATOMIC_OF_POINTER(atomicCAS)
LTD_ATOMIC_OF_POINTER(atomicInc)
#undef LTD_ATOMIC_OF_POINTER

// --- arithmetic ---

inline int __popc(unsigned value) { return std::popcount(value); }
inline int __popcll(unsigned long long value) { return std::popcount(value); }
inline int __ffs(int value) { return value == 0 ? 0 : std::countr_zero(static_cast<unsigned>(value)) + 1; }
inline int __ffsll(long long value) {
  return value == 0 ? 0 : std::countr_zero(static_cast<unsigned long long>(value)) + 1;
}
inline int __clz(int value) { return std::countl_zero(static_cast<unsigned>(value)); }
inline int __clzll(long long value) { return std::countl_zero(static_cast<unsigned long long>(value)); }
inline unsigned __brev(unsigned value) {
  unsigned reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= (value >> bit & 1u) << (31 - bit);
  return reversed;
}

inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline int __float_as_int(float value) { return std::bit_cast<int>(value); }
inline float __uint_as_float(unsigned value) { return std::bit_cast<float>(value); }
inline float __int_as_float(int value) { return std::bit_cast<float>(value); }
inline long long __double_as_longlong(double value) { return std::bit_cast<long long>(value); }
inline double __longlong_as_double(long long value) { return std::bit_cast<double>(value); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}

inline float __expf(float value) { return expf(value); }
inline float __logf(float value) { return logf(value); }
inline float __log2f(float value) { return log2f(value); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float value) { return 1.0f / sqrtf(value); }
// Not to be fused with the operation around it.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }

template <typename A, typename B>
  requires(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>)
constexpr std::common_type_t<A, B> min(A a, B b) {
  if constexpr (std::is_floating_point_v<std::common_type_t<A, B>>) return std::fmin(a, b);
  return static_cast<std::common_type_t<A, B>>(b) < static_cast<std::common_type_t<A, B>>(a) ? b : a;
}
template <typename A, typename B>
  requires(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>)
constexpr std::common_type_t<A, B> max(A a, B b) {
  if constexpr (std::is_floating_point_v<std::common_type_t<A, B>>) return std::fmax(a, b);
  return static_cast<std::common_type_t<A, B>>(a) < static_cast<std::common_type_t<A, B>>(b) ? b : a;
}

// --- what device.cuh offers ---

namespace ltd::cuda {

template <typename T>
Pointer<T> global(T* pointer) {
  return pointer;
}

// T[N] with checked indices.
template <typename T, int N>
struct Array {
  T values[N];
  LTD_INLINE T& operator[](int64_t i) { return values[emulation::checked_index(i, N)]; }
  LTD_INLINE const T& operator[](int64_t i) const { return values[emulation::checked_index(i, N)]; }
};

template <typename T>
T* dynamic_shared(int64_t byte, int64_t count) {
  return reinterpret_cast<T*>(
      emulation::dynamic_bytes(byte, count * static_cast<int64_t>(sizeof(T)), static_cast<int64_t>(alignof(T))));
}

template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  static_assert(sizeof(T) * N <= 16);
  T values[N];
  LTD_INLINE T& operator[](int i) { return values[emulation::checked_index(i, N)]; }
  LTD_INLINE const T& operator[](int i) const { return values[emulation::checked_index(i, N)]; }
};

template <typename T>
bool is_aligned(Pointer<T> pointer, int bytes) {
  return reinterpret_cast<uintptr_t>(pointer.raw()) % bytes == 0;
}
template <typename T>
bool is_aligned(T* pointer, int bytes) {
  return is_aligned(Pointer<T>(pointer), bytes);
}

template <int N, typename T>
void check_pack(Pointer<T> pointer, bool writes) {
  constexpr int kBytes = static_cast<int>(sizeof(T)) * N;
  emulation::check_access(pointer.raw(), kBytes, kBytes, writes);
}

template <int N, typename T>
Pack<std::remove_const_t<T>, N> load_pack(Pointer<T> source) {
  check_pack<N>(source, false);
  return *reinterpret_cast<const Pack<std::remove_const_t<T>, N>*>(source.raw());
}
template <int N, typename T>
Pack<std::remove_const_t<T>, N> load_pack(T* source) {
  return load_pack<N>(Pointer<T>(source));
}

template <int N, typename T>
void store_pack(Pointer<T> target, const Pack<T, N>& pack) {
  check_pack<N>(target, true);
  *reinterpret_cast<Pack<T, N>*>(target.raw()) = pack;
}
template <int N, typename T>
void store_pack(T* target, const Pack<T, N>& pack) {
  store_pack<N>(Pointer<T>(target), pack);
}

inline float to_float(float value) { return value; }
inline float to_float(BFloat16 value) { return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16); }
inline float to_float(Float16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t shifted = static_cast<uint32_t>(value.bits & 0x7fffu) << 13;
  const bool finite = (value.bits & 0x7c00u) != 0x7c00u;
  // The exponents' zeros are 112 apart; the product also makes normal numbers of the small ones.
  const uint32_t magnitude =
      finite ? std::bit_cast<uint32_t>(std::bit_cast<float>(shifted) * 0x1p112f) : (shifted | 0x7f800000u);
  return std::bit_cast<float>(sign | magnitude);
}

inline float larger_or_nan(float a, float b) { return a > b || a != a ? a : b; }

template <typename T>
T from_float(float value);
template <>
float from_float<float>(float value);
template <>
BFloat16 from_float<BFloat16>(float value);
template <>
Float16 from_float<Float16>(float value);

template <typename T>
uint32_t round_pair(float low, float high) {
  return from_float<T>(low).bits | static_cast<uint32_t>(from_float<T>(high).bits) << 16;
}

inline float fast_exp2(float x) {
  const float power = exp2f(x);
  return power < 0x1p-126f ? 0.0f : power;
}

// --- steps of the tensor cores ---

template <typename T>
void multiply_tiles(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                    emulation::Location where = emulation::Location::current());
template <>
void multiply_tiles<BFloat16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], emulation::Location);
template <>
void multiply_tiles<Float16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], emulation::Location);

struct TileRow {
  uint32_t words[4];
  uint32_t tiles[4];
};

// What load_tiles gives to every lane.
template <bool kTransposed>
void spread_tiles(void* const (&lanes)[emulation::kLanes], uint32_t) {
  const auto word = [&](int lane, int i) { return static_cast<const TileRow*>(lanes[lane])->words[i]; };
  const auto half = [&](int lane, int i) { return word(lane, i / 2) >> (i % 2 * 16) & 0xffffu; };
  for (int lane = 0; lane < emulation::kLanes; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      static_cast<TileRow*>(lanes[lane])->tiles[i] =
          kTransposed ? half(8 * i + 2 * t, g) | half(8 * i + 2 * t + 1, g) << 16 : word(8 * i + g, t);
    }
  }
}

template <bool kTransposed, typename T>
void load_tiles(uint32_t (&tiles)[4], const T* row, emulation::Location where = emulation::Location::current()) {
  static_assert(sizeof(T) == 2);
  emulation::check_shared(row, 16);
  const Pack<T, 8> pack = load_pack<8>(row);
  TileRow mine;
  std::memcpy(mine.words, &pack, sizeof(pack));
  emulation::meet_warp("load_tiles", 0xffffffffu, &mine, spread_tiles<kTransposed>, where);
  for (int i = 0; i < 4; ++i) tiles[i] = mine.tiles[i];
}

// --- copies from global to shared memory ---

template <typename T>
void copy_async16(T* shared, std::type_identity_t<Pointer<const T>> source) {
  if (!is_aligned(shared, 16)) emulation::fail_alignment(16);
  emulation::check_access(source.raw(), 16, 16, false);
  emulation::check_shared(shared, 16);
  emulation::copy_later(shared, source.raw(), 16);
}

inline void commit_copies() { emulation::close_copies(); }

template <int kLeft>
void wait_for_copies() {
  emulation::await_copies(kLeft);
}

// --- launches ---

inline int multiprocessors() { return 8; }

inline constexpr bool kStartsEarly = true;  // here kernels that should wait must

inline void await_earlier_kernels() { emulation::has_waited(); }

template <bool kEarly = false, typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), emulation::Grid grid, int threads, int64_t shared_bytes, void*,
            Arguments&&... arguments) {
  static_assert((0 + ... + sizeof(Parameters)) <= 4096, "more than a kernel's parameters may hold");
  const std::tuple<std::remove_cvref_t<Parameters>...> values(std::forward<Arguments>(arguments)...);
  const int64_t shared_room = shared_bytes > kDynamicUnasked ? emulation::kMaxShared : emulation::kSharedUnasked;
  emulation::run_grid(grid, threads, shared_bytes, shared_room, [&] {
    kEarly ? emulation::must_wait() : emulation::has_waited();
    std::apply(kernel, values);
  });
}

}  // namespace ltd::cuda
