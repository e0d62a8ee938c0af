#include "expand/expand_beam.h"

#include <cmath>

#include "common/chunks.h"
#include "common/scratch.h"
#include "common/team.h"
#include "common/vector.h"
#include "noise/noise_rows.h"

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

// Sum of e^(sharpness * (x - peak)) over what was seen so far, `peak` being its maximum.
struct ExpSum {
  float sharpness;
  float peak = -kInfinity;
  Floats sums{};

  // `values`: `vectors` vectors with the maximum `chunk_peak`.
  LTD_INLINE void add(const float* values, int64_t vectors, float chunk_peak) {
    if (chunk_peak > peak) {
      if (peak > -kInfinity) sums *= splat(std::exp(sharpness * (peak - chunk_peak)));
      peak = chunk_peak;
    }
    if (peak == -kInfinity) return;
    for (int64_t v = 0; v < vectors; ++v) sums += exp_nonpositive((load(values + v * kLanes) - peak) * sharpness);
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

// Makes values of a chunk of logits, which have no NaN, and returns their maximum. `noise` may be null. What is not a
// number, +inf without noise, becomes -inf.
LTD_INLINE float perturb(float* chunk, int64_t count, float rate, const float* noise) {
  Floats peak = splat(-kInfinity);
  for (int64_t i = 0; i < count; i += kLanes) {
    Floats value = load(chunk + i) * rate;
    if (noise != nullptr) {
      value += i + kLanes <= count ? load(noise + i) : load_some(noise + i, count - i, -kInfinity);
      value = value == value ? value : splat(-kInfinity);
    }
    store(chunk + i, value);
    peak = larger(peak, value);
  }
  return largest_lane(peak);
}

// Writes the W children of beam row `row` as candidates. `noise` is that of the draft's ids, or null.
template <typename T>
void expand_row(const ExpandBeam& a, int64_t b, int64_t row, const float* noise) {
  const bool is_perturbed = noise != nullptr || a.rate != 1.0f;
  const T* logits = a.logits.at<T>(b, row);
  alignas(64) float chunk[kChunk];
  Best best{a.width};
  ExpSum sum{a.sharpness};
  for (int64_t start = 0; start < a.vocabulary; start += kChunk) {
    const int64_t count = a.vocabulary - start < kChunk ? a.vocabulary - start : kChunk;
    float chunk_peak = copy_chunk<NaN::kLeast>(logits + start, count, chunk);
    if (is_perturbed) chunk_peak = perturb(chunk, count, a.rate, noise == nullptr ? nullptr : noise + start);
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
    const float score = parent_score + ((best.values[child] - sum.peak) * a.sharpness - log_sum);
    a.tokens[b][first + child] = a.d2t == nullptr ? id : target_token(id, a.d2t[id]);
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

thread_local Scratch draft_noise;

// The noise of the draft's ids at the level's position, for all rows of the batch: (B, vocabulary), or null.
const float* noise_of_drafts(const ExpandBeam& a, int threads) {
  if (a.lengths == nullptr) return nullptr;
  float* all = draft_noise.reserve<float>(a.batch * a.vocabulary);
  for (int64_t b = 0; b < a.batch; ++b) {
    const float* noise = noise_of(a.ring, b, a.lengths[b] + a.level, threads);
    float* own = all + b * a.vocabulary;
    const auto tokens = static_cast<uint64_t>(a.ring.vocabulary);
    for (int64_t id = 0; id < a.vocabulary; ++id) {
      const auto token = static_cast<uint64_t>(a.d2t == nullptr ? id : target_token(id, a.d2t[id]));
      own[id] = token < tokens ? noise[token] : -kInfinity;
    }
  }
  return all;
}

}  // namespace

void expand_beam(const ExpandBeam& a) {
  const int64_t rows = a.batch * a.rows;
  const int64_t useful_threads = rows * a.vocabulary / kLogitsPerThread + 1;
  const int threads = static_cast<int>(useful_threads < a.threads ? useful_threads : a.threads);
  const float* noise = noise_of_drafts(a, a.threads);
  with_type(a.logits.dtype, [&](auto type) {
    using T = decltype(type);
    for_items(threads, rows, [&](int64_t i) {
      const int64_t b = i / a.rows;
      expand_row<T>(a, b, i % a.rows, noise == nullptr ? nullptr : noise + b * a.vocabulary);
    });
  });
  for (int64_t b = 0; b < a.batch; ++b) choose_beam(a, b);
}

}  // namespace ltd::LTD_ISA
