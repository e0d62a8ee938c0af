// One block per row. What a thread has added stays in its registers for the norm, as far as they reach.
#include <type_traits>

#include "common/cuda_kernels.h"
#include "common/device.cuh"
#include "common/warp.cuh"
#include "forward/add_rms_norm.h"
#include "forward/packs.cuh"

namespace ltd::cuda {
namespace {

constexpr int kMostThreads = 1024;
constexpr int kHeld = 2;  // packs of a row that a thread keeps

// Of all threads of the block, in every thread.
__device__ float block_sum(float value) {
  using WarpSums = Array<float, kMostThreads / kWarp>;
  LTD_SHARED(WarpSums, warp_sums);
  const int lane = threadIdx.x % kWarp;
  value = warp_sum(value);
  if (lane == 0) warp_sums[threadIdx.x / kWarp] = value;
  __syncthreads();
  return warp_sum(lane < static_cast<int>(blockDim.x) / kWarp ? warp_sums[lane] : 0.0f);
}

// Adds to a pack of the states, which is written if there is something to add, and its squares to `squares`.
template <int kPack, typename T>
__device__ void add_pack(Pointer<T> states, Pointer<const T> addend, float (&values)[kPack], float& squares) {
  load_floats<kPack, T>(states, values);
  if (addend != nullptr) {
    float others[kPack];
    load_floats<kPack, T>(addend, others);
#pragma unroll
    for (int i = 0; i < kPack; ++i) values[i] = rounded<T>(values[i] + others[i]);
    store_floats(states, values);
  }
#pragma unroll
  for (int i = 0; i < kPack; ++i) squares += values[i] * values[i];
}

template <int kPack, typename T>
__device__ void norm_pack(const float (&values)[kPack], float factor, Pointer<const T> weight, Pointer<T> normed) {
  float weights[kPack], results[kPack];
  load_floats<kPack, T>(weight, weights);
#pragma unroll
  for (int i = 0; i < kPack; ++i) results[i] = rounded<T>(values[i] * factor) * weights[i];
  store_floats(normed, results);
}

template <typename T, int kPack>
__global__ void __launch_bounds__(kMostThreads) norm_rows(AddRmsNorm a) {
  await_earlier_kernels();
  const int64_t row = blockIdx.x;
  const Pointer<T> states = a.states.at<T>(row);
  const bool adds = a.addend.data != nullptr;
  const Pointer<const T> addend = adds ? Pointer<const T>(a.addend.at<T>(row)) : Pointer<const T>(nullptr);
  const auto addend_at = [&](int64_t i) { return adds ? addend + i : addend; };
  const int64_t step = int64_t{blockDim.x} * kPack, first = int64_t{threadIdx.x} * kPack;
  float held[kHeld][kPack];
  float squares = 0;
#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
    const int64_t i = first + h * step;
    if (i < a.size) add_pack<kPack, T>(states + i, addend_at(i), held[h], squares);
  }
  for (int64_t i = first + kHeld * step; i < a.size; i += step) {
    float values[kPack];
    add_pack<kPack, T>(states + i, addend_at(i), values, squares);
  }

  const float factor = 1.0f / sqrtf(block_sum(squares) / static_cast<float>(a.size) + a.epsilon);
  const Pointer<const T> weight = global(static_cast<const T*>(a.weight));
  const Pointer<T> normed = a.normed.at<T>(row);
#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
    const int64_t i = first + h * step;
    if (i < a.size) norm_pack<kPack, T>(held[h], factor, weight + i, normed + i);
  }
  for (int64_t i = first + kHeld * step; i < a.size; i += step) {
    float values[kPack];
    load_floats<kPack, T>(states + i, values);
    norm_pack<kPack, T>(values, factor, weight + i, normed + i);
  }
}

template <typename T>
bool rows_are_wide(const AddRmsNorm& a) {
  const auto bytes = [](int64_t count) { return count * static_cast<int64_t>(sizeof(T)); };
  const auto rows = [&](const FloatRows& rows) { return address_of(rows.data) | bytes(rows.row_stride); };
  return are_wide(rows(a.states), rows(a.addend), rows(a.normed), address_of(a.weight), bytes(a.size));
}

}  // namespace

int64_t add_rms_norm_workspace(const AddRmsNorm&) { return 0; }

void add_rms_norm(const AddRmsNorm& a) {
  if (a.rows == 0) return;
  with_type(a.dtype, [&](auto type) {
    using T = decltype(type);
    with_pack<T>(rows_are_wide<T>(a), [&](auto pack) {
      constexpr int kPack = decltype(pack)::value;
      const int64_t warps = ceil_div(ceil_div(a.size, kPack), kWarp);
      const int threads = static_cast<int>(at_most(warps * kWarp, kMostThreads));
      launch<kStartsEarly>(norm_rows<T, kPack>, dim3(static_cast<unsigned>(a.rows)), threads, 0, a.launch.stream, a);
    });
  });
}

}  // namespace ltd::cuda
