#include "accept/accept.h"

#include <cmath>

#include "accept/philox.h"
#include "accept/ranking.h"
#include "common/scratch.h"
#include "common/vector.h"

namespace ltd::LTD_ISA {
namespace {

// The vocabulary is handled in chunks of kChunk logits. Each lane of a chunk keeps its own maximum: no reduction across lanes is
// needed, and there are more maxima to bound the k-th largest logit with.
constexpr int64_t kChunk = 64 * kLanes;

// Below this many logits a second thread costs more than it saves.
constexpr int64_t kLogitsPerThread = 32768;

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
  const int threads = row.useful_threads();
  int nan_chunks = 0;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static) reduction(+ : nan_chunks)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    Floats peaks = splat(-kInfinity);
    Ints nan{};
    for (int64_t i = row.begin(chunk); i < row.end(chunk); i += kLanes) {
      const Floats x = row.at(i);
      peaks = larger(x, peaks);
      nan |= x != x;
    }
    store(row.lane_peaks + chunk * kLanes, peaks);
    nan_chunks += any(nan);
  }
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

// What a draw needs: weight e^((x - peak) / temperature).
struct Softmax {
  float peak;
  float inverse_temperature;

  LTD_INLINE Floats weights(Floats logits) const { return exp_nonpositive((logits - peak) * inverse_temperature); }
  LTD_INLINE float weight(float logit) const { return weights(splat(logit))[0]; }
};

// Sum of all weights of each chunk; returns the total.
template <typename T>
double sum_weights(const Row<T>& row, const Softmax& softmax, double* chunk_sums) {
  const int64_t chunks = row.chunks();
  const int threads = row.useful_threads();
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    Doubles sums{};
    for (int64_t i = row.begin(chunk); i < row.end(chunk); i += kLanes) {
      sums += __builtin_convertvector(softmax.weights(row.at(i)), Doubles);
    }
    chunk_sums[chunk] = sum_lanes(sums);
  }
  double total = 0.0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) total += chunk_sums[chunk];
  return total;
}

// The first token at which the cumulative weight exceeds `target`. Should rounding leave none, the last one of any weight.
template <typename T>
int64_t draw_from_all(const Row<T>& row, const Softmax& softmax, const double* chunk_sums, double target) {
  int64_t last = -1;
  double before = 0.0;
  for (int64_t chunk = 0; chunk < row.chunks(); ++chunk) {
    if (before + chunk_sums[chunk] <= target && chunk + 1 < row.chunks()) {
      before += chunk_sums[chunk];
      continue;
    }
    for (int64_t i = row.begin(chunk); i < row.end(chunk); i += kLanes) {
      const Floats weights = softmax.weights(row.at(i));
      for (int lane = 0; lane < kLanes; ++lane) {
        before += weights[lane];
        if (weights[lane] > 0.0f) last = i + lane;
        if (before > target) return i + lane;
      }
    }
  }
  return last >= 0 ? last : first_peak(row);
}

int64_t draw_from(const Candidate* candidates, int64_t count, double uniform) {
  double total = 0.0;
  for (int64_t i = 0; i < count; ++i) total += candidates[i].weight;
  int64_t last = 0;
  double cumulative = 0.0;
  for (int64_t i = 0; i < count; ++i) {
    cumulative += candidates[i].weight;
    if (cumulative > uniform * total) return candidates[i].id;
    if (candidates[i].weight > 0.0) last = i;
  }
  return candidates[last].id;
}

struct Buffers {
  Scratch peaks;
  Scratch floats;
  Scratch doubles;
  Scratch candidates;
};

template <typename T>
int64_t gather(const Row<T>& row, const Softmax& softmax, float bound, Candidate* kept) {
  int64_t count = 0;
  visit_at_least(row, bound, [&](int64_t id, float logit) {
    kept[count++] = {logit, static_cast<int32_t>(id), softmax.weight(logit)};
    return true;
  });
  return count;
}

double total_weight(const Candidate* candidates, int64_t count) {
  double total = 0.0;
  for (int64_t i = 0; i < count; ++i) total += candidates[i].weight;
  return total;
}

// Candidates under top-p alone: a lower and lower bound on the logits until enough mass lies above it.
template <typename T>
int64_t gather_nucleus(const Row<T>& row, const Softmax& softmax, double mass, Candidate* kept) {
  for (float depth = 8.0f; depth < 100.0f; depth *= 2.0f) {
    const int64_t count = gather(row, softmax, row.peak - depth / softmax.inverse_temperature, kept);
    if (total_weight(kept, count) >= mass) return count;
  }
  return gather(row, softmax, -kInfinity, kept);
}

template <typename T>
int64_t sample(const AcceptSample& a, const Row<T>& row, double uniform, Buffers& buffers) {
  const Softmax softmax{row.peak, 1.0f / a.temperature};
  const bool limit_count = a.top_k > 0 && a.top_k < row.vocabulary;
  const bool limit_mass = a.top_p < 1.0;
  double* chunk_sums = buffers.doubles.reserve<double>(row.chunks());
  if (!limit_count) {
    const double total = sum_weights(row, softmax, chunk_sums);
    if (!limit_mass) return draw_from_all(row, softmax, chunk_sums, uniform * total);
    Candidate* kept = buffers.candidates.reserve<Candidate>(row.vocabulary);
    int64_t count = gather_nucleus(row, softmax, a.top_p * total, kept);
    count = keep_nucleus(kept, count, a.top_p * total);
    sort_by_id(kept, count);
    return draw_from(kept, count, uniform);
  }
  Candidate* kept = buffers.candidates.reserve<Candidate>(row.vocabulary);
  float* scratch = buffers.floats.reserve<float>(row.chunks() * kChunk);
  int64_t count = gather(row, softmax, kth_logit(row, a.top_k, scratch), kept);
  if (limit_mass) {
    count = keep_nucleus(kept, count, a.top_p * total_weight(kept, count));
    sort_by_id(kept, count);
  }
  return draw_from(kept, count, uniform);
}

// The child of `node` with this token, or -1.
int32_t child_with(const TreeWalk& walk, int64_t b, int32_t node, int64_t token) {
  int32_t child = walk.first_child[b][node];
  for (int64_t tried = 0; child >= 0 && child < walk.nodes && tried < walk.nodes; ++tried) {
    if (walk.tokens[b][child] == token) return child;
    child = walk.next_sibling[b][child];
  }
  return -1;
}

// Walks one row of the batch; next_token(row, node) chooses the token from a row of logits with its peaks found.
template <typename T, typename NextToken>
LTD_INLINE void walk_row(const TreeWalk& walk, int64_t b, Buffers& buffers, NextToken next_token) {
  float* lane_peaks = buffers.peaks.reserve<float>(chunk_count(walk.vocabulary) * kLanes);
  int32_t node = 0;
  int32_t gained = 0;
  while (node >= 0 && gained < walk.path_capacity) {
    Row<T> row{walk.logits.at<T>(b, node), walk.vocabulary, walk.threads, lane_peaks};
    find_peaks(row);
    const int64_t token = row.valid ? next_token(row, node) : -1;
    walk.path[b][gained] = node;
    walk.gained_tokens[b][gained] = token;
    ++gained;
    node = token < 0 ? -1 : child_with(walk, b, node, token);
  }
  walk.gained[b] = gained;
}

thread_local Buffers walk_buffers;

}  // namespace

void accept_greedy(const AcceptGreedy& a) {
  with_type(a.walk.logits.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t b = 0; b < a.walk.batch; ++b) {
      walk_row<T>(a.walk, b, walk_buffers, [](const Row<T>& row, int32_t) { return first_peak(row); });
    }
  });
}

void accept_sample(const AcceptSample& a) {
  with_type(a.walk.logits.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t b = 0; b < a.walk.batch; ++b) {
      walk_row<T>(a.walk, b, walk_buffers, [&](const Row<T>& row, int32_t node) {
        return sample(a, row, sampling_uniform(a.seed, a.positions[b][node], a.rows[b]), walk_buffers);
      });
    }
  });
}

}  // namespace ltd::LTD_ISA
