#include "entropy/row_entropy.h"

#include <cmath>
#include <limits>

#include "common/chunks.h"
#include "common/team.h"
#include "common/vector.h"

namespace ltd::LTD_ISA {
namespace {

// Below this many logits a second thread costs more than it saves.
constexpr int64_t kLogitsPerThread = 131072;

// Sums over what was seen so far, with y = x - peak. In double over chunks, as a vocabulary is long.
struct EntropySums {
  // Finite from the start, so that x - peak is -inf, not NaN, where all that was seen is -inf.
  float peak = std::numeric_limits<float>::lowest();
  double weights = 0;   // Σ e^y
  double weighted = 0;  // Σ e^y * y

  // `values`: `vectors` vectors with the maximum `chunk_peak`, apart from NaN.
  LTD_INLINE void add(const float* values, int64_t vectors, float chunk_peak) {
    if (chunk_peak > peak) {
      const double change = larger_of(peak - chunk_peak, kLeastDifference);
      const double factor = std::exp(change);
      weighted = factor * (weighted + change * weights);
      weights *= factor;
      peak = chunk_peak;
    }
    Floats chunk_weights{}, chunk_weighted{};
    for (int64_t v = 0; v < vectors; ++v) {
      // In this order NaN stays NaN.
      const Floats y = larger(splat(kLeastDifference), load(values + v * kLanes) - peak);
      const Floats weight = exp_nonpositive(y);
      chunk_weights += weight;
      chunk_weighted += weight * y;
    }
    weights += sum_lanes(__builtin_convertvector(chunk_weights, Doubles));
    weighted += sum_lanes(__builtin_convertvector(chunk_weighted, Doubles));
  }

  LTD_INLINE float entropy() const { return static_cast<float>(std::log(weights) - weighted / weights); }

  static LTD_INLINE float larger_of(float a, float b) { return a > b ? a : b; }
};

template <typename T>
float entropy_of(const T* logits, int64_t vocabulary) {
  alignas(64) float chunk[kChunk];
  EntropySums sums;
  for (int64_t start = 0; start < vocabulary; start += kChunk) {
    const int64_t count = at_most(vocabulary - start, kChunk);
    const float chunk_peak = copy_chunk<NaN::kKept>(logits + start, count, chunk);
    sums.add(chunk, ceil_div(count, kLanes), chunk_peak);
  }
  return sums.entropy();
}

}  // namespace

void row_entropy(const RowEntropy& a) {
  const int64_t rows = a.batch * a.rows;
  const int threads = static_cast<int>(at_most(rows * a.vocabulary / kLogitsPerThread + 1, a.threads));
  with_type(a.logits.dtype, [&](auto type) {
    using T = decltype(type);
    for_items(threads, rows, [&](int64_t i) {
      a.entropies[i / a.rows][i % a.rows] = entropy_of(a.logits.at<T>(i / a.rows, i % a.rows), a.vocabulary);
    });
  });
}

}  // namespace ltd::LTD_ISA
