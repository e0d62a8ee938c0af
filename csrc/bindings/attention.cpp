// Binds tree_attention.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <cmath>
#include <optional>

#include "attention/tree_attention.h"
#include "bindings/checks.h"
#include "bindings/device.h"
#include "bindings/register.h"

namespace ltd {
namespace {

using at::Tensor;

HeadRows head_rows(const Tensors& tensors, const Named& a, const Named& like, at::IntArrayRef sizes) {
  return {tensors.checked_like(a, like, sizes), a.tensor.stride(0), a.tensor.stride(1), a.tensor.stride(2)};
}

void check_attention_rows(const TreeAttention& a, bool chain) {
  LTD_CHECK(a.scale > 0 && a.scale < INFINITY, "scale must be positive and finite, but is ", a.scale);
  LTD_CHECK(a.window >= 0, "window must be 0 (none) or more, but is ", a.window);
  check_range("tree_rows", a.tree_rows, 0, a.capacity);
  check_range("longest", a.longest, a.tree_rows, a.capacity);
  LTD_CHECK(!(chain || a.window > 0) || a.tree_rows == a.nodes,
            "without masks or with a window, tree_rows must be the ", a.nodes, " rows of query, but is ", a.tree_rows);
}

void check_lengths(const TreeAttention& a) {
  for (int64_t b = 0; b < a.batch; ++b) {
    LTD_CHECK(a.lengths[b] >= 0 && a.lengths[b] + a.tree_rows <= a.capacity, "lengths[", b, "] = ", a.lengths[b],
              " and ", a.tree_rows, " tree rows do not fit the ", a.capacity, " rows of keys");
    LTD_CHECK(a.lengths[b] + a.tree_rows <= a.longest, "longest must be at least lengths[", b, "] = ", a.lengths[b],
              " and the ", a.tree_rows, " tree rows together, but is ", a.longest);
  }
}

Tensor run_tree_attention(const Tensor& query, const Tensor& keys, const Tensor& values, const Tensor& lengths,
                          int64_t tree_rows, const std::optional<Tensor>& masks, const Tensor& positions, double scale,
                          int64_t window, int64_t longest, const std::optional<Tensor>& counters) {
  const Tensors tensors(query.device());
  check_sizes({"query", query}, {-1, -1, -1, -1});
  check_sizes({"keys", keys}, {-1, -1, -1, -1});
  TreeAttention a{};
  a.dtype = float_type({"query", query});
  a.batch = query.size(0);
  a.query_heads = query.size(1);
  a.nodes = query.size(2);
  a.head_dim = query.size(3);
  a.kv_heads = keys.size(1);
  a.capacity = keys.size(2);
  a.tree_rows = tree_rows;
  a.longest = longest == -1 ? a.capacity : longest;
  a.scale = static_cast<float>(scale);
  a.window = at_most(window, kMaxSize);  // kernels subtract it in 32 bits, and positions are below that
  LTD_CHECK(a.kv_heads >= 1 && a.query_heads % a.kv_heads == 0, "query must have a multiple of the ", a.kv_heads,
            " heads of keys, but its shape is ", query.sizes());
  checked_count("rows of query", {a.batch, a.query_heads, a.nodes});
  a.query = head_rows(tensors, {"query", query}, {"query", query}, query.sizes());
  a.keys = head_rows(tensors, {"keys", keys}, {"query", query}, {a.batch, a.kv_heads, -1, a.head_dim});
  a.values = head_rows(tensors, {"values", values}, {"query", query}, {a.batch, a.kv_heads, keys.size(2), a.head_dim});
  a.lengths = tensors.per_row<const int32_t>({"lengths", lengths}, a.batch);
  if (masks.has_value()) {
    a.masks = tensors.matrices<const int64_t>({"masks", *masks}, a.batch, a.nodes, -1);
    LTD_CHECK(masks->size(2) * 64 >= tree_rows, "masks must hold a bit for each of the ", tree_rows,
              " tree rows, but its shape is ", masks->sizes());
  }
  if (window > 0) a.positions = tensors.rows<const int64_t>({"positions", positions}, a.batch, a.nodes);
  if (counters.has_value()) a.counters = tensors.checked<int32_t>({"counters", *counters}, {kMergeCounters});
  check_attention_rows(a, !masks.has_value());
  if (tensors.are_on_cpu()) check_lengths(a);
  if (tensors.are_on_cpu() && window > 0) check_positions(a.positions, a.batch, a.nodes);
  Tensor output = at::empty({a.batch, a.nodes, a.query_heads, a.head_dim}, query.options());
  a.output = written(output);
  a.threads = at::get_num_threads();
  if (output.numel() > 0) run<TreeAttention>(tensors.device(), LTD_KERNELS(tree_attention), a, a.launch);
  return output;
}

Tensor tree_attention_meta(const Tensor& query, const Tensor&, const Tensor&, const Tensor&, int64_t,
                           const std::optional<Tensor>&, const Tensor&, double, int64_t, int64_t,
                           const std::optional<Tensor>&) {
  return at::empty_symint({query.sym_size(0), query.sym_size(2), query.sym_size(1), query.sym_size(3)},
                          query.options());
}

}  // namespace
}  // namespace ltd

TORCH_LIBRARY_FRAGMENT(ltd, library) {
  ltd::define<ltd::run_tree_attention, ltd::tree_attention_meta>(
      library, "tree_attention",
      "(Tensor query, Tensor keys, Tensor values, Tensor lengths, int tree_rows, Tensor? masks, "
      "Tensor positions, float scale, int window, int longest=-1, Tensor(a!)? counters=None) -> Tensor");
}
