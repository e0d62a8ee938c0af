#include "expand/expand_beam.h"

#include <cmath>

#include "common/chunks.h"
#include "common/team.h"
#include "common/vector.h"

namespace ltd::LTD_ISA {
namespace {

// Below this many logits a second thread costs more than it saves.
constexpr int64_t kLogitsPerThread = 131072;

// The best logits so far, best first; of equal ones the first offered is the better.
struct Best {
  int64_t width;
  int64_t count = 0;
  float values[kMaxBeamWidth] = {};
  int64_t ids[kMaxBeamWidth] = {};

  LTD_INLINE bool full() const { return count == width; }
  LTD_INLINE float worst() const { return values[count - 1]; }

  LTD_INLINE void offer(float value, int64_t id) {
    if (full() && !(value > worst())) return;
    int64_t place = full() ? count - 1 : count++;
    for (; place > 0 && value > values[place - 1]; --place) {
      values[place] = values[place - 1];
      ids[place] = ids[place - 1];
    }
    values[place] = value;
    ids[place] = id;
  }
};

// Sum of e^(x - peak) over what was seen so far, `peak` being its maximum.
struct ExpSum {
  float peak = -kInfinity;
  Floats sums{};

  // `values`: `vectors` vectors with the maximum `chunk_peak`.
  LTD_INLINE void add(const float* values, int64_t vectors, float chunk_peak) {
    if (chunk_peak > peak) {
      if (peak > -kInfinity) sums *= splat(std::exp(peak - chunk_peak));
      peak = chunk_peak;
    }
    if (peak == -kInfinity) return;
    for (int64_t v = 0; v < vectors; ++v) sums += exp_nonpositive(load(values + v * kLanes) - peak);
  }

  float log() const { return std::log(static_cast<float>(sum_lanes(__builtin_convertvector(sums, Doubles)))); }
};

LTD_INLINE void offer_chunk(const float* values, int64_t count, int64_t first_id, Best& best) {
  for (int64_t i = 0; i < count; i += kLanes) {
    if (best.full() && !any(load(values + i) > best.worst())) continue;
    const int64_t end = i + kLanes < count ? i + kLanes : count;
    for (int64_t j = i; j < end; ++j) best.offer(values[j], first_id + j);
  }
}

// Offsets that are rubbish give ids that are: the sum wraps.
LTD_INLINE int64_t sum_of_ids(int64_t id, int64_t offset) {
  return static_cast<int64_t>(static_cast<uint64_t>(id) + static_cast<uint64_t>(offset));
}

// Writes the W children of beam row `row` as candidates.
template <typename T>
void expand_row(const ExpandBeam& a, int64_t b, int64_t row) {
  const T* logits = a.logits.at<T>(b, row);
  alignas(64) float chunk[kChunk];
  Best best{a.width};
  ExpSum sum;
  for (int64_t start = 0; start < a.vocabulary; start += kChunk) {
    const int64_t count = a.vocabulary - start < kChunk ? a.vocabulary - start : kChunk;
    const float chunk_peak = copy_chunk<NaN::kLeast>(logits + start, count, chunk);
    sum.add(chunk, (count + kLanes - 1) / kLanes, chunk_peak);
    if (!best.full() || chunk_peak > best.worst()) offer_chunk(chunk, count, start, best);
  }

  const int32_t parent = a.level == 0 ? -1 : a.beam_nodes.at(b, a.level - 1)[row];
  const float parent_score = a.level == 0 ? 0.0f : a.scores[b][parent];
  const float log_sum = sum.log();
  const int64_t first = level_offset(a.level, a.width) + row * a.width;
  for (int64_t child = 0; child < a.width; ++child) {
    const int64_t id = best.ids[child];
    // A child never scores above its parent: the sum holds the peak's own term, 1, so that its logarithm is not
    // negative.
    const float score = parent_score + ((best.values[child] - sum.peak) - log_sum);
    a.tokens[b][first + child] = a.d2t == nullptr ? id : sum_of_ids(id, a.d2t[id]);
    a.scores[b][first + child] = score == score ? score : -kInfinity;
    a.parents[b][first + child] = parent;
  }
}

// Chooses the next beam from the candidates of the newest level.
void choose_beam(const ExpandBeam& a, int64_t b) {
  const int64_t first = level_offset(a.level, a.width);
  Best best{a.width};
  for (int64_t i = 0; i < a.rows * a.width; ++i) best.offer(a.scores[b][first + i], i);

  const int64_t mask_size = a.words;
  for (int64_t w = 0; w < a.width; ++w) {
    const int64_t row = best.ids[w] / a.width;
    a.beam_nodes.at(b, a.level)[w] = static_cast<int32_t>(first + best.ids[w]);
    a.beam_rows[b][w] = row;
    a.beam_tokens[b][w] = a.tokens[b][first + best.ids[w]];
    int64_t* mask = a.beam_masks.at(b, a.level) + w * mask_size;
    if (a.level == 0) {
      std::memset(mask, 0, mask_size * sizeof(int64_t));
    } else {
      std::memcpy(mask, a.beam_masks.at(b, a.level - 1) + row * mask_size, mask_size * sizeof(int64_t));
    }
    const int64_t bit = a.level * a.width + w;
    mask[bit / 64] |= static_cast<int64_t>(uint64_t{1} << (bit % 64));
  }
}

}  // namespace

void expand_beam(const ExpandBeam& a) {
  const int64_t rows = a.batch * a.rows;
  const int64_t useful_threads = rows * a.vocabulary / kLogitsPerThread + 1;
  const int threads = static_cast<int>(useful_threads < a.threads ? useful_threads : a.threads);
  with_type(a.logits.dtype, [&](auto type) {
    using T = decltype(type);
    for_items(threads, rows, [&](int64_t i) { expand_row<T>(a, i / a.rows, i % a.rows); });
  });
  for (int64_t b = 0; b < a.batch; ++b) choose_beam(a, b);
}

}  // namespace ltd::LTD_ISA
