#include "common/device.cuh"
#include "emulation/toys.h"

namespace ltd::emulation {

using namespace ltd::cuda;

namespace {

// Adds 1 to every input.
template <bool kWaits>
__global__ void add_one(Toy a) {
  if (kWaits) await_earlier_kernels();
  const uint32_t value = global(a.in)[threadIdx.x];
  __syncthreads();
  if (!kWaits) await_earlier_kernels();
  global(a.out)[threadIdx.x] = value + 1;
}

// Has 9 KB of static shared memory.
__global__ void pass_through_shared(Toy a) {
  using Values = Array<uint32_t, 9 << 8>;
  LTD_SHARED(Values, values);
  values[threadIdx.x] = global(a.in)[threadIdx.x];
  global(a.out)[threadIdx.x] = values[threadIdx.x];
}

}  // namespace

template <bool kWaits>
void add_one_early(const Toy& a) {
  launch<true>(add_one<kWaits>, 1, 128, 0, a.launch.stream, a);
}
template void add_one_early<true>(const Toy&);
template void add_one_early<false>(const Toy&);

template <int kDynamicBytes>
void use_shared(const Toy& a) {
  launch(pass_through_shared, 1, 128, kDynamicBytes, a.launch.stream, a);
}
template void use_shared<kDynamicUnasked>(const Toy&);
template void use_shared<kDynamicUnasked + 16>(const Toy&);

}  // namespace ltd::emulation
