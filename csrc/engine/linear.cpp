#include "engine/linear.h"

#include "common/scratch.h"
#include "engine/product.h"

namespace ltd::LTD_ISA {
namespace {

// The rows as products read them.
template <typename Kind>
void copy_rows(const Linear& a, ActivationRows<typename Kind::Activation> rows) {
  const int64_t inputs = a.weight.inputs;
  for (int64_t r = 0; r < a.rows; ++r) {
    const auto* const source = static_cast<const typename Kind::Element*>(a.x) + r * inputs;
    for (int64_t i = 0; i < inputs; i += kLanes) store_part(rows[r] + i, load_part(source + i, inputs - i), inputs - i);
    zero_behind<Kind>(rows[r], inputs);
  }
}

template <typename Kind>
void run_linear(const Linear& a) {
  using Activation = typename Kind::Activation;
  const int threads = useful_threads(a.rows * a.weight.inputs * a.weight.outputs, a.threads);
  const int64_t stride = activation_stride<Activation>(a.weight.inputs);
  const int64_t sums_bytes = threads * kGroupSums * sizeof(float);
  thread_local Scratch memory;
  char* const scratch = memory.reserve<char>(sums_bytes + (a.rows + kSpareRows) * stride * sizeof(Activation));
  float* const sums = reinterpret_cast<float*>(scratch);
  const ActivationRows<Activation> rows{reinterpret_cast<Activation*>(scratch + sums_bytes), stride};
  copy_rows<Kind>(a, rows);
  const ProductItems items(a.rows, a.weight, threads);
  in_phases(threads, &items.count, 1, [&](int64_t, const Share& share) {
    const UsesTiles uses;
    for (int64_t item = share.first; item < share.last; ++item) {
      store_product<Kind>(items[item], rows, a.weight, sums + share.thread * kGroupSums,
                          static_cast<typename Kind::Element*>(a.result));
    }
  });
}

}  // namespace

void linear(const Linear& a) {
  with_product(a.dtype, [&]<typename Kind>(Kind) { run_linear<Kind>(a); });
}

}  // namespace ltd::LTD_ISA
