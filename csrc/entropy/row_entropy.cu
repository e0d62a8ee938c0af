// Two launches: blocks read one split of a row each and leave its sums in the workspace, then a warp per row merges
// them.
#include "common/cuda_kernels.h"
#include "common/device.cuh"
#include "common/row_tiles.cuh"
#include "common/warp.cuh"
#include "entropy/row_entropy.h"

namespace ltd::cuda {
namespace {

// Finite, so that x - peak is -inf, not NaN, where all that was seen is -inf.
constexpr float kLowest = -3.40282347e38f;

// NaN stays NaN.
__device__ float at_least_least(float difference) {
  return difference < kLeastDifference ? kLeastDifference : difference;
}

// Sums over what was seen so far, with y = x - peak. In float within a thread, in double among threads, as a vocabulary
// is long.
template <typename Float>
struct EntropySums {
  float peak;      // the maximum, apart from NaN
  Float weights;   // Σ e^y
  Float weighted;  // Σ e^y * y

  static __device__ EntropySums of_nothing() { return {kLowest, 0, 0}; }

  // The same with another peak, not below this one.
  __device__ EntropySums relative_to(float other) const {
    const float change = at_least_least(peak - other);
    const float factor = expf(change);
    return {other, factor * weights, factor * (weighted + change * weights)};
  }
};

__device__ void add(const float (&logits)[kThreadLogits], EntropySums<float>& sums) {
  float peak = sums.peak;
#pragma unroll
  for (int i = 0; i < kThreadLogits; ++i) peak = fmaxf(peak, logits[i]);
  sums = sums.relative_to(peak);
#pragma unroll
  for (int i = 0; i < kThreadLogits; ++i) {
    const float y = at_least_least(logits[i] - peak);
    const float weight = expf(y);
    sums.weights += weight;
    sums.weighted += weight * y;
  }
}

// Of all lanes, in every lane.
__device__ EntropySums<double> warp_merge(const EntropySums<double>& mine) {
  const EntropySums<double> sums = mine.relative_to(warp_max(mine.peak));
  return {sums.peak, warp_sum(sums.weights), warp_sum(sums.weighted)};
}

// What the first launch leaves to the second: three numbers of every split of every row of all batch rows.
struct SplitResults {
  Pointer<double> sums;

  __device__ EntropySums<double> load(int64_t part) const {
    return {static_cast<float>(sums[3 * part]), sums[3 * part + 1], sums[3 * part + 2]};
  }
  __device__ void store(int64_t part, const EntropySums<double>& from) const {
    sums[3 * part] = from.peak;
    sums[3 * part + 1] = from.weights;
    sums[3 * part + 2] = from.weighted;
  }
};

// Block (row of all batch rows, split).
template <typename T>
__global__ void __launch_bounds__(kTileThreads) read_splits(RowEntropy a, Splits splits, SplitResults results) {
  using WarpSums = Array<EntropySums<double>, kTileWarps>;
  LTD_SHARED(WarpSums, warp_sums);
  const auto rows = static_cast<uint32_t>(a.rows);
  const Pointer<const T> row = a.logits.at<T>(blockIdx.x / rows, blockIdx.x % rows);
  const int64_t begin = blockIdx.y * splits.size;
  const int64_t end = at_most(begin + splits.size, a.vocabulary);
  EntropySums<float> sums = EntropySums<float>::of_nothing();
  for (int64_t start = begin; start < end; start += kTile) {
    float logits[kThreadLogits];
    load_tile(row, a.vocabulary, start, logits);
    add(logits, sums);
  }

  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const EntropySums<double> of_warp = warp_merge({sums.peak, sums.weights, sums.weighted});
  if (lane == 0) warp_sums[warp] = of_warp;
  __syncthreads();
  if (warp > 0) return;
  const EntropySums<double> all = warp_merge(lane < kTileWarps ? warp_sums[lane] : EntropySums<double>::of_nothing());
  if (lane == 0) results.store(static_cast<int64_t>(blockIdx.x) * splits.count + blockIdx.y, all);
}

// Block (row of all batch rows) of one warp.
__global__ void __launch_bounds__(kWarp) merge_splits(RowEntropy a, int splits, SplitResults results) {
  const int lane = threadIdx.x;
  const int64_t part = static_cast<int64_t>(blockIdx.x) * splits + lane;
  const EntropySums<double> all = warp_merge(lane < splits ? results.load(part) : EntropySums<double>::of_nothing());
  if (lane > 0) return;
  a.entropies[blockIdx.x / a.rows][blockIdx.x % a.rows] =
      static_cast<float>(log(all.weights) - all.weighted / all.weights);
}

}  // namespace

int64_t row_entropy_workspace(const RowEntropy& a) {
  return a.batch * a.rows * split_row(a.vocabulary).count * 3 * static_cast<int64_t>(sizeof(double));
}

void row_entropy(const RowEntropy& a) {
  const auto rows = static_cast<unsigned>(a.batch * a.rows);
  if (rows == 0) return;
  const Splits splits = split_row(a.vocabulary);
  const SplitResults results{static_cast<double*>(a.launch.workspace)};
  with_type(a.logits.dtype, [&](auto type) {
    launch(read_splits<decltype(type)>, dim3(rows, splits.count), kTileThreads, 0, a.launch.stream, a, splits, results);
  });
  launch(merge_splits, dim3(rows), kWarp, 0, a.launch.stream, a, splits.count, results);
}

}  // namespace ltd::cuda
