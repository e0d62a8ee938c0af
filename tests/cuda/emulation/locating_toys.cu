#include "accept/row_search.cuh"
#include "common/device.cuh"
#include "emulation/toys.h"

namespace ltd::emulation {

using namespace ltd::cuda;

namespace {

constexpr int kLocatingThreads = 128;

template <int kLater>
__global__ void locate_in_row(Toy a) {
  LTD_SHARED(Shared, shared);
  const LogitRow<float> row(reinterpret_cast<const float*>(a.in), a.in_count);
  bool later = false;
  const auto measure = [&](int, float mass) {
    const uint64_t whole = bits_of(mass);
    if (!later) return whole;
    return kLater == 0 ? uint64_t{0} : whole / kLater;
  };
  const auto target_of = [&](uint64_t total) {
    later = true;
    return total - 1;
  };
  const Place place = locate(row, measure, target_of, shared);
  if (threadIdx.x == 0) global(a.out)[0] = static_cast<uint32_t>(place.id);
}

}  // namespace

template <int kLater>
void locate_mass(const Toy& a) {
  launch(locate_in_row<kLater>, 1, kLocatingThreads, 0, a.launch.stream, a);
}
template void locate_mass<0>(const Toy&);
template void locate_mass<1>(const Toy&);
template void locate_mass<2>(const Toy&);

}  // namespace ltd::emulation
