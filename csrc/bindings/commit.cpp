// Binds commit_path.
#include <ATen/Parallel.h>

#include "bindings/checks.h"
#include "bindings/device.h"
#include "bindings/register.h"
#include "commit/commit_path.h"

namespace ltd {
namespace {

using at::Tensor;

CacheTensor cache_tensor(const Tensors& tensors, const Named& a, const Tensor& keys) {
  tensors.checked_like(a, {"keys", keys}, keys.sizes());
  return {written<char>(a.tensor), a.tensor.stride(0), a.tensor.stride(1), a.tensor.stride(2), a.tensor.stride(3)};
}

void check_commit_rows(const CommitPath& a, int64_t path_capacity, int64_t capacity) {
  for (int64_t b = 0; b < a.batch; ++b) {
    LTD_CHECK(a.gained[b] >= 0 && a.gained[b] <= path_capacity, "gained[", b, "] must be 0 to ", path_capacity,
              ", the size of path in dimension 1, but is ", a.gained[b]);
    for (int64_t i = 0; i < a.gained[b]; ++i) {
      const int32_t node = a.path[b][i];
      LTD_CHECK(node > (i == 0 ? -1 : a.path[b][i - 1]), "path[", b,
                "] must be strictly increasing from 0 on, but holds ", node, " at ", i);
      LTD_CHECK(a.lengths[b] >= 0 && int64_t{a.lengths[b]} + node < capacity, "path[", b, "] = ", node, " behind ",
                a.lengths[b], " prefix rows lies outside the ", capacity, " rows of keys");
    }
  }
}

void run_commit_path(Tensor keys, Tensor values, const Tensor& path, const Tensor& gained, const Tensor& lengths) {
  const Tensors tensors(keys.device());
  check_sizes({"keys", keys}, {-1, -1, -1, -1, -1});
  CommitPath a{};
  a.keys = cache_tensor(tensors, {"keys", keys}, keys);
  a.values = cache_tensor(tensors, {"values", values}, keys);
  a.layers = keys.size(0);
  a.batch = keys.size(1);
  a.heads = keys.size(2);
  checked_count("keys' and values' matrices", {2, a.layers, a.batch, a.heads});
  a.element_bytes = keys.element_size();
  a.row_bytes = keys.size(4) * a.element_bytes;
  a.path = tensors.rows<const int32_t>({"path", path}, a.batch, -1);
  a.gained = tensors.per_row<const int32_t>({"gained", gained}, a.batch);
  a.lengths = tensors.per_row<const int32_t>({"lengths", lengths}, a.batch);
  a.threads = at::get_num_threads();
  if (tensors.are_on_cpu()) check_commit_rows(a, path.size(1), keys.size(3));
  run<CommitPath>(tensors.device(), LTD_KERNELS(commit_path), a, a.launch);
}

}  // namespace
}  // namespace ltd

TORCH_LIBRARY_FRAGMENT(ltd, library) {
  ltd::define<ltd::run_commit_path>(
      library, "commit_path", "(Tensor(a!) keys, Tensor(b!) values, Tensor path, Tensor gained, Tensor lengths) -> ()");
}
