#include "forward/add_rms_norm.h"

#include "common/team.h"
#include "forward/rows.h"

namespace ltd::LTD_ISA {
namespace {

// Below this many numbers a second thread costs more than it saves.
constexpr int64_t kNumbersPerThread = 1 << 16;

template <typename T>
void add_row(const T* addend, int64_t size, T* states) {
  for (int64_t i = 0; i < size; i += kLanes) {
    store_part(states + i, load_part(states + i, size - i) + load_part(addend + i, size - i), size - i);
  }
}

}  // namespace

void add_rms_norm(const AddRmsNorm& a) {
  const int threads = static_cast<int>(at_most(a.rows * a.size / kNumbersPerThread + 1, a.threads));
  with_type(a.dtype, [&](auto type) {
    using T = decltype(type);
    for_items(threads, a.rows, [&](int64_t row) {
      T* states = a.states.at<T>(row);
      if (a.addend.data != nullptr) add_row<T>(a.addend.at<T>(row), a.size, states);
      norm_row<T>(states, static_cast<const T*>(a.weight), a.size, a.epsilon, static_cast<T*>(a.normed.at<T>(row)));
    });
  });
}

}  // namespace ltd::LTD_ISA
