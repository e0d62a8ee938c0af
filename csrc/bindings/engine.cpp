// Binds the engine: packed weights and the forward of a whole stack of layers. It runs on the CPU.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <optional>
#include <tuple>
#include <vector>

#include "bindings/checks.h"
#include "bindings/register.h"
#include "dispatch/cpu_kernels.h"
#include "engine/forward_stack.h"
#include "engine/linear.h"

namespace ltd {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

const Tensors kOnCpu(at::kCPU);

const void* contiguous(const char* name, const Tensor& tensor, at::ScalarType type, at::IntArrayRef sizes) {
  const void* data = kOnCpu.checked({name, tensor}, type, sizes);
  LTD_CHECK(tensor.is_contiguous(), name, " must be contiguous, but its strides are ", tensor.strides());
  return data;
}

const void* contiguous(const char* name, const OptionalTensor& tensor, at::ScalarType type, at::IntArrayRef sizes) {
  return tensor.has_value() ? contiguous(name, *tensor, type, sizes) : nullptr;
}

// Elements of a step.
int64_t step_elements(DType dtype) { return kBlockOutputs * inputs_of_step(dtype); }

void run_pack_linear(const Tensor& weight, Tensor packed) {
  const DType dtype = float_type({"weight", weight});
  kOnCpu.checked({"weight", weight}, weight.scalar_type(), {-1, -1});
  contiguous("packed", packed, weight.scalar_type(),
             {packed_blocks(weight.size(0)), packed_steps(weight.size(1), dtype), step_elements(dtype)});
  if (packed.numel() == 0 || packed.is_meta()) return;
  pack_linear(weight.const_data_ptr(), weight.stride(0), weight.size(0), weight.size(1), dtype,
              packed.mutable_data_ptr());
}

void check_packed(const Tensor& packed, int64_t outputs, int64_t inputs, DType dtype) {
  contiguous("packed", packed, packed.scalar_type(), {-1, -1, step_elements(dtype)});
  check_range("outputs", outputs, 1, kMaxSize);
  check_range("inputs", inputs, 1, kMaxSize);
  LTD_CHECK(packed.size(0) == packed_blocks(outputs) && packed.size(1) == packed_steps(inputs, dtype),
            "packed must hold a weight of shape [", outputs, ", ", inputs, "], but its shape is ", packed.sizes());
}

Tensor run_unpack_rows(const Tensor& packed, int64_t outputs, int64_t inputs, const Tensor& ids) {
  const DType dtype = float_type({"packed", packed});
  check_packed(packed, outputs, inputs, dtype);
  LTD_CHECK(ids.scalar_type() == at::kLong, "ids must be of type Long, but is ", ids.scalar_type());
  std::vector<int64_t> sizes = ids.sizes().vec();
  sizes.push_back(inputs);
  Tensor rows = at::empty(sizes, packed.options());
  if (rows.is_meta()) return rows;
  const Tensor flat = ids.contiguous();
  const int64_t* numbers = flat.const_data_ptr<int64_t>();
  char* target = static_cast<char*>(rows.mutable_data_ptr());
  for (int64_t i = 0; i < flat.numel(); ++i) {
    LTD_CHECK(numbers[i] >= 0 && numbers[i] < outputs, "ids must be 0 to ", outputs - 1, ", but holds ", numbers[i]);
    unpack_row(packed.const_data_ptr(), numbers[i], inputs, dtype, target + i * inputs * packed.element_size());
  }
  return rows;
}

Tensor unpack_rows_meta(const Tensor& packed, int64_t, int64_t inputs, const Tensor& ids) {
  std::vector<c10::SymInt> sizes = ids.sym_sizes().vec();
  sizes.emplace_back(inputs);
  return at::empty_symint(sizes, packed.options());
}

Tensor run_linear(const Tensor& x, const Tensor& packed, int64_t outputs) {
  const DType dtype = float_type({"x", x});
  LTD_CHECK(x.dim() >= 1, "x must have a dimension");
  const int64_t inputs = x.size(-1);
  LTD_CHECK(packed.scalar_type() == x.scalar_type(), "packed must be of type ", x.scalar_type(), ", but is ",
            packed.scalar_type());
  check_packed(packed, outputs, inputs, dtype);
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.back() = outputs;
  Tensor result = at::empty(sizes, x.options());
  if (result.is_meta()) return result;
  const Tensor rows = x.contiguous();
  const PackedLinear weight{static_cast<const char*>(packed.const_data_ptr()), nullptr, outputs, inputs,
                            packed_steps(inputs, dtype)};
  cpu_kernels().linear(
      {dtype, rows.numel() / inputs, rows.const_data_ptr(), weight, result.mutable_data_ptr(), at::get_num_threads()});
  return result;
}

Tensor linear_meta(const Tensor& x, const Tensor&, int64_t outputs) {
  std::vector<c10::SymInt> sizes = x.sym_sizes().vec();
  sizes.back() = outputs;
  return at::empty_symint(sizes, x.options());
}

StackedLinear stacked(const char* name, const Tensor& blocks, const char* bias_name, const OptionalTensor& bias,
                      int64_t layers, int64_t outputs, int64_t inputs, const ForwardStack& a, at::ScalarType type) {
  const void* data = contiguous(
      name, blocks, type, {layers, packed_blocks(outputs), packed_steps(inputs, a.dtype), step_elements(a.dtype)});
  return {static_cast<const char*>(data),
          static_cast<const char*>(contiguous(bias_name, bias, type, {layers, outputs})), outputs, inputs, a.dtype};
}

void set_cache(ForwardStack& a, const Tensor& keys, const Tensor& values, at::ScalarType type) {
  kOnCpu.checked({"keys", keys}, type, {a.layers, a.batch, -1, -1, -1});
  kOnCpu.checked({"values", values}, type, keys.sizes());
  LTD_CHECK(keys.strides() == values.strides(), "keys and values must have the same strides, but have ", keys.strides(),
            " and ", values.strides());
  a.keys = written<char>(keys);
  a.values = written<char>(values);
  a.kv_heads = keys.size(2);
  a.head_dim = keys.size(4);
  bool even = a.head_dim % 2 == 0;
  for (int d = 0; d < 4; ++d) {
    a.cache_strides[d] = keys.stride(d);
    even = even && keys.stride(d) % 2 == 0;
  }
  LTD_CHECK(even && a.head_dim > 0, "keys must have a head size and strides that are even, but its shape is ",
            keys.sizes(), " and its strides are ", keys.strides());
  check_range("query_heads", a.query_heads, 1, kMaxSize);
  LTD_CHECK(a.kv_heads >= 1 && a.query_heads % a.kv_heads == 0, "query_heads must be a multiple of the ", a.kv_heads,
            " heads of keys, but is ", a.query_heads);
}

void set_tree(ForwardStack& a, const Tensor& lengths, const OptionalTensor& masks, const Tensor& positions,
              at::IntArrayRef windows, int64_t capacity) {
  check_range("first_row", a.first_row, 0, capacity);
  a.lengths = kOnCpu.per_row<const int32_t>({"lengths", lengths}, a.batch);
  for (int64_t b = 0; b < a.batch && lengths.is_cpu(); ++b) {
    LTD_CHECK(a.lengths[b] >= 0 && a.lengths[b] + a.first_row + a.nodes <= capacity, "lengths[", b,
              "] = ", a.lengths[b], " and ", a.first_row + a.nodes, " new rows do not fit the ", capacity,
              " rows of keys");
  }
  if (masks.has_value()) {
    a.masks = kOnCpu.matrices<const int64_t>({"masks", *masks}, a.batch, a.nodes, -1);
    LTD_CHECK(masks->size(2) * 64 >= a.first_row + a.nodes, "masks must hold a bit for each of the ",
              a.first_row + a.nodes, " rows, but its shape is ", masks->sizes());
  }
  a.positions = kOnCpu.rows<const int64_t>({"positions", positions}, a.batch, a.nodes);
  LTD_CHECK(static_cast<int64_t>(windows.size()) == a.layers, "windows must hold a number for each of the ", a.layers,
            " layers, but holds ", windows.size());
  a.windows = windows.data();
  bool has_window = false;
  for (const int64_t window : windows) has_window = has_window || window > 0;
  if (has_window && positions.is_cpu()) check_positions(a.positions, a.batch, a.nodes);
  LTD_CHECK(a.first_row == 0 || (masks.has_value() && !has_window),
            "first_row must be 0 without masks or with a window, but is ", a.first_row);
}

void set_rotary(ForwardStack& a, const Tensor& cosines, const Tensor& sines, const Tensor& rotary_rows,
                at::ScalarType type) {
  const at::ScalarType table = cosines.scalar_type() == at::kFloat ? at::kFloat : type;
  a.rotary_dtype = float_type({"cosines", cosines});
  a.cosines = contiguous("cosines", cosines, table, {-1, a.head_dim});
  a.sines = contiguous("sines", sines, table, {cosines.size(0), a.head_dim});
  a.rotary_rows = kOnCpu.rows<const int64_t>({"rotary_rows", rotary_rows}, a.batch, a.nodes);
  for (int64_t b = 0; b < a.batch && rotary_rows.is_cpu(); ++b) {
    for (int64_t n = 0; n < a.nodes; ++n) {
      LTD_CHECK(a.rotary_rows[b][n] >= 0 && a.rotary_rows[b][n] < cosines.size(0), "rotary_rows must be 0 to ",
                cosines.size(0) - 1, ", but holds ", a.rotary_rows[b][n]);
    }
  }
}

std::tuple<Tensor, Tensor> run_forward_stack(
    Tensor states, const Tensor& input_norm, const Tensor& qkv, const OptionalTensor& qkv_bias,
    const OptionalTensor& query_norm, const OptionalTensor& key_norm, const Tensor& output,
    const OptionalTensor& output_bias, const Tensor& post_norm, const Tensor& gate_up,
    const OptionalTensor& gate_up_bias, const Tensor& down, const OptionalTensor& down_bias, const Tensor& final_norm,
    const Tensor& lm_head, int64_t query_heads, int64_t intermediate, int64_t vocabulary, double epsilon, double scale,
    const Tensor& cosines, const Tensor& sines, const Tensor& rotary_rows, Tensor keys, Tensor values,
    const Tensor& lengths, const OptionalTensor& masks, const Tensor& positions, at::IntArrayRef windows,
    at::IntArrayRef taps, int64_t kept, const OptionalTensor& embeddings, const OptionalTensor& embedding_norm,
    bool residual_is_normed, int64_t first_row) {
  const at::ScalarType type = states.scalar_type();
  ForwardStack a{};
  a.dtype = float_type({"states", states});
  contiguous("states", states, type, {-1, -1, -1});
  contiguous("input_norm", input_norm, type, {-1, states.size(2)});
  a.layers = input_norm.size(0);
  a.batch = states.size(0);
  a.nodes = states.size(1);
  a.hidden = states.size(2);
  a.query_heads = query_heads;
  a.intermediate = intermediate;
  a.vocabulary = vocabulary;
  a.epsilon = static_cast<float>(epsilon);
  a.scale = static_cast<float>(scale);
  a.states = written(states);
  a.input_norm = data_of(input_norm);
  LTD_CHECK(a.nodes >= 1 && a.hidden >= 1, "states must have at least one row and one column, but its shape is ",
            states.sizes());
  checked_count("rows of states", {a.batch, a.nodes});
  check_range("intermediate", intermediate, 1, kMaxSize);
  check_range("vocabulary", vocabulary, 1, kMaxSize);
  LTD_CHECK(kept >= 0 && kept <= a.nodes, "kept must be 0 to ", a.nodes, ", the rows of states, but is ", kept);
  a.embeddings = contiguous("embeddings", embeddings, type, states.sizes());
  a.embedding_norm = contiguous("embedding_norm", embedding_norm, type, input_norm.sizes());
  LTD_CHECK(embeddings.has_value() == embedding_norm.has_value(),
            "embeddings and embedding_norm must be given together");
  a.residual_is_normed = residual_is_normed;
  a.first_row = first_row;
  set_cache(a, keys, values, type);
  set_tree(a, lengths, masks, positions, windows, keys.size(3));
  set_rotary(a, cosines, sines, rotary_rows, type);
  const int64_t mixed = query_heads * a.head_dim;
  const int64_t gates = (intermediate + 15) / 16 * 32;
  a.qkv = stacked("qkv", qkv, "qkv_bias", qkv_bias, a.layers, mixed + 2 * a.kv_heads * a.head_dim,
                  embeddings.has_value() ? 2 * a.hidden : a.hidden, a, type);
  a.query_norm = contiguous("query_norm", query_norm, type, {a.layers, a.head_dim});
  a.key_norm = contiguous("key_norm", key_norm, type, {a.layers, a.head_dim});
  a.output = stacked("output", output, "output_bias", output_bias, a.layers, a.hidden, mixed, a, type);
  a.post_norm = contiguous("post_norm", post_norm, type, {a.layers, a.hidden});
  a.gate_up = stacked("gate_up", gate_up, "gate_up_bias", gate_up_bias, a.layers, gates, a.hidden, a, type);
  a.down = stacked("down", down, "down_bias", down_bias, a.layers, a.hidden, intermediate, a, type);
  a.final_norm = contiguous("final_norm", final_norm, type, {a.hidden});
  a.lm_head = stacked("lm_head", lm_head.unsqueeze(0), "", std::nullopt, 1, vocabulary, a.hidden, a, type);
  a.taps = taps.data();
  a.tap_count = taps.size();
  for (const int64_t layer : taps)
    LTD_CHECK(layer >= 0 && layer <= a.layers, "taps must be 0 to ", a.layers, ", but hold ", layer);
  Tensor logits = at::empty({a.batch, kept, vocabulary}, states.options());
  Tensor features = at::empty({a.batch, a.nodes, a.tap_count * a.hidden}, states.options());
  a.kept = kept;
  a.logits = written(logits);
  a.features = written(features);
  a.threads = at::get_num_threads();
  if (a.batch > 0 && states.is_cpu()) cpu_kernels().forward_stack(a);
  return {logits, features};
}

std::tuple<Tensor, Tensor> forward_stack_meta(
    Tensor states, const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
    const Tensor&, const OptionalTensor&, const Tensor&, const Tensor&, const OptionalTensor&, const Tensor&,
    const OptionalTensor&, const Tensor&, const Tensor&, int64_t, int64_t, int64_t vocabulary, double, double,
    const Tensor&, const Tensor&, const Tensor&, Tensor, Tensor, const Tensor&, const OptionalTensor&, const Tensor&,
    at::IntArrayRef, at::IntArrayRef taps, int64_t kept, const OptionalTensor&, const OptionalTensor&, bool, int64_t) {
  const auto feature_size = states.sym_size(2) * static_cast<int64_t>(taps.size());
  return {at::empty_symint({states.sym_size(0), kept, vocabulary}, states.options()),
          at::empty_symint({states.sym_size(0), states.sym_size(1), feature_size}, states.options())};
}

}  // namespace
}  // namespace ltd

TORCH_LIBRARY_FRAGMENT(ltd, library) {
  ltd::define_for_cpu<ltd::run_pack_linear>(library, "pack_linear", "(Tensor weight, Tensor(a!) packed) -> ()");
  ltd::define_for_cpu<ltd::run_unpack_rows, ltd::unpack_rows_meta>(
      library, "unpack_rows", "(Tensor packed, int outputs, int inputs, Tensor ids) -> Tensor");
  ltd::define_for_cpu<ltd::run_linear, ltd::linear_meta>(library, "linear",
                                                         "(Tensor x, Tensor packed, int outputs) -> Tensor");
  ltd::define_for_cpu<ltd::run_forward_stack, ltd::forward_stack_meta>(
      library, "forward_stack",
      "(Tensor(a!) states, Tensor input_norm, Tensor qkv, Tensor? qkv_bias, Tensor? query_norm, Tensor? key_norm, "
      "Tensor output, Tensor? output_bias, Tensor post_norm, Tensor gate_up, Tensor? gate_up_bias, Tensor down, "
      "Tensor? down_bias, Tensor final_norm, Tensor lm_head, int query_heads, int intermediate, int vocabulary, "
      "float epsilon, float scale, Tensor cosines, Tensor sines, Tensor rotary_rows, Tensor(b!) keys, "
      "Tensor(c!) values, Tensor lengths, Tensor? masks, Tensor positions, int[] windows, int[] taps, int kept, "
      "Tensor? embeddings, Tensor? embedding_norm, bool residual_is_normed, int first_row) -> (Tensor, Tensor)");
}
