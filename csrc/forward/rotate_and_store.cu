// A group of threads per head, each of which turns pairs of packs: one of the head's lower half, one of its upper.
#include <type_traits>

#include "common/cuda_kernels.h"
#include "common/device.cuh"
#include "forward/packs.cuh"
#include "forward/rotate_and_store.h"

namespace ltd::cuda {
namespace {

constexpr int kThreads = 128;

// Two packs of a head.
template <int kPack>
struct Halves {
  float low[kPack];
  float high[kPack];

  template <typename T>
  __device__ void load(Pointer<const T> head, int64_t half) {
    load_floats<kPack, T>(head, low);
    load_floats<kPack, T>(head + half, high);
  }

  template <typename T>
  __device__ void store(Pointer<T> head, int64_t half) const {
    store_floats(head, low);
    store_floats(head + half, high);
  }
};

// Of the `width` threads of every group, a power of two, in each of them. All lanes of the warp take part.
__device__ float group_sum(float value, int width) {
  for (int distance = width / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(kAllLanes, value, distance);
  return value;
}

// What the norm multiplies a head with.
template <typename T, int kPack>
__device__ float norm_factor(const RotateAndStore& a, Pointer<const T> source, bool counts, int lane, int width) {
  const int64_t half = a.head_dim / 2;
  float squares = 0;
  for (int64_t i = lane * kPack; counts && i < half; i += width * kPack) {
    Halves<kPack> values;
    values.load(source + i, half);
#pragma unroll
    for (int j = 0; j < kPack; ++j) squares += values.low[j] * values.low[j] + values.high[j] * values.high[j];
  }
  return 1.0f / sqrtf(group_sum(squares, width) / static_cast<float>(a.head_dim) + a.epsilon);
}

template <typename T, int kPack>
__device__ void norm_halves(Halves<kPack>& values, float factor, Pointer<const T> weight, int64_t half) {
  Halves<kPack> weights;
  weights.load(weight, half);
#pragma unroll
  for (int j = 0; j < kPack; ++j) {
    values.low[j] = rounded<T>(rounded<T>(values.low[j] * factor) * weights.low[j]);
    values.high[j] = rounded<T>(rounded<T>(values.high[j] * factor) * weights.high[j]);
  }
}

template <typename Table, int kPack>
__device__ void rotate_halves(Halves<kPack>& values, Pointer<const Table> cosines, Pointer<const Table> sines,
                              int64_t half) {
  Halves<kPack> cosine, sine;
  cosine.load(cosines, half);
  sine.load(sines, half);
  // Each product is rounded by itself: no multiply-add.
  const auto product = [](float value, float factor) { return rounded<Table>(__fmul_rn(value, factor)); };
#pragma unroll
  for (int j = 0; j < kPack; ++j) {
    const float low = values.low[j], high = values.high[j];
    values.low[j] = product(low, cosine.low[j]) - product(high, sine.low[j]);
    values.high[j] = product(high, cosine.high[j]) + product(low, sine.high[j]);
  }
}

// `width`: threads of a group, a power of two up to a warp's.
template <typename T, typename Table, int kPack>
__global__ void __launch_bounds__(kThreads) store_heads(RotateAndStore a, int width) {
  await_earlier_kernels();
  const int64_t heads = a.query_heads + 2 * a.kv_heads, half = a.head_dim / 2;
  const int64_t all = a.batch * a.nodes * heads;
  const int64_t mine = int64_t{blockIdx.x} * (kThreads / width) + threadIdx.x / width;
  const int lane = static_cast<int>(threadIdx.x) % width;
  const bool counts = mine < all;
  // Threads behind the last head take part in its sums with others' lanes, and store nothing.
  const int64_t item = counts ? mine : all - 1;
  const int64_t head = item % heads, n = item / heads % a.nodes, b = item / heads / a.nodes;
  const HeadPlace<T> place = head_place<T>(a, b, n, head, global(a.lengths)[b]);
  const void* norm = place.kind == HeadKind::kQuery ? a.query_norm
                     : place.kind == HeadKind::kKey ? a.key_norm
                                                    : nullptr;
  float factor = 1;
  if (a.query_norm != nullptr || a.key_norm != nullptr) {
    factor = norm_factor<T, kPack>(a, place.source, counts && norm != nullptr, lane, width);
  }
  if (!counts) return;
  for (int64_t i = lane * kPack; i < half; i += width * kPack) {
    Halves<kPack> values;
    values.load(place.source + i, half);
    if (norm != nullptr) norm_halves<T>(values, factor, global(static_cast<const T*>(norm)) + i, half);
    if (place.kind != HeadKind::kValue) {
      const int64_t angles = a.rows[b][n] * a.head_dim + i;
      rotate_halves(values, global(static_cast<const Table*>(a.cosines)) + angles,
                    global(static_cast<const Table*>(a.sines)) + angles, half);
    }
    values.store(place.target + i, half);
  }
}

template <typename T>
bool heads_are_wide(const RotateAndStore& a) {
  const auto bytes = [](int64_t count) { return count * static_cast<int64_t>(sizeof(T)); };
  const auto cache = [&](const LayerCache& cache) {
    return address_of(cache.data) | bytes(cache.batch_stride | cache.head_stride | cache.row_stride);
  };
  return are_wide(address_of(a.qkv), bytes(a.qkv_strides[0] | a.qkv_strides[1]), address_of(a.query_norm),
                  address_of(a.key_norm), address_of(a.cosines), address_of(a.sines), cache(a.keys), cache(a.values),
                  address_of(a.queries), bytes(a.query_strides[0] | a.query_strides[1] | a.query_strides[2]),
                  bytes(a.head_dim / 2));
}

template <typename T, typename Table>
void launch_heads(const RotateAndStore& a) {
  with_pack<T>(heads_are_wide<T>(a), [&](auto pack) {
    constexpr int kPack = decltype(pack)::value;
    const int64_t packs = ceil_div(a.head_dim / 2, kPack);
    int width = 1;
    while (width < packs && width < kWarp) width *= 2;
    const int64_t heads = a.batch * a.nodes * (a.query_heads + 2 * a.kv_heads);
    const dim3 blocks(static_cast<unsigned>(ceil_div(heads, kThreads / width)));
    launch<kStartsEarly>(store_heads<T, Table, kPack>, blocks, kThreads, 0, a.launch.stream, a, width);
  });
}

}  // namespace

int64_t rotate_and_store_workspace(const RotateAndStore&) { return 0; }

void rotate_and_store(const RotateAndStore& a) {
  if (a.batch * a.nodes == 0) return;
  with_type(a.dtype, [&](auto type) {
    using T = decltype(type);
    a.table_dtype == DType::kFloat32 ? launch_heads<T, float>(a) : launch_heads<T, T>(a);
  });
}

}  // namespace ltd::cuda
