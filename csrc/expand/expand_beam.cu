// Two launches, and one before them that makes noise if there is to be any. In the first, blocks read one split of a
// row each and leave its best W values and its sum of exponentials in the workspace. In the second, a block per batch
// row merges the splits of each beam row in a warp of its own, then chooses the next beam.
#include "common/cuda_kernels.h"
#include "common/device.cuh"
#include "common/rank_keys.cuh"
#include "common/row_tiles.cuh"
#include "common/warp.cuh"
#include "expand/expand_beam.h"
#include "noise/noise.cuh"

namespace ltd::cuda {
namespace {

// --- sums of exponentials ---

// Sum of e^(sharpness * (x - peak)) over what was seen so far, `peak` being its maximum: at least 1 if that is finite.
// Two floats.
struct ExpSum {
  float peak;
  float sum;

  static __device__ ExpSum of_nothing() { return {-kInfinity, 0.0f}; }

  __device__ void add(const float (&logits)[kThreadLogits], float sharpness) {
    float new_peak = peak;
#pragma unroll
    for (int i = 0; i < kThreadLogits; ++i) new_peak = fmaxf(new_peak, logits[i]);
    if (new_peak == -kInfinity) return;
    sum = relative_to(new_peak, sharpness);
    peak = new_peak;
#pragma unroll
    for (int i = 0; i < kThreadLogits; ++i) sum += expf((logits[i] - peak) * sharpness);
  }

  // The sum with another peak, not below this one.
  __device__ float relative_to(float other, float sharpness) const {
    return peak == -kInfinity ? 0.0f : sum * expf((peak - other) * sharpness);
  }
};

// Of all lanes, in every lane.
__device__ ExpSum warp_merge(const ExpSum& mine, float sharpness) {
  const float peak = warp_max(mine.peak);
  return {peak, warp_sum(mine.relative_to(peak, sharpness))};
}

// --- what the first launch leaves to the second ---

struct SplitResults {
  Pointer<uint64_t> keys;  // (rows of all batch rows, splits, kMaxBeamWidth), best first
  Pointer<float> sums;     // (rows of all batch rows, splits, 2), ExpSums

  __device__ Pointer<uint64_t> keys_of(int64_t part) const { return keys + part * kMaxBeamWidth; }
  __device__ ExpSum sum_of(int64_t part) const {
    const auto pair = load_pack<2>(sums + 2 * part);
    return {pair[0], pair[1]};
  }
  __device__ void set_sum(int64_t part, const ExpSum& sum) const {
    store_pack<2>(sums + 2 * part, Pack<float, 2>{{sum.peak, sum.sum}});
  }
};

int64_t split_parts(const ExpandBeam& a) { return a.batch * a.rows * split_row(a.vocabulary).count; }

SplitResults results_in(void* workspace, int64_t parts) {
  auto* keys = static_cast<uint64_t*>(workspace);
  return {keys, reinterpret_cast<float*>(keys + parts * kMaxBeamWidth)};
}

// --- the first launch ---

// A block's best W keys so far, best first, and what it needs to find them.
struct BlockBest {
  // Of a warp's lanes at most W take part in a tile, with at most all their logits.
  static constexpr int kPool = kTileWarps * kMaxBeamWidth * kThreadLogits + kMaxBeamWidth;

  KeyList<kMaxBeamWidth> best;
  Array<KeyList<kWarp>, kTileWarps> lane_bests;
  Array<uint64_t, kTileWarps> warp_cuts;
  KeyList<kPool> pool;
  int pooled;

  __device__ void clear() {
    if (threadIdx.x < kMaxBeamWidth) best.keys[threadIdx.x] = kWorstKey;
  }

  __device__ void offer_pool(uint64_t key) { pool.keys[atomicAdd(&pooled, 1)] = key; }

  // Takes in a tile of which `mine` is this thread's best key; all threads of the block take part. `bound` is the W-th
  // best key so far, and becomes the new one.
  template <typename T>
  __device__ void add(const float (&logits)[kThreadLogits], int64_t start, uint64_t mine, int width, uint64_t& bound) {
    const uint64_t cut = find_cut(mine, width, bound);
    if (mine <= cut) {
      const float least = value_of(cut);
#pragma unroll
      for (int i = 0; i < kThreadLogits; ++i) {
        if (logits[i] < least) continue;
        const uint64_t key = rank_key(logits[i], static_cast<uint32_t>(logit_id<T>(start, i)));
        if (key <= cut) offer_pool(key);
      }
    }
    if (static_cast<int>(threadIdx.x) < width && best.keys[threadIdx.x] <= cut) offer_pool(best.keys[threadIdx.x]);
    __syncthreads();
    rank_pool(width);
    __syncthreads();
    bound = best.keys[width - 1];
  }

 private:
  // A key that at least W of the tile's and the best so far reach: the best of the W-th best of each warp's lanes.
  __device__ uint64_t find_cut(uint64_t mine, int width, uint64_t bound) {
    const int warp = threadIdx.x / kWarp;
    lane_bests[warp].keys[threadIdx.x % kWarp] = mine;
    if (threadIdx.x == 0) pooled = 0;
    __syncwarp();
    if (lane_bests[warp].count_better(kWarp, mine) == width - 1) warp_cuts[warp] = mine;
    __syncthreads();
    uint64_t cut = bound;
#pragma unroll
    for (int i = 0; i < kTileWarps; ++i) cut = warp_cuts[i] < cut ? warp_cuts[i] : cut;
    return cut;
  }

  __device__ void rank_pool(int width) {
    for (int i = threadIdx.x; i < pooled; i += kTileThreads) {
      const int rank = pool.count_better(pooled, pool.keys[i]);
      if (rank < width) best.keys[rank] = pool.keys[i];
    }
  }
};

// The best key of this thread's logits.
template <typename T>
__device__ uint64_t best_key(const float (&logits)[kThreadLogits], int64_t start) {
  float best = -kInfinity;
  int place = 0;
#pragma unroll
  for (int i = 0; i < kThreadLogits; ++i) {
    if (logits[i] > best) {
      best = logits[i];
      place = i;
    }
  }
  return rank_key(best, static_cast<uint32_t>(logit_id<T>(start, place)));
}

// Of all threads, in the first warp.
__device__ ExpSum block_merge(const ExpSum& mine, float sharpness) {
  using WarpSums = Array<ExpSum, kTileWarps>;
  LTD_SHARED(WarpSums, warp_sums);
  const ExpSum of_warp = warp_merge(mine, sharpness);
  if (threadIdx.x % kWarp == 0) warp_sums[threadIdx.x / kWarp] = of_warp;
  __syncthreads();
  if (threadIdx.x >= kWarp) return ExpSum::of_nothing();
  return warp_merge(threadIdx.x < kTileWarps ? warp_sums[threadIdx.x] : ExpSum::of_nothing(), sharpness);
}

// --- noise ---

__device__ int64_t position_of(const ExpandBeam& a, int64_t b) { return int64_t{global(a.lengths)[b]} + a.level; }

// Block (batch row, part).
__global__ void __launch_bounds__(kNoiseThreads) make_level_noise(ExpandBeam a) {
  await_earlier_kernels();
  const int64_t b = blockIdx.x, position = position_of(a, b), slot = a.ring.slot_of(position);
  if (a.ring.places[b][slot] == position) return;
  make_noise(place_of(a.ring, b, position), a.ring.vocabulary, blockIdx.y, gridDim.y, a.ring.noise.at(b, slot));
}

// Makes values of this thread's logits of a tile, which are no NaN.
template <typename T>
__device__ void perturb(const ExpandBeam& a, int64_t b, int64_t start, float (&logits)[kThreadLogits]) {
#pragma unroll
  for (int i = 0; i < kThreadLogits; ++i) logits[i] *= a.rate;
  if (a.lengths == nullptr) return;
  const Pointer<const float> noise = a.ring.noise.at(b, a.ring.slot_of(position_of(a, b)));
#pragma unroll
  for (int i = 0; i < kThreadLogits; ++i) {
    const int64_t id = logit_id<T>(start, i);
    if (id >= a.vocabulary) continue;
    const int64_t token = a.d2t == nullptr ? id : target_token(id, global(a.d2t)[id]);
    const bool is_known = token >= 0 && token < a.ring.vocabulary;
    logits[i] = fmaxf(logits[i] + (is_known ? noise[token] : -kInfinity), -kInfinity);
  }
}

// Block (row of all batch rows, split).
template <typename T>
__global__ void __launch_bounds__(kTileThreads) read_splits(ExpandBeam a, Splits splits, SplitResults results) {
  await_earlier_kernels();
  LTD_SHARED(BlockBest, block);
  const auto rows = static_cast<uint32_t>(a.rows);
  const Pointer<const T> row = a.logits.at<T>(blockIdx.x / rows, blockIdx.x % rows);
  const int64_t begin = blockIdx.y * splits.size;
  const int64_t end = at_most(begin + splits.size, a.vocabulary);
  const int width = static_cast<int>(a.width);
  block.clear();
  ExpSum sum = ExpSum::of_nothing();
  uint64_t bound = kWorstKey;
  for (int64_t start = begin; start < end; start += kTile) {
    float logits[kThreadLogits];
    load_tile(row, a.vocabulary, start, logits);
#pragma unroll
    for (int i = 0; i < kThreadLogits; ++i) logits[i] = fmaxf(logits[i], -kInfinity);  // NaN counts as -inf
    if (a.lengths != nullptr || a.rate != 1.0f) perturb<T>(a, blockIdx.x / rows, start, logits);
    sum.add(logits, a.sharpness);
    const uint64_t mine = best_key<T>(logits, start);
    if (__syncthreads_or(mine < bound)) block.add<T>(logits, start, mine, width, bound);
  }

  const int64_t part = static_cast<int64_t>(blockIdx.x) * splits.count + blockIdx.y;
  if (threadIdx.x < kMaxBeamWidth) results.keys_of(part)[threadIdx.x] = block.best.keys[threadIdx.x];
  const ExpSum all = block_merge(sum, a.sharpness);
  if (threadIdx.x == 0) results.set_sum(part, all);
}

// --- the second launch ---

constexpr int kMaxChildren = kMaxBeamWidth * kMaxBeamWidth;  // of a level
constexpr int kMergeThreads = kMaxBeamWidth * kWarp;

// The keys of a beam row that may be among its best W: of the split with the r-th best head no more than W - r.
struct RowBest {
  static constexpr int kPool = kMaxBeamWidth * (kMaxBeamWidth + 1) / 2;

  KeyList<kMaxSplits> heads;
  KeyList<kPool> pool;
  Array<uint64_t, kMaxBeamWidth> best;
  int pooled;
};

// The level's children, and which of them become the next beam.
struct Level {
  KeyList<kMaxChildren> keys;  // by (score, child)
  Array<uint32_t, kMaxChildren> ids;
  Array<int, kMaxBeamWidth> beam;
};

// The best W of a beam row into `row.best`, by a warp of which each lane has the best W of one split.
__device__ void merge_splits(RowBest& row, Pointer<const uint64_t> mine, int splits, int width) {
  const int lane = threadIdx.x % kWarp;
  if (lane == 0) row.pooled = 0;
  const uint64_t head = lane < splits ? mine[0] : kWorstKey;
  row.heads.keys[lane] = head;
  __syncwarp();
  const int rank = row.heads.count_better(splits, head);
  const uint32_t last = __ballot_sync(kAllLanes, lane < splits && rank == width - 1);
  const uint64_t last_head = __shfl_sync(kAllLanes, head, last == 0 ? 0 : __ffs(last) - 1);
  const uint64_t cut = last == 0 ? kWorstKey : last_head;
  if (lane < splits && rank < width) {
    uint64_t keys[kMaxBeamWidth];
#pragma unroll
    for (int i = 0; i < kMaxBeamWidth; i += 2) {
      const auto pair = load_pack<2>(mine + i);
      keys[i] = pair[0];
      keys[i + 1] = pair[1];
    }
#pragma unroll
    for (int i = 0; i < kMaxBeamWidth; ++i) {
      if (rank + i < width && keys[i] <= cut) row.pool.keys[atomicAdd(&row.pooled, 1)] = keys[i];
    }
  }
  __syncwarp();
  for (int i = lane; i < row.pooled; i += kWarp) {
    const int place = row.pool.count_better(row.pooled, row.pool.keys[i]);
    if (place < width) row.best[place] = row.pool.keys[i];
  }
  __syncwarp();
}

// Scores the W children of the beam row that is this warp's.
__device__ void score_children(const ExpandBeam& a, const SplitResults& results, int splits, RowBest& best,
                               Level& level) {
  const int64_t b = blockIdx.x;
  const int row = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, width = static_cast<int>(a.width);
  const int64_t part = (b * a.rows + row) * splits + lane;
  const Pointer<const int32_t> parents = a.beam_nodes.at(b, a.level - 1);
  const Pointer<const float> scores = a.scores[b];
  const int32_t parent = a.level == 0 ? -1 : parents[row];
  const ExpSum sum = warp_merge(lane < splits ? results.sum_of(part) : ExpSum::of_nothing(), a.sharpness);
  const float parent_score = a.level == 0 ? 0.0f : scores[parent];
  merge_splits(best, results.keys_of(part), splits, width);
  if (lane >= width) return;

  const uint64_t key = best.best[lane];
  // A child never scores above its parent: the sum holds the peak's own term, 1, so that its logarithm is not negative.
  const float score = parent_score + ((value_of(key) - sum.peak) * a.sharpness - logf(sum.sum));
  const float number = score == score ? score : -kInfinity;
  const int child = row * width + lane;
  const int64_t candidate = level_offset(a.level, a.width) + child;
  a.scores[b][candidate] = number;
  a.parents[b][candidate] = parent;
  level.keys.keys[child] = rank_key(number, child);
  level.ids[child] = index_of(key);
}

// Writes the children's tokens and chooses the next beam, a thread per child.
__device__ void choose_beam(const ExpandBeam& a, Level& level) {
  const int64_t b = blockIdx.x;
  const int width = static_cast<int>(a.width), children = static_cast<int>(a.rows) * width;
  const int child = threadIdx.x;
  if (child >= children) return;
  const int64_t id = level.ids[child];
  const int64_t token = a.d2t == nullptr ? id : target_token(id, global(a.d2t)[id]);
  const int w = level.keys.count_better(children, level.keys.keys[child]);
  const int64_t candidate = level_offset(a.level, a.width) + child;
  a.tokens[b][candidate] = token;
  if (w >= width) return;
  level.beam[w] = child;
  a.beam_nodes.at(b, a.level)[w] = static_cast<int32_t>(candidate);
  a.beam_rows[b][w] = child / width;
  a.beam_tokens[b][w] = token;
}

// Every beam row sees what its parent's row sees, and itself.
__device__ void write_masks(const ExpandBeam& a, const Level& level) {
  const int64_t b = blockIdx.x;
  const int width = static_cast<int>(a.width), words = static_cast<int>(a.words);
  const Pointer<const int64_t> before = a.beam_masks.at(b, a.level - 1);
  const Pointer<int64_t> masks = a.beam_masks.at(b, a.level);
  for (int i = threadIdx.x; i < width * words; i += blockDim.x) {
    const int w = i / words, word = i % words;
    const int bit = static_cast<int>(a.level) * width + w;
    const int64_t above = a.level == 0 ? 0 : before[level.beam[w] / width * words + word];
    const int64_t own = word == bit / 64 ? static_cast<int64_t>(uint64_t{1} << (bit % 64)) : 0;
    masks[i] = above | own;
  }
}

// Block (batch row) with a warp per beam row.
__global__ void __launch_bounds__(kMergeThreads) merge_rows(ExpandBeam a, int splits, SplitResults results) {
  await_earlier_kernels();
  using RowBests = Array<RowBest, kMaxBeamWidth>;
  LTD_SHARED(RowBests, bests);
  LTD_SHARED(Level, level);
  score_children(a, results, splits, bests[threadIdx.x / kWarp], level);
  __syncthreads();
  choose_beam(a, level);
  __syncthreads();
  write_masks(a, level);
  if (a.lengths == nullptr || threadIdx.x > 0) return;
  const int64_t b = blockIdx.x, position = position_of(a, b);
  a.ring.places[b][a.ring.slot_of(position)] = position;
}

}  // namespace

int64_t expand_beam_workspace(const ExpandBeam& a) {
  return split_parts(a) * static_cast<int64_t>(kMaxBeamWidth * sizeof(uint64_t) + sizeof(ExpSum));
}

void expand_beam(const ExpandBeam& a) {
  if (a.batch == 0) return;
  const Splits splits = split_row(a.vocabulary);
  const SplitResults results = results_in(a.launch.workspace, split_parts(a));
  const dim3 blocks(static_cast<unsigned>(a.batch * a.rows), splits.count);
  if (a.lengths != nullptr) {
    const dim3 noise(static_cast<unsigned>(a.batch), noise_blocks(a.ring.vocabulary));
    launch<kStartsEarly>(make_level_noise, noise, kNoiseThreads, 0, a.launch.stream, a);
  }
  with_type(a.logits.dtype, [&](auto type) {
    launch<kStartsEarly>(read_splits<decltype(type)>, blocks, kTileThreads, 0, a.launch.stream, a, splits, results);
  });
  launch<kStartsEarly>(merge_rows, dim3(static_cast<unsigned>(a.batch)), static_cast<int>(a.rows) * kWarp, 0,
                       a.launch.stream, a, splits.count, results);
}

}  // namespace ltd::cuda
