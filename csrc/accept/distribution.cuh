// A row of logits as the distribution that tokens are drawn from: temperature, top-k, top-p, on the device. One block
// works on one row; all its threads call these functions with the same arguments and get the same results.
//
// Weights are whole numbers, multiples of a small fraction of the largest: their sums are exact, and so the same in
// whatever order threads add them up.
#pragma once

#include "accept/accept.h"
#include "accept/row_search.cuh"
#include "noise/philox.h"

namespace ltd::cuda {
namespace {

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
