// What a forward does between its products, for the rows of a tree.
#include "cases.h"
#include "forward/add_rms_norm.h"
#include "forward/gated_silu.h"
#include "forward/rotate_and_store.h"
#include "models.h"

namespace ltd::bench {
namespace {

constexpr int64_t kRows = kUsualSize + 1;
constexpr int64_t kPrefix = 2048;
constexpr int64_t kCapacity = kPrefix + 256;

FloatRows noise(Memory& memory, int64_t rows, int64_t columns) {
  return {memory.copy(bfloat16_noise(rows * columns, 1.0f)), columns};
}

Call prepare_norm(Memory& memory, int64_t hidden) {
  AddRmsNorm a{};
  a.dtype = DType::kBFloat16;
  a.states = noise(memory, kRows, hidden);
  a.addend = noise(memory, kRows, hidden);
  a.weight = noise(memory, 1, hidden).data;
  a.normed = noise(memory, kRows, hidden);
  a.rows = kRows;
  a.size = hidden;
  a.epsilon = 1e-5f;
  a.threads = thread_count();
  return call_of(LTD_OPERATOR(AddRmsNorm, add_rms_norm), a, memory);
}

Call prepare_silu(Memory& memory, int64_t intermediate) {
  GatedSilu a{};
  a.dtype = DType::kBFloat16;
  a.gate_up = noise(memory, kRows, 2 * intermediate);
  a.active = noise(memory, kRows, intermediate);
  a.rows = kRows;
  a.size = intermediate;
  a.threads = thread_count();
  return call_of(LTD_OPERATOR(GatedSilu, gated_silu), a, memory);
}

LayerCache layer_cache(Memory& memory, const Model& model) {
  const int64_t head_stride = kCapacity * model.head_dim;
  return {noise(memory, model.kv_heads, head_stride).data, model.kv_heads * head_stride, head_stride, model.head_dim};
}

Call prepare_heads(Memory& memory, const Model& model) {
  const int64_t columns = (model.query_heads + 2 * model.kv_heads) * model.head_dim;
  RotateAndStore a{};
  a.dtype = a.table_dtype = DType::kBFloat16;
  a.qkv = noise(memory, kRows, columns).data;
  a.qkv_strides[0] = kRows * columns;
  a.qkv_strides[1] = columns;
  a.cosines = noise(memory, kRows, model.head_dim).data;
  a.sines = noise(memory, kRows, model.head_dim).data;
  std::vector<int64_t> rows(kRows);
  for (int64_t row = 0; row < kRows; ++row) rows[row] = row;
  a.rows = {memory.copy(rows), kRows};
  a.lengths = memory.copy(std::vector<int32_t>{kPrefix});
  a.keys = layer_cache(memory, model);
  a.values = layer_cache(memory, model);
  a.queries = noise(memory, kRows, model.query_heads * model.head_dim).data;
  a.query_strides[0] = kRows * model.query_heads * model.head_dim;
  a.query_strides[1] = model.head_dim;
  a.query_strides[2] = model.query_heads * model.head_dim;
  a.batch = 1;
  a.nodes = kRows;
  a.query_heads = model.query_heads;
  a.kv_heads = model.kv_heads;
  a.head_dim = model.head_dim;
  a.threads = thread_count();
  return call_of(LTD_OPERATOR(RotateAndStore, rotate_and_store), a, memory);
}

double bytes(int64_t numbers) { return static_cast<double>(numbers * kElement); }

}  // namespace

void add_forward_cases(std::vector<Case>& cases) {
  const auto add = [&](const char* op, const Model& model, double all, std::function<Call(Memory&)> prepare) {
    cases.push_back({.name = std::string(op) + "/" + model.label + "/rows:" + std::to_string(kRows),
                     .usual = true,
                     .bytes = all,
                     .prepare = std::move(prepare)});
  };
  for (const Model& model : kModels) {
    const int64_t hidden = model.hidden, intermediate = model.intermediate;
    const int64_t heads = model.query_heads + 2 * model.kv_heads;
    add("add_rms_norm", model, bytes(4 * kRows * hidden), [hidden](Memory& m) { return prepare_norm(m, hidden); });
    add("gated_silu", model, bytes(3 * kRows * intermediate),
        [intermediate](Memory& m) { return prepare_silu(m, intermediate); });
    add("rotate_and_store", model, bytes(2 * kRows * heads * model.head_dim),
        [model](Memory& m) { return prepare_heads(m, model); });
  }
}

}  // namespace ltd::bench
