// Where the sum of what the logits of a row measure reaches a number: in the order of ids, or of their values.
#pragma once

#include "accept/logit_row.cuh"

namespace ltd::cuda {
namespace {

// --- where cumulative sums reach a number ---

struct Place {
  int id;          // -1 if the total is 0
  uint64_t total;  // of the whole row
};

// Of the parts of a range, one a lane, the one in which their cumulative sum first exceeds `target`: `own` is the
// lane's part, `inclusive` the sum up to it. The parts were added up anew since the target was taken from their total,
// and a compiler may have rounded a measure in two places differently: if they no longer reach the target, the last
// part that holds anything is meant, or the first if none does.
__device__ inline int part_of_target(uint64_t own, uint64_t inclusive, uint64_t target) {
  const uint32_t beyond = __ballot_sync(kAllLanes, inclusive > target);
  const uint32_t filled = __ballot_sync(kAllLanes, own > 0);
  if (beyond != 0) return __ffs(static_cast<int>(beyond)) - 1;
  return filled != 0 ? kWarp - 1 - __clz(static_cast<int>(filled)) : 0;
}

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
    const int chosen = part_of_target(mine, inclusive, target);
    target -= __shfl_sync(kAllLanes, inclusive - mine, chosen);
    begin += chosen * part;
    end = min(begin + part, end);
  } while (end - begin > kWarp);
  int found = begin;
  for (int id = begin; id < end; ++id) {
    const uint64_t own = measure(id, row.logits[id]);
    if (own > 0) found = id;
    if (own > target) break;
    target -= own;
  }
  return {found, total};
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

}  // namespace
}  // namespace ltd::cuda
