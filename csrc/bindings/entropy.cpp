// Binds row_entropy.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include "bindings/checks.h"
#include "bindings/device.h"
#include "bindings/register.h"
#include "entropy/row_entropy.h"

namespace ltd {
namespace {

using at::Tensor;

Tensor run_row_entropy(const Tensor& logits) {
  const Tensors tensors(logits.device());
  RowEntropy a{};
  a.logits = tensors.float_matrices({"logits", logits}, -1, -1);
  a.batch = logits.size(0);
  a.rows = logits.size(1);
  a.vocabulary = logits.size(2);
  checked_count("rows of logits", {a.batch, a.rows});
  LTD_CHECK(a.vocabulary >= 1, "logits must have at least one column, but its shape is ", logits.sizes());
  Tensor entropies = at::empty({a.batch, a.rows}, logits.options().dtype(at::kFloat));
  a.entropies = {written<float>(entropies), a.rows};
  a.threads = at::get_num_threads();
  run<RowEntropy>(tensors.device(), LTD_KERNELS(row_entropy), a, a.launch);
  return entropies;
}

Tensor row_entropy_meta(const Tensor& logits) {
  return at::empty_symint({logits.sym_size(0), logits.sym_size(1)}, logits.options().dtype(at::kFloat));
}

}  // namespace
}  // namespace ltd

TORCH_LIBRARY_FRAGMENT(ltd, library) {
  ltd::define<ltd::run_row_entropy, ltd::row_entropy_meta>(library, "row_entropy", "(Tensor logits) -> Tensor");
}
