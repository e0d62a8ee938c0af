// A row of logits on the device: one block works on one row; all its threads call these functions with the same
// arguments and get the same results.
#pragma once

#include "common/device.cuh"
#include "common/warp.cuh"

namespace ltd::cuda {
namespace {

constexpr int kLeastThreads = 64;  // locate() needs two warps to divide a range
constexpr int kMostThreads = 1024;
constexpr int kBinsPerThread = 2;

// Threads of a block for rows of this many logits.
inline int threads_of_row(int64_t vocabulary) {
  constexpr int kLogitsPerThread = 16;
  int threads = kLeastThreads;
  while (threads < kMostThreads && threads * kLogitsPerThread < vocabulary) threads *= 2;
  return threads;
}

__device__ inline int lane_index() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ inline int warp_index() { return static_cast<int>(threadIdx.x) / kWarp; }
__device__ inline int warp_count() { return static_cast<int>(blockDim.x) / kWarp; }

// --- keys: whole numbers in the order of the values that they stand for ---

__device__ inline uint32_t bits_of(float value) { return __float_as_uint(value); }
__device__ inline uint32_t bits_of(Float16 value) { return value.bits; }
__device__ inline uint32_t bits_of(BFloat16 value) { return value.bits; }

template <typename T>
constexpr uint32_t kSignBit = 1u << (8 * sizeof(T) - 1);
template <typename T>
constexpr uint32_t kAllBits = kSignBit<T> | (kSignBit<T> - 1);

// 0 and -0 are equal; the value must not be NaN.
template <typename T>
__device__ uint32_t key_of(T value) {
  const uint32_t bits = bits_of(value);
  if (bits == kSignBit<T>) return kSignBit<T>;
  return (bits & kSignBit<T>) != 0 ? ~bits & kAllBits<T> : bits | kSignBit<T>;
}

template <typename T>
__device__ T value_of(uint32_t key) {
  const uint32_t bits = (key & kSignBit<T>) != 0 ? key & ~kSignBit<T> : ~key & kAllBits<T>;
  if constexpr (sizeof(T) == 4) {
    return __uint_as_float(bits);
  } else {
    return {static_cast<uint16_t>(bits)};
  }
}

// --- what a block shares ---

struct Shared {
  Array<uint32_t, kBinsPerThread * kMostThreads> low_words;  // of the sums in a histogram's bins
  Array<uint32_t, kBinsPerThread * kMostThreads> high_words;
  Array<uint64_t, kWarp> sums;  // of the warps
  Array<float, kWarp> peaks;    // the same
  uint32_t found_bin;
  uint64_t before_found;
};

// Of all warps' values, what this lane's warp has got: `nothing` behind the last warp.
template <typename V>
__device__ V of_warp(const Array<V, kWarp>& values, V nothing) {
  return lane_index() < warp_count() ? values[lane_index()] : nothing;
}

__device__ inline uint64_t sum_of_block(uint64_t value, Shared& shared) {
  value = warp_sum(value);
  if (lane_index() == 0) shared.sums[warp_index()] = value;
  __syncthreads();
  const uint64_t sum = warp_sum(of_warp(shared.sums, uint64_t{0}));
  __syncthreads();
  return sum;
}

// The sum of the threads before this one.
__device__ inline uint64_t sum_before(uint64_t value, Shared& shared) {
  const uint64_t inclusive = warp_inclusive_sum(value);
  if (lane_index() == kWarp - 1) shared.sums[warp_index()] = inclusive;
  __syncthreads();
  const uint64_t of_warps = of_warp(shared.sums, uint64_t{0});
  const uint64_t before_warps = warp_inclusive_sum(of_warps) - of_warps;
  return __shfl_sync(kAllLanes, before_warps, warp_index()) + (inclusive - value);
}

__device__ inline uint64_t best_of_block(uint64_t value, Shared& shared) {
  const auto larger = [](uint64_t a, uint64_t b) { return b > a ? b : a; };
  value = warp_reduce(value, larger);
  if (lane_index() == 0) shared.sums[warp_index()] = value;
  __syncthreads();
  return warp_reduce(of_warp(shared.sums, uint64_t{0}), larger);
}

__device__ inline float peak_of_block(float value, Shared& shared) {
  value = warp_max_or_nan(value);
  if (lane_index() == 0) shared.peaks[warp_index()] = value;
  __syncthreads();
  return warp_max_or_nan(of_warp(shared.peaks, -kInfinity));
}

// --- reading ---

// Calls visit(id of the first, pack of logits) for ids from `begin` to `end`, in ascending order and shared among
// `workers`, of which this thread is number `worker`. kInFlight: packs that are read before the first is visited.
template <int kInFlight, typename T, typename Visit>
__device__ void visit_packs(Pointer<const T> logits, int begin, int end, int worker, int workers, Visit&& visit) {
  constexpr int kPack = 16 / sizeof(T);
  int first = begin;
  while (first < end && !is_aligned(logits + first, 16)) ++first;
  const int packs = (end - first) / kPack;
  for (int id = begin + worker; id < first; id += workers) visit(id, load_pack<1>(logits + id));
  for (int pack = worker; pack < packs; pack += kInFlight * workers) {
    Pack<T, kPack> loaded[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int at = pack + i * workers;
      if (at < packs) loaded[i] = load_pack<kPack>(logits + first + at * kPack);
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int at = pack + i * workers;
      if (at < packs) visit(first + at * kPack, loaded[i]);
    }
  }
  for (int id = first + packs * kPack + worker; id < end; id += workers) visit(id, load_pack<1>(logits + id));
}

// Inside a row 32 bits are enough.
template <typename T>
struct LogitRow {
  Pointer<const T> logits;
  int vocabulary;

  __device__ LogitRow(Pointer<const T> logits, int64_t vocabulary)
      : logits(logits), vocabulary(static_cast<int>(vocabulary)) {}

  // Calls visit(id, logit) for ids from `begin` to `end`, shared among `workers`.
  template <typename Visit>
  __device__ void visit(int begin, int end, int worker, int workers, Visit&& visit) const {
    visit_packs<2>(logits, begin, end, worker, workers, [&](int id, const auto& pack) {
      constexpr int kCount = sizeof(pack) / sizeof(T);
#pragma unroll
      for (int i = 0; i < kCount; ++i) visit(id + i, pack[i]);
    });
  }

  // The same for all ids, shared among the block's threads.
  template <typename Visit>
  __device__ void visit(Visit&& visit_one) const {
    visit(0, vocabulary, threadIdx.x, blockDim.x, visit_one);
  }
};

}  // namespace
}  // namespace ltd::cuda
