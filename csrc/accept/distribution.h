// A row of logits as the distribution that tokens are drawn from: temperature, top-k, top-p. Included by kernel sources
// only.
#pragma once

#include <atomic>
#include <cmath>
#include <cstring>

#include "accept/accept.h"
#include "accept/ranking.h"
#include "common/scratch.h"
#include "common/team.h"
#include "common/vector.h"

namespace ltd::LTD_ISA {
namespace {

// The vocabulary is handled in chunks of kChunk logits. Each lane of a chunk keeps its own maximum: no reduction across
// lanes is needed, and there are more maxima to bound the k-th largest logit with.
constexpr int64_t kChunk = 64 * kLanes;

// Below this many logits a second thread costs more than it saves.
constexpr int64_t kLogitsPerThread = 131072;

constexpr int64_t chunk_count(int64_t vocabulary) { return (vocabulary + kChunk - 1) / kChunk; }

// One row of logits and what was found in it.
template <typename T>
struct Row {
  const T* logits;
  int64_t vocabulary;
  int threads;
  float* lane_peaks = nullptr;  // (chunks, kLanes)
  float peak = -kInfinity;
  bool valid = false;  // finite peak, no NaN

  LTD_INLINE int64_t chunks() const { return chunk_count(vocabulary); }
  LTD_INLINE int64_t begin(int64_t chunk) const { return chunk * kChunk; }
  LTD_INLINE int64_t end(int64_t chunk) const {
    return (chunk + 1) * kChunk < vocabulary ? (chunk + 1) * kChunk : vocabulary;
  }
  // The vector at i; lanes behind the vocabulary are -inf.
  LTD_INLINE Floats at(int64_t i) const {
    return i + kLanes <= vocabulary ? load(logits + i) : load_some(logits + i, vocabulary - i, -kInfinity);
  }
  LTD_INLINE int useful_threads() const {
    const int64_t useful = vocabulary / kLogitsPerThread + 1;
    return static_cast<int>(useful < threads ? useful : threads);
  }
};

// Maximum of every lane of every chunk. NaN and +inf anywhere make the row invalid, as does nothing but -inf.
template <typename T>
void find_peaks(Row<T>& row) {
  const int64_t chunks = row.chunks();
  std::atomic<int> nan_chunks = 0;
  for_items(row.useful_threads(), chunks, [&](int64_t chunk) {
    Floats peaks = splat(-kInfinity);
    Ints nan{};
    for (int64_t i = row.begin(chunk); i < row.end(chunk); i += kLanes) {
      const Floats x = row.at(i);
      peaks = larger(x, peaks);
      nan |= x != x;
    }
    store(row.lane_peaks + chunk * kLanes, peaks);
    if (any(nan)) nan_chunks.fetch_add(1, std::memory_order_relaxed);
  });
  Floats peaks = splat(-kInfinity);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) peaks = larger(load(row.lane_peaks + chunk * kLanes), peaks);
  row.peak = largest_lane(peaks);
  row.valid = nan_chunks == 0 && row.peak > -kInfinity && row.peak < kInfinity;
}

// Calls visit(id, logit) for all logits >= bound in order of ids, until it returns false.
template <typename T, typename Visit>
LTD_INLINE void visit_at_least(const Row<T>& row, float bound, Visit visit) {
  for (int64_t chunk = 0; chunk < row.chunks(); ++chunk) {
    if (!any(load(row.lane_peaks + chunk * kLanes) >= bound)) continue;
    for (int64_t i = row.begin(chunk); i < row.end(chunk); i += kLanes) {
      const Floats x = row.at(i);
      if (!any(x >= bound)) continue;
      for (int lane = 0; lane < kLanes && i + lane < row.vocabulary; ++lane) {
        if (x[lane] >= bound && !visit(i + lane, static_cast<float>(x[lane]))) return;
      }
    }
  }
}

template <typename T>
int64_t first_peak(const Row<T>& row) {
  int64_t found = -1;
  visit_at_least(row, row.peak, [&](int64_t id, float) {
    found = id;
    return false;
  });
  return found;
}

// The k-th largest logit. The k-th largest of the lanes' maxima is a lower bound, and few logits reach it.
template <typename T>
float kth_logit(const Row<T>& row, int64_t k, float* scratch) {
  const int64_t maxima = row.chunks() * kLanes;
  float bound = -kInfinity;
  if (k <= maxima) {
    std::memcpy(scratch, row.lane_peaks, maxima * sizeof(float));
    bound = kth_largest(scratch, maxima, k);
  }
  int64_t count = 0;
  visit_at_least(row, bound, [&](int64_t, float logit) {
    scratch[count++] = logit;
    return true;
  });
  return kth_largest(scratch, count, k);
}

// Weights e^((x - peak) / temperature) of all tokens, 0 for those that must not be drawn.
struct Weights {
  float* values;       // (chunks, kChunk); not written where the chunk's sum is 0
  double* chunk_sums;  // (chunks)
  double total;

  LTD_INLINE float of(int64_t id) const { return chunk_sums[id / kChunk] > 0.0 ? values[id] : 0.0f; }
};

template <typename T>
void add_chunks(const Row<T>& row, Weights& weights) {
  weights.total = 0.0;
  for (int64_t chunk = 0; chunk < row.chunks(); ++chunk) weights.total += weights.chunk_sums[chunk];
}

// Weights of the tokens with logits >= bound.
template <typename T>
void weigh(const Row<T>& row, float temperature, float bound, Weights& weights) {
  const int64_t chunks = row.chunks();
  const float rate = 1.0f / temperature;
  for_items(row.useful_threads(), chunks, [&](int64_t chunk) {
    Doubles sums{};
    if (any(load(row.lane_peaks + chunk * kLanes) >= bound)) {
      for (int64_t i = row.begin(chunk); i < row.end(chunk); i += kLanes) {
        const Floats x = row.at(i);
        const Floats values = x >= bound ? exp_nonpositive((x - row.peak) * rate) : Floats{};
        store(weights.values + i, values);
        sums += __builtin_convertvector(values, Doubles);
      }
    }
    weights.chunk_sums[chunk] = sum_lanes(sums);
  });
  add_chunks(row, weights);
}

// Takes their weight from the tokens with logits < bound.
template <typename T>
void drop_below(const Row<T>& row, float bound, Weights& weights) {
  for (int64_t chunk = 0; chunk < row.chunks(); ++chunk) {
    if (weights.chunk_sums[chunk] == 0.0) continue;
    Doubles sums{};
    for (int64_t i = row.begin(chunk); i < row.end(chunk); i += kLanes) {
      const Floats values = row.at(i) >= bound ? load(weights.values + i) : Floats{};
      store(weights.values + i, values);
      sums += __builtin_convertvector(values, Doubles);
    }
    weights.chunk_sums[chunk] = sum_lanes(sums);
  }
  add_chunks(row, weights);
}

// The first token at which the cumulative weight exceeds uniform * total. Should rounding leave none, the last one of
// any weight.
template <typename T>
int64_t draw(const Row<T>& row, const Weights& weights, double uniform) {
  const double target = uniform * weights.total;
  int64_t last_chunk = row.chunks() - 1;
  while (weights.chunk_sums[last_chunk] == 0.0) --last_chunk;
  int64_t token = -1;
  double before = 0.0;
  for (int64_t chunk = 0; chunk <= last_chunk; ++chunk) {
    if (weights.chunk_sums[chunk] == 0.0 || (chunk < last_chunk && before + weights.chunk_sums[chunk] <= target)) {
      before += weights.chunk_sums[chunk];
      continue;
    }
    for (int64_t i = row.begin(chunk); i < row.end(chunk); ++i) {
      if (weights.values[i] == 0.0f) continue;
      token = i;
      before += weights.values[i];
      if (before > target) return token;
    }
  }
  return token;
}

// The tokens with logits >= bound, but those without weight: how many they are and what they weigh.
struct BoundedPart {
  float bound;
  double weight;
  int64_t count;
};

template <typename T>
BoundedPart part_above(const Row<T>& row, const Weights& weights, float bound) {
  BoundedPart part{bound, 0.0, 0};
  for (int64_t chunk = 0; chunk < row.chunks(); ++chunk) {
    if (weights.chunk_sums[chunk] == 0.0 || !any(load(row.lane_peaks + chunk * kLanes) >= bound)) continue;
    Doubles sums{};
    Ints counts{};
    for (int64_t i = row.begin(chunk); i < row.end(chunk); i += kLanes) {
      const Floats values = row.at(i) >= bound ? load(weights.values + i) : Floats{};
      sums += __builtin_convertvector(values, Doubles);
      counts -= values > 0.0f;
    }
    part.weight += sum_lanes(sums);
    for (int lane = 0; lane < kLanes; ++lane) part.count += counts[lane];
  }
  return part;
}

// Two parts around the wanted weight: `inner` weighs less, `outer` does not, and few tokens lie between, unless they
// are equal.
struct Bracket {
  BoundedPart inner;
  BoundedPart outer;
};

template <typename T>
Bracket bracket_nucleus(const Row<T>& row, const Weights& weights, float temperature, double wanted) {
  constexpr int64_t kFewTokens = 256;
  Bracket bracket{{kInfinity, 0.0, 0}, {}};
  // Weights end 88 temperatures below the peak: behind 128 there are none.
  for (float depth = 1.0f; depth <= 128.0f; depth *= 2.0f) {
    if (depth > 1.0f) bracket.inner = bracket.outer;
    bracket.outer = part_above(row, weights, row.peak - depth * temperature);
    if (bracket.outer.weight >= wanted) break;
  }
  while (bracket.outer.count - bracket.inner.count > kFewTokens) {
    const float upper = bracket.inner.bound < row.peak ? bracket.inner.bound : row.peak;
    const float middle = bracket.outer.bound + 0.5f * (upper - bracket.outer.bound);
    if (!(middle > bracket.outer.bound && middle < upper)) break;
    const BoundedPart part = part_above(row, weights, middle);
    (part.weight < wanted ? bracket.inner : bracket.outer) = part;
  }
  return bracket;
}

// Takes the weight from the tokens outside the nucleus: those that better ones, of weight top_p * total or more, stand
// before.
template <typename T>
void keep_nucleus(const Row<T>& row, float temperature, double top_p, Scratch& memory, Weights& weights) {
  const double wanted = top_p * weights.total;
  const Bracket bracket = bracket_nucleus(row, weights, temperature, wanted);
  Candidate* candidates = memory.reserve<Candidate>(bracket.outer.count - bracket.inner.count);
  int64_t count = 0;
  visit_at_least(row, bracket.outer.bound, [&](int64_t id, float logit) {
    if (logit < bracket.inner.bound && weights.of(id) > 0.0f) {
      candidates[count++] = {logit, static_cast<int32_t>(id), weights.of(id)};
    }
    return true;
  });
  sort_best_first(candidates, count);
  int64_t kept = 0;
  double before = bracket.inner.weight;
  while (kept < count && (kept == 0 || before < wanted)) before += candidates[kept++].weight;
  for (int64_t i = kept; i < count; ++i) weights.values[candidates[i].id] = 0.0f;
  drop_below(row, bracket.outer.bound, weights);
}

// Memory for one row's distribution.
struct Buffers {
  Scratch peaks;
  Scratch values;
  Scratch chunk_sums;
  Scratch candidates;
};

// The row with its peaks found.
template <typename T>
Row<T> read_row(const T* logits, int64_t vocabulary, int threads, Buffers& buffers) {
  Row<T> row{logits, vocabulary, threads, buffers.peaks.reserve<float>(chunk_count(vocabulary) * kLanes)};
  find_peaks(row);
  return row;
}

// The least logit that top-k keeps.
template <typename T>
float least_logit(const Row<T>& row, const SamplingParameters& sampling, Buffers& buffers) {
  if (sampling.top_k == 0 || sampling.top_k >= row.vocabulary) return -kInfinity;
  return kth_logit(row, sampling.top_k, buffers.values.reserve<float>(row.chunks() * kChunk));
}

// The weights of a valid row's tokens with logits >= bound; they lie in the buffers.
template <typename T>
Weights weights_above(const Row<T>& row, float temperature, float bound, Buffers& buffers) {
  float* values = buffers.values.reserve<float>(row.chunks() * kChunk);
  Weights weights{values, buffers.chunk_sums.reserve<double>(row.chunks()), 0.0};
  weigh(row, temperature, bound, weights);
  return weights;
}

// The distribution of a valid row; it lies in the buffers.
template <typename T>
Weights weights_of(const Row<T>& row, const SamplingParameters& sampling, Buffers& buffers) {
  Weights weights = weights_above(row, sampling.temperature, least_logit(row, sampling, buffers), buffers);
  if (sampling.top_p < 1.0) keep_nucleus(row, sampling.temperature, sampling.top_p, buffers.candidates, weights);
  return weights;
}

}  // namespace
}  // namespace ltd::LTD_ISA
