// A row of logits as the distribution that tokens are drawn from: temperature, top-k, top-p, on the device. One block
// works on one row; all its threads call these functions with the same arguments and get the same results.
//
// Weights are whole numbers, multiples of a small fraction of the largest: their sums are exact, and so the same in
// whatever order threads add them up.
#pragma once

#include "accept/accept.h"
#include "accept/philox.h"
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

// --- where cumulative sums reach a number ---

struct Place {
  int id;          // -1 if the total is 0
  uint64_t total;  // of the whole row
};

// The first token at which the cumulative measure(id, logit), in the order of ids, exceeds target_of(total), which must
// be below the total.
template <typename T, typename Measure, typename Target>
__device__ Place locate(const LogitRow<T>& row, Measure measure, Target target_of, Shared& shared) {
  int begin = 0;
  int end = row.vocabulary;
  uint64_t total = 0;
  uint64_t target = 0;
  // Every warp adds up a part of the range; the part in which the target lies is the next range.
  do {
    constexpr int kMultiple = 8;  // keeps parts aligned as the row is
    const int share = (end - begin + warp_count() - 1) / warp_count();
    const int part = (share + kMultiple - 1) / kMultiple * kMultiple;
    const int from = min(begin + warp_index() * part, end);
    uint64_t sum = 0;
    row.visit(from, min(from + part, end), lane_index(), kWarp, [&](int id, T logit) { sum += measure(id, logit); });
    sum = warp_sum(sum);
    if (lane_index() == 0) shared.sums[warp_index()] = sum;
    __syncthreads();
    const uint64_t mine = of_warp(shared.sums, uint64_t{0});
    __syncthreads();
    const uint64_t inclusive = warp_inclusive_sum(mine);
    if (total == 0) {
      total = __shfl_sync(kAllLanes, inclusive, kWarp - 1);
      if (total == 0) return {-1, 0};
      target = target_of(total);
    }
    const int chosen = __ffs(__ballot_sync(kAllLanes, inclusive > target)) - 1;
    target -= __shfl_sync(kAllLanes, inclusive - mine, chosen);
    begin += chosen * part;
    end = min(begin + part, end);
  } while (end - begin > kWarp);
  for (; begin + 1 < end; ++begin) {
    const uint64_t own = measure(begin, row.logits[begin]);
    if (own > target) break;
    target -= own;
  }
  return {begin, total};
}

struct Threshold {
  uint32_t key;
  uint64_t before;  // the measure of the better tokens
};

// The best key so that the tokens of it and of better ones measure `wanted` or more. visit(f) calls f(logit) for the
// logits that this thread looks after; keys outside low ... high do not count. Should all of them measure less, the key
// is near `low`.
template <typename T, typename Visit, typename Measure>
__device__ Threshold find_threshold(Visit visit, Measure measure, uint32_t low, uint32_t high, uint64_t wanted,
                                    Shared& shared) {
  uint64_t before = 0;
  // A histogram over the interval, the best keys in bin 0; the bin that holds the threshold is the next interval.
  while (low < high) {
    int shift = 0;
    while (((high - low) >> shift) >= kBinsPerThread * blockDim.x) ++shift;
    const uint32_t own_bin = kBinsPerThread * threadIdx.x;
    for (uint32_t bin = own_bin; bin < own_bin + kBinsPerThread; ++bin) {
      shared.low_words[bin] = 0;
      shared.high_words[bin] = 0;
    }
    if (threadIdx.x == 0) {
      shared.found_bin = (high - low) >> shift;
      shared.before_found = before;
    }
    __syncthreads();
    visit([&](T logit) {
      const uint32_t key = key_of(logit);
      if (key < low || key > high) return;
      // Shared memory adds 32 bits at a time: a sum that wraps carries into the high word.
      const uint64_t amount = measure(logit);
      const uint32_t low_word = static_cast<uint32_t>(amount);
      const uint32_t sum = atomicAdd(&shared.low_words[(high - key) >> shift], low_word) + low_word;
      const uint32_t high_word = static_cast<uint32_t>(amount >> 32) + (sum < low_word ? 1 : 0);
      if (high_word != 0) atomicAdd(&shared.high_words[(high - key) >> shift], high_word);
    });
    __syncthreads();
    uint64_t amounts[kBinsPerThread];
    uint64_t own = 0;
    for (int i = 0; i < kBinsPerThread; ++i) {
      amounts[i] = uint64_t{shared.high_words[own_bin + i]} << 32 | shared.low_words[own_bin + i];
      own += amounts[i];
    }
    uint64_t sum = before + sum_before(own, shared);
    for (int i = 0; i < kBinsPerThread; ++i) {
      if (sum < wanted && sum + amounts[i] >= wanted) {
        shared.found_bin = own_bin + i;
        shared.before_found = sum;
      }
      sum += amounts[i];
    }
    __syncthreads();
    before = shared.before_found;
    high -= shared.found_bin << shift;
    const uint32_t width = (1u << shift) - 1;
    if (high - low > width) low = high - width;
    __syncthreads();
  }
  return {high, before};
}

// --- distributions ---

// What there is to know of a row besides its logits. The weight of a token that can be drawn is e^((x - peak) * rate).
struct Distribution {
  float peak;
  float rate;
  float scale;       // weights are whole multiples of 1 / scale
  uint32_t cut_key;  // tokens with better keys can be drawn,
  int last_tie;      // and those with this key up to this id
  uint64_t total;    // of the weights, where it has been added up
  bool valid;        // finite peak, no NaN

  template <typename T>
  __device__ bool keeps(int id, T logit) const {
    const uint32_t key = key_of(logit);
    return key > cut_key || (key == cut_key && id <= last_tie);
  }
  // In units of the whole numbers.
  template <typename T>
  __device__ float weight(T logit) const {
    return scale * expf((to_float(logit) - peak) * rate);
  }
  template <typename T>
  __device__ float weight(int id, T logit) const {
    return keeps(id, logit) ? weight(logit) : 0.0f;
  }
  template <typename T>
  __device__ uint64_t mass(T logit) const {
    return static_cast<uint64_t>(weight(logit));
  }
  template <typename T>
  __device__ uint64_t mass(int id, T logit) const {
    return keeps(id, logit) ? mass(logit) : 0;
  }
};

// So that the sum of all weights, which are 1 at most, fits into 64 bits.
__device__ inline float weight_scale(int64_t vocabulary) {
  int bits = 45;
  while (vocabulary > int64_t{1} << (63 - bits)) --bits;
  return static_cast<float>(uint64_t{1} << bits);
}

// The key of the k-th largest logit. The k-th largest of the threads' maxima is a lower bound, and few logits reach it.
template <typename T>
__device__ uint32_t kth_key(const LogitRow<T>& row, float own_peak, float peak, int64_t k, Shared& shared) {
  const auto one = [](T) { return uint64_t{1}; };
  const uint32_t high = key_of(from_float<T>(peak));
  uint32_t low = key_of(from_float<T>(-kInfinity));
  if (k <= blockDim.x) {
    const auto visit_peak = [&](auto count) { count(from_float<T>(own_peak)); };
    low = find_threshold<T>(visit_peak, one, low, high, k, shared).key;
  }
  const auto visit_all = [&](auto count) { row.visit([&](int, T logit) { count(logit); }); };
  return find_threshold<T>(visit_all, one, low, high, k, shared).key;
}

template <typename T>
__device__ uint64_t total_mass(const LogitRow<T>& row, const Distribution& d, Shared& shared) {
  uint64_t sum = 0;
  row.visit([&](int id, T logit) { sum += d.mass(id, logit); });
  return sum_of_block(sum, shared);
}

// Leaves the nucleus: the tokens that better ones of less than top_p of the mass stand before.
template <typename T>
__device__ void keep_nucleus(const LogitRow<T>& row, double top_p, Distribution& d, Shared& shared) {
  const uint64_t total = total_mass(row, d, shared);
  uint64_t wanted = static_cast<uint64_t>(ceil(top_p * static_cast<double>(total)));
  wanted = wanted < 1 ? 1 : wanted > total ? total : wanted;
  // All tokens with half this weight or less weigh less than 1 - top_p of the total: they cannot belong to it.
  const float least = static_cast<float>((1.0 - top_p) * static_cast<double>(total) / d.scale / row.vocabulary);
  const uint32_t bound = key_of(from_float<T>(d.peak + logf(0.5f * least) / d.rate)) - 1;
  const auto visit_all = [&](auto add) { row.visit([&](int, T logit) { add(logit); }); };
  const Threshold threshold = find_threshold<T>(
      visit_all, [&](T logit) { return d.mass(logit); }, bound > d.cut_key ? bound : d.cut_key + 1,
      key_of(from_float<T>(d.peak)), wanted, shared);
  const uint64_t tie_mass = d.mass(value_of<T>(threshold.key));
  const uint64_t ties = tie_mass > 0 ? (wanted - threshold.before + tie_mass - 1) / tie_mass : 1;
  const auto is_tie = [&](int, T logit) { return uint64_t{key_of(logit) == threshold.key}; };
  const auto last = [&](uint64_t all_ties) { return (ties < all_ties ? ties : all_ties) - 1; };
  d.last_tie = locate(row, is_tie, last, shared).id;
  d.cut_key = threshold.key;
}

// The row's distribution, its weights not yet added up.
template <typename T>
__device__ Distribution distribution_of(const LogitRow<T>& row, const SamplingParameters& sampling, Shared& shared) {
  float own_peak = -kInfinity;
  row.visit([&](int, T logit) { own_peak = larger_or_nan(own_peak, to_float(logit)); });
  Distribution d{};
  d.peak = peak_of_block(own_peak, shared);
  d.rate = 1.0f / sampling.temperature;
  d.scale = weight_scale(row.vocabulary);
  d.last_tie = -1;
  d.valid = d.peak > -kInfinity && d.peak < kInfinity;
  if (!d.valid) return d;
  if (sampling.top_k > 0 && sampling.top_k < row.vocabulary) {
    d.cut_key = kth_key(row, own_peak, d.peak, sampling.top_k, shared) - 1;
  }
  if (sampling.top_p < 1.0) keep_nucleus(row, sampling.top_p, d, shared);
  return d;
}

// The token that a uniform number chooses, of those whose mass is measure(id, logit).
template <typename T, typename Measure>
__device__ Place draw(const LogitRow<T>& row, Measure measure, double uniform, Shared& shared) {
  const auto target_of = [&](uint64_t total) {
    const uint64_t target = static_cast<uint64_t>(uniform * static_cast<double>(total));
    return target < total ? target : total - 1;
  };
  return locate(row, measure, target_of, shared);
}

template <typename T>
__device__ Place draw(const LogitRow<T>& row, const Distribution& d, double uniform, Shared& shared) {
  return draw(row, [&](int id, T logit) { return d.mass(id, logit); }, uniform, shared);
}

}  // namespace
}  // namespace ltd::cuda
