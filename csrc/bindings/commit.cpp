// Binds commit_path and gather_accepted.
#include <ATen/Parallel.h>

#include <optional>

#include "bindings/checks.h"
#include "bindings/device.h"
#include "bindings/register.h"
#include "commit/commit_path.h"
#include "commit/gather_accepted.h"

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

void run_commit_path(Tensor keys, Tensor values, const Tensor& path, const Tensor& gained, Tensor lengths,
                     bool advance) {
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
  tensors.per_row<const int32_t>({"lengths", lengths}, a.batch);
  a.lengths = written<int32_t>(lengths);
  a.advance = advance;
  a.threads = at::get_num_threads();
  if (tensors.are_on_cpu()) check_commit_rows(a, path.size(1), keys.size(3));
  run<CommitPath>(tensors.device(), LTD_KERNELS(commit_path), a, a.launch);
}

void check_accepted(const GatherAccepted& a) {
  for (int64_t b = 0; b < a.batch; ++b) {
    LTD_CHECK(a.gained[b] >= 0 && a.gained[b] <= a.places, "gained[", b, "] must be 0 to ", a.places,
              ", the size of path in dimension 1, but is ", a.gained[b]);
    for (int64_t i = 0; i < a.gained[b] && a.gathered.data != nullptr; ++i) {
      LTD_CHECK(a.path[b][i] >= 0 && a.path[b][i] < a.nodes, "path[", b, "] must be 0 to ", a.nodes - 1,
                ", nodes of features, but holds ", a.path[b][i]);
    }
  }
}

void run_gather_accepted(const std::optional<Tensor>& features, const Tensor& path, const Tensor& tokens,
                         const Tensor& gained, const std::optional<Tensor>& gathered, Tensor roots, Tensor report) {
  const Tensors tensors(path.device());
  check_sizes({"path", path}, {-1, -1});
  GatherAccepted a{};
  a.batch = path.size(0);
  a.places = path.size(1);
  check_range("the size of path in dimension 1", a.places, 0, kMaxNodes);
  a.path = tensors.rows<const int32_t>({"path", path}, a.batch, a.places);
  a.tokens = tensors.rows<const int64_t>({"tokens", tokens}, a.batch, a.places);
  a.gained = tensors.per_row<const int32_t>({"gained", gained}, a.batch);
  tensors.per_row<int64_t>({"roots", roots}, a.batch);
  a.roots = written<int64_t>(roots);
  tensors.rows<int64_t>({"report", report}, a.batch, 2 + a.places);
  a.report = {written<int64_t>(report), report.stride(0)};
  LTD_CHECK(features.has_value() == gathered.has_value(), "features and gathered must be given together");
  if (features.has_value()) {
    check_sizes({"features", *features}, {a.batch, -1, -1});
    check_last_contiguous({"features", *features});
    tensors.checked_like({"gathered", *gathered}, {"features", *features}, {a.batch, a.places, features->size(2)});
    a.nodes = features->size(1);
    a.row_bytes = features->size(2) * features->element_size();
    const auto bytes = [&](const Tensor& tensor, int64_t d) { return tensor.stride(d) * tensor.element_size(); };
    a.features = {static_cast<const char*>(data_of(*features)), bytes(*features, 0), bytes(*features, 1)};
    a.gathered = {written<char>(*gathered), bytes(*gathered, 0), bytes(*gathered, 1)};
  }
  if (tensors.are_on_cpu()) check_accepted(a);
  run<GatherAccepted>(tensors.device(), LTD_KERNELS(gather_accepted), a, a.launch);
}

}  // namespace
}  // namespace ltd

TORCH_LIBRARY_FRAGMENT(ltd, library) {
  ltd::define<ltd::run_commit_path>(
      library, "commit_path",
      "(Tensor(a!) keys, Tensor(b!) values, Tensor path, Tensor gained, Tensor(c!) lengths, bool advance=False) -> ()");
  ltd::define<ltd::run_gather_accepted>(
      library, "gather_accepted",
      "(Tensor? features, Tensor path, Tensor tokens, Tensor gained, Tensor(a!)? gathered, Tensor(b!) roots, "
      "Tensor(c!) report) -> ()");
}
