// The online softmax of tree_attention. A thread has some columns of some rows of a warp's scores and outputs in its
// registers.
#pragma once

#include "attention/work.cuh"

namespace ltd::cuda {
namespace {

// A thread's part of a (16 * kTall, 8 * kWide) matrix of a warp that multiply_tiles makes.
template <int kTall, int kWide>
struct Fragments {
  static constexpr int kRows = 2 * kTall;
  static constexpr int kColumns = 2 * kWide;
  static constexpr int kRowLanes = 4;  // lanes that share a row
  static constexpr int kStored = 2;    // columns that can be stored together
  float tiles[kTall][kWide][4];

  __device__ float& at(int i, int j) { return tiles[i / 2][j / 2][i % 2 * 2 + j % 2]; }
  // Row and column of at(i, j) in the matrix.
  __device__ static int row(int i) { return i * 8 + threadIdx.x % kWarp / 4; }
  __device__ static int column(int j) { return j / 2 * 8 + threadIdx.x % 4 * 2 + j % 2; }
};

// A thread's part of an (8, 16 * kColumns) matrix of a warp: 4 rows, and kPack columns out of 16 * kPack.
template <int kColumnCount, int kColumnPack>
struct Patch {
  static constexpr int kRows = 4;
  static constexpr int kColumns = kColumnCount;
  static constexpr int kRowLanes = 16;
  static constexpr int kPack = kColumnPack;
  static constexpr int kStored = 1;
  float values[kRows][kColumns];

  __device__ float& at(int i, int j) { return values[i][j]; }
  __device__ static int row(int i) { return threadIdx.x % kWarp / kRowLanes * kRows + i; }
  __device__ static int column(int j) { return (j / kPack * kRowLanes + threadIdx.x % kRowLanes) * kPack + j % kPack; }
};

template <typename Matrix>
__device__ inline void clear(Matrix& matrix) {
#pragma unroll
  for (int i = 0; i < Matrix::kRows; ++i) {
#pragma unroll
    for (int j = 0; j < Matrix::kColumns; ++j) matrix.at(i, j) = 0;
  }
}

// The softmax of a thread's rows so far.
template <int kRows>
struct Softmax {
  float peaks[kRows];  // largest scores
  float sums[kRows];   // of the weights in this thread's columns

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kRows; ++i) peaks[i] = -kInfinity, sums[i] = 0;
  }
};

// Which of a tile's slots the warp's rows see keys in, which begin at warp_row: bit k of lane r belongs to slot k of
// row r.
__device__ inline uint64_t lane_sight(const TreeAttention& a, const Plan& plan, const Work& work, int warp_row,
                                      int first_key) {
  if (first_key + plan.tile_keys <= work.length && first_key > work.horizon) return ~uint64_t{0};
  const int row = static_cast<int>(at_most(warp_row + threadIdx.x % kWarp, plan.rows - 1));
  return seen_slots(a, work, node_of(plan, row), first_key, plan.tile_keys);
}

// Makes the scores of keys that a row does not see -inf.
template <typename Scores>
__device__ inline void hide(uint64_t lane_sight, Scores& scores) {
  if (__all_sync(kAllLanes, lane_sight == ~uint64_t{0})) return;
#pragma unroll
  for (int i = 0; i < Scores::kRows; ++i) {
    const uint64_t sight = __shfl_sync(kAllLanes, lane_sight, Scores::row(i)) >> Scores::column(0);
#pragma unroll
    for (int j = 0; j < Scores::kColumns; ++j) {
      if ((sight >> (Scores::column(j) - Scores::column(0)) & 1) == 0) scores.at(i, j) = -kInfinity;
    }
  }
}

// Turns scores into weights 2^((score - peak) * factor), and brings sums and outputs to the new peaks. The difference
// comes first: the best score then has weight 1 however large it is. Where a row sees nothing, all stays as it is.
template <typename Scores, typename Outputs>
__device__ inline void soften(float factor, Scores& scores, Softmax<Scores::kRows>& softmax, Outputs& outputs) {
  float shrink[Scores::kRows];
  bool changed = false;
#pragma unroll
  for (int i = 0; i < Scores::kRows; ++i) {
    float peak = softmax.peaks[i];
#pragma unroll
    for (int j = 0; j < Scores::kColumns; ++j) peak = fmaxf(peak, scores.at(i, j));
#pragma unroll
    for (int lanes = Scores::kRowLanes / 2; lanes > 0; lanes /= 2) {
      peak = fmaxf(peak, __shfl_xor_sync(kAllLanes, peak, lanes));
    }
    // Where nothing was seen yet all weights are 0 with any finite peak; -inf - -inf would be NaN.
    const float base = peak == -kInfinity ? 0.0f : peak;
    float sum = 0;
#pragma unroll
    for (int j = 0; j < Scores::kColumns; ++j) {
      const float weight = fast_exp2((scores.at(i, j) - base) * factor);
      scores.at(i, j) = weight;
      sum += weight;
    }
    changed |= peak != softmax.peaks[i];
    shrink[i] = fast_exp2((softmax.peaks[i] - base) * factor);
    softmax.sums[i] = fmaf(softmax.sums[i], shrink[i], sum);
    softmax.peaks[i] = peak;
  }
  if (!__any_sync(kAllLanes, changed)) return;
#pragma unroll
  for (int i = 0; i < Outputs::kRows; ++i) {
#pragma unroll
    for (int j = 0; j < Outputs::kColumns; ++j) outputs.at(i, j) *= shrink[i];
  }
}

}  // namespace
}  // namespace ltd::cuda
