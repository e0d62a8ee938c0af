// Binds what a forward does between its products: add_rms_norm, rotate_and_store, gated_silu.
#include <ATen/Parallel.h>

#include <cmath>
#include <optional>

#include "bindings/checks.h"
#include "bindings/device.h"
#include "bindings/register.h"
#include "forward/add_rms_norm.h"
#include "forward/gated_silu.h"
#include "forward/rotate_and_store.h"

namespace ltd {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Of a tensor that is read. The operators' structs do not tell it from one that is written.
void* read_only(const void* data) { return const_cast<void*>(data); }

float checked_epsilon(double epsilon) {
  LTD_CHECK(epsilon >= 0 && epsilon < INFINITY, "epsilon must be finite and at least 0, but is ", epsilon);
  return static_cast<float>(epsilon);
}

// What an operator on the rows of a matrix knows by one that it reads or writes.
template <typename Arguments>
void set_rows(Arguments& a, const Named& matrix) {
  check_sizes(matrix, {-1, -1});
  check_last_contiguous(matrix);
  a.dtype = float_type(matrix);
  a.rows = matrix.tensor.size(0);
  a.size = matrix.tensor.size(1);
}

void run_add_rms_norm(Tensor states, const OptionalTensor& addend, const Tensor& weight, double epsilon,
                      Tensor normed) {
  const Tensors tensors(states.device());
  const Named like{"states", states};
  AddRmsNorm a{};
  set_rows(a, like);
  LTD_CHECK(a.size >= 1, "states must have at least one column, but its shape is ", states.sizes());
  checked_count("numbers in states", {a.rows, a.size});
  tensors.checked_like({"normed", normed}, like, states.sizes());
  a.states = {written(states), states.stride(0)};
  a.normed = {written(normed), normed.stride(0)};
  if (addend.has_value()) {
    a.addend = {read_only(tensors.checked_like({"addend", *addend}, like, states.sizes())), addend->stride(0)};
  }
  a.weight = tensors.checked_like({"weight", weight}, like, {a.size});
  a.epsilon = checked_epsilon(epsilon);
  a.threads = at::get_num_threads();
  run<AddRmsNorm>(tensors.device(), LTD_KERNELS(add_rms_norm), a, a.launch);
}

LayerCache layer_cache(const Tensors& tensors, const Named& a, const Named& like, at::IntArrayRef sizes) {
  tensors.checked_like(a, like, sizes);
  return {written(a.tensor), a.tensor.stride(0), a.tensor.stride(1), a.tensor.stride(2)};
}

void set_heads(RotateAndStore& a, const Tensors& tensors, const Named& qkv, const Tensor& keys, const Tensor& values,
               const Tensor& queries) {
  check_sizes(qkv, {-1, -1, -1});
  check_last_contiguous(qkv);
  check_sizes({"queries", queries}, {-1, -1, -1, -1});
  check_sizes({"keys", keys}, {-1, -1, -1, -1});
  a.dtype = float_type(qkv);
  a.batch = qkv.tensor.size(0);
  a.nodes = qkv.tensor.size(1);
  a.query_heads = queries.size(1);
  a.head_dim = queries.size(3);
  a.kv_heads = keys.size(1);
  LTD_CHECK(a.head_dim >= 2 && a.head_dim % 2 == 0, "queries must have an even head size, but its shape is ",
            queries.sizes());
  checked_count("heads", {a.batch, a.nodes, a.query_heads + 2 * a.kv_heads});
  checked_count("numbers in a row of qkv", {a.query_heads + 2 * a.kv_heads, a.head_dim});
  check_sizes(qkv, {-1, -1, (a.query_heads + 2 * a.kv_heads) * a.head_dim});
  tensors.checked_like({"queries", queries}, qkv, {a.batch, a.query_heads, a.nodes, a.head_dim});
  a.qkv = data_of(qkv.tensor);
  a.queries = written(queries);
  for (int d = 0; d < 2; ++d) a.qkv_strides[d] = qkv.tensor.stride(d);
  for (int d = 0; d < 3; ++d) a.query_strides[d] = queries.stride(d);
  a.keys = layer_cache(tensors, {"keys", keys}, qkv, {a.batch, a.kv_heads, -1, a.head_dim});
  a.values = layer_cache(tensors, {"values", values}, qkv, keys.sizes());
}

const void* head_norm(const RotateAndStore& a, const Tensors& tensors, const char* name, const OptionalTensor& weight,
                      const Named& like) {
  return weight.has_value() ? tensors.checked_like({name, *weight}, like, {a.head_dim}) : nullptr;
}

const void* angle_table(const RotateAndStore& a, const Tensors& tensors, const Named& table, const Tensor& like) {
  const void* data = tensors.checked(table, like.scalar_type(), {like.size(0), a.head_dim});
  LTD_CHECK(table.tensor.is_contiguous(), table.name, " must be contiguous, but its strides are ",
            table.tensor.strides());
  return data;
}

void check_places(const RotateAndStore& a, int64_t table_rows, int64_t capacity) {
  for (int64_t b = 0; b < a.batch; ++b) {
    LTD_CHECK(a.lengths[b] >= 0 && a.lengths[b] + a.first_row + a.nodes <= capacity, "lengths[", b,
              "] = ", a.lengths[b], " and ", a.first_row + a.nodes, " tree rows do not fit the ", capacity,
              " rows of keys");
    for (int64_t n = 0; n < a.nodes; ++n) {
      LTD_CHECK(a.rows[b][n] >= 0 && a.rows[b][n] < table_rows, "rows must be 0 to ", table_rows - 1, ", but holds ",
                a.rows[b][n]);
    }
  }
}

void run_rotate_and_store(const Tensor& qkv, const OptionalTensor& query_norm, const OptionalTensor& key_norm,
                          double epsilon, const Tensor& cosines, const Tensor& sines, const Tensor& rows,
                          const Tensor& lengths, int64_t first_row, Tensor keys, Tensor values, Tensor queries) {
  const Tensors tensors(qkv.device());
  const Named like{"qkv", qkv};
  RotateAndStore a{};
  set_heads(a, tensors, like, keys, values, queries);
  a.query_norm = head_norm(a, tensors, "query_norm", query_norm, like);
  a.key_norm = head_norm(a, tensors, "key_norm", key_norm, like);
  a.epsilon = checked_epsilon(epsilon);
  a.table_dtype = float_type({"cosines", cosines});
  LTD_CHECK(a.table_dtype == DType::kFloat32 || a.table_dtype == a.dtype, "cosines must be of type Float or ",
            qkv.scalar_type(), ", as qkv is, but is ", cosines.scalar_type());
  check_sizes({"cosines", cosines}, {-1, -1});
  a.cosines = angle_table(a, tensors, {"cosines", cosines}, cosines);
  a.sines = angle_table(a, tensors, {"sines", sines}, cosines);
  a.rows = tensors.rows<const int64_t>({"rows", rows}, a.batch, a.nodes);
  a.lengths = tensors.per_row<const int32_t>({"lengths", lengths}, a.batch);
  check_range("first_row", first_row, 0, keys.size(2));
  a.first_row = first_row;
  a.threads = at::get_num_threads();
  if (tensors.are_on_cpu()) check_places(a, cosines.size(0), keys.size(2));
  run<RotateAndStore>(tensors.device(), LTD_KERNELS(rotate_and_store), a, a.launch);
}

void run_gated_silu(const Tensor& gate_up, Tensor active) {
  const Tensors tensors(gate_up.device());
  const Named like{"active", active};
  GatedSilu a{};
  set_rows(a, like);
  checked_count("numbers in gate_up", {a.rows, a.size, 2});
  a.gate_up = {read_only(tensors.checked_like({"gate_up", gate_up}, like, {a.rows, 2 * a.size})), gate_up.stride(0)};
  a.active = {written(active), active.stride(0)};
  a.threads = at::get_num_threads();
  run<GatedSilu>(tensors.device(), LTD_KERNELS(gated_silu), a, a.launch);
}

}  // namespace
}  // namespace ltd

TORCH_LIBRARY_FRAGMENT(ltd, library) {
  ltd::define<ltd::run_add_rms_norm>(
      library, "add_rms_norm",
      "(Tensor(a!) states, Tensor? addend, Tensor weight, float epsilon, Tensor(b!) normed) -> ()");
  ltd::define<ltd::run_rotate_and_store>(
      library, "rotate_and_store",
      "(Tensor qkv, Tensor? query_norm, Tensor? key_norm, float epsilon, Tensor cosines, Tensor sines, Tensor rows, "
      "Tensor lengths, int first_row, Tensor(a!) keys, Tensor(b!) values, Tensor(c!) queries) -> ()");
  ltd::define<ltd::run_gated_silu>(library, "gated_silu", "(Tensor gate_up, Tensor(a!) active) -> ()");
}
