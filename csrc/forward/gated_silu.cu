#include <type_traits>

#include "common/cuda_kernels.h"
#include "common/device.cuh"
#include "forward/gated_silu.h"
#include "forward/packs.cuh"

namespace ltd::cuda {
namespace {

constexpr int kThreads = 256;

// A thread per pack; `packs` of a row.
template <typename T, int kPack>
__global__ void __launch_bounds__(kThreads) activate_packs(GatedSilu a, int64_t packs) {
  await_earlier_kernels();
  const int64_t pack = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t row = pack / packs, i = pack % packs * kPack;
  if (row >= a.rows) return;
  const Pointer<const T> gate = a.gate_up.at<T>(row) + i;
  float gates[kPack], ups[kPack], results[kPack];
  load_floats<kPack, T>(gate, gates);
  load_floats<kPack, T>(gate + a.size, ups);
#pragma unroll
  for (int j = 0; j < kPack; ++j) results[j] = rounded<T>(gates[j] / (1.0f + expf(-gates[j]))) * ups[j];
  store_floats(a.active.at<T>(row) + i, results);
}

template <typename T>
bool rows_are_wide(const GatedSilu& a) {
  const auto bytes = [](int64_t count) { return count * static_cast<int64_t>(sizeof(T)); };
  return are_wide(address_of(a.gate_up.data), bytes(a.gate_up.row_stride), address_of(a.active.data),
                  bytes(a.active.row_stride), bytes(a.size));
}

}  // namespace

int64_t gated_silu_workspace(const GatedSilu&) { return 0; }

void gated_silu(const GatedSilu& a) {
  if (a.rows * a.size == 0) return;
  with_type(a.dtype, [&](auto type) {
    using T = decltype(type);
    with_pack<T>(rows_are_wide<T>(a), [&](auto pack) {
      constexpr int kPack = decltype(pack)::value;
      const int64_t packs = a.size / kPack;
      const dim3 blocks(static_cast<unsigned>(ceil_div(a.rows * packs, kThreads)));
      launch<kStartsEarly>(activate_packs<T, kPack>, blocks, kThreads, 0, a.launch.stream, a, packs);
    });
  });
}

}  // namespace ltd::cuda
