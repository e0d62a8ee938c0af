#include "forward/gated_silu.h"

#include "common/team.h"
#include "forward/rows.h"

namespace ltd::LTD_ISA {
namespace {

// Below this many numbers a second thread costs more than it saves.
constexpr int64_t kNumbersPerThread = 1 << 15;

template <typename T>
void activate_row(const T* gate, const T* up, int64_t size, T* active) {
  for (int64_t i = 0; i < size; i += kLanes) {
    const Floats gates = rounded<T>(silu(load_part(gate + i, size - i)));
    store_part(active + i, gates * load_part(up + i, size - i), size - i);
  }
}

}  // namespace

void gated_silu(const GatedSilu& a) {
  const int threads = static_cast<int>(at_most(a.rows * a.size / kNumbersPerThread + 1, a.threads));
  with_type(a.dtype, [&](auto type) {
    using T = decltype(type);
    for_items(threads, a.rows, [&](int64_t row) {
      const T* gate = a.gate_up.at<T>(row);
      activate_row<T>(gate, gate + a.size, a.size, a.active.at<T>(row));
    });
  });
}

}  // namespace ltd::LTD_ISA
