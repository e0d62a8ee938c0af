// The first largest logit of many rows: blocks look for it in parts of the rows, and a warp puts a row's parts
// together.
#pragma once

#include "accept/distribution.cuh"
#include "common/warp.cuh"

namespace ltd::cuda {
namespace {

constexpr int kArgmaxThreads = 256;
constexpr int kPacksPerThread = 4;

// Bytes of a row that a block looks at.
constexpr int64_t kPartBytes = 16 * kPacksPerThread * kArgmaxThreads;

// A part's or a row's first largest logit: the larger word, the larger the logit, then the smaller the id. NaN is
// larger than anything.
struct Best {
  static __device__ uint32_t key(float peak) { return peak == peak ? key_of(peak) : 0xffffffffu; }
  static __device__ uint64_t pack(uint32_t peak_key, uint32_t id) {
    return uint64_t{peak_key} << 32 | (~id & kAllLanes);
  }
  // -1 for rows without a next token.
  static __device__ int64_t token(uint64_t best) {
    const uint32_t peak_key = static_cast<uint32_t>(best >> 32);
    const bool finite = peak_key > key_of(-kInfinity) && peak_key < key_of(kInfinity);
    return finite ? static_cast<int64_t>(~static_cast<uint32_t>(best)) : -1;
  }
};

// In how many parts rows are read.
inline int64_t argmax_parts(const AnyMatrices& logits, int64_t vocabulary) {
  return ceil_div(vocabulary * (logits.dtype == DType::kFloat32 ? 4 : 2), kPartBytes);
}

// Part p of row r of matrix b is found by block (b * rows + r) * parts + p, which writes the word of that number.
template <typename T>
__global__ void __launch_bounds__(kArgmaxThreads)
    find_best_of_parts(AnyMatrices logits, int64_t rows, int64_t vocabulary, int64_t parts, uint64_t* bests) {
  await_earlier_kernels();
  using Words = Array<uint32_t, kWarp>;
  LTD_SHARED(Words, peaks);
  LTD_SHARED(Words, ids);
  constexpr int64_t kPart = kPartBytes / sizeof(T);
  const int64_t row = blockIdx.x / static_cast<uint32_t>(parts);
  const int64_t begin = blockIdx.x % static_cast<uint32_t>(parts) * kPart;
  const Pointer<const T> values = logits.at<T>(row / rows, row % rows);

  // Of the thread's first largest logit, only the pack that holds it is known at first.
  float best = -kInfinity;
  int64_t id = begin;
  visit_packs<kPacksPerThread>(values, begin, at_most(begin + kPart, vocabulary), threadIdx.x, blockDim.x,
                               [&](int64_t first, const auto& pack) {
                                 constexpr int kCount = sizeof(pack) / sizeof(T);
                                 float peak = to_float(pack[0]);
#pragma unroll
                                 for (int i = 1; i < kCount; ++i) peak = larger_or_nan(peak, to_float(pack[i]));
                                 if (peak > best) id = first;
                                 best = larger_or_nan(best, peak);
                               });

  const uint32_t own_key = Best::key(best);
  const uint32_t warp_key = __reduce_max_sync(kAllLanes, own_key);
  if (lane_index() == 0) peaks[warp_index()] = warp_key;
  __syncthreads();
  const uint32_t key = __reduce_max_sync(kAllLanes, of_warp(peaks, 0u));
  const bool holds_it = own_key == key && best == best;
  while (holds_it && to_float(values[id]) != best) ++id;
  const uint32_t warp_id = __reduce_min_sync(kAllLanes, holds_it ? static_cast<uint32_t>(id) : kAllLanes);
  if (lane_index() == 0) ids[warp_index()] = warp_id;
  __syncthreads();
  if (warp_index() > 0) return;
  const uint32_t first_id = __reduce_min_sync(kAllLanes, of_warp(ids, kAllLanes));
  if (threadIdx.x == 0) global(bests)[blockIdx.x] = Best::pack(key, first_id);
}

// Finds the bests of the parts of `count` matrices.
inline void launch_argmax(const AnyMatrices& logits, int64_t count, int64_t rows, int64_t vocabulary, uint64_t* bests,
                          void* stream) {
  const int64_t parts = argmax_parts(logits, vocabulary);
  const int threads = static_cast<int>(at_most(threads_of_row(vocabulary), kArgmaxThreads));
  with_type(logits.dtype, [&](auto type) {
    launch<kStartsEarly>(find_best_of_parts<decltype(type)>, static_cast<unsigned>(count * rows * parts), threads, 0,
                         stream, logits, rows, vocabulary, parts, bests);
  });
}

// The token of a row from the bests of its parts, for all lanes of a warp.
__device__ inline int64_t token_of_parts(Pointer<const uint64_t> bests, int64_t parts) {
  uint64_t best = 0;
  for (int64_t part = lane_index(); part < parts; part += kWarp) best = bests[part] > best ? bests[part] : best;
  return Best::token(warp_reduce(best, [](uint64_t a, uint64_t b) { return b > a ? b : a; }));
}

}  // namespace
}  // namespace ltd::cuda
