// Verification: one layer's attention.
#include <cmath>

#include "attention/tree_attention.h"
#include "cases.h"
#include "models.h"
#include "trees.h"

namespace ltd::bench {
namespace {

constexpr Labelled kPrefixes[] = {{"256", 256}, {"2k", 2048}, {"8k", 8192}, {"32k", 32768}};
constexpr int64_t kUsualPrefix = 2048;

Call prepare(Memory& memory, const Model& model, int64_t prefix, int64_t size) {
  const Nodes nodes = select_nodes(size, static_cast<int32_t>(prefix));
  const int64_t rows = prefix + nodes.count, head = model.head_dim;
  const HeadRows cache{nullptr, model.kv_heads * rows * head, rows * head, head};
  TreeAttention a{};
  a.query = a.keys = a.values = cache;
  a.query = {memory.copy(bfloat16_noise(model.query_heads * nodes.count * head, 1.0f)),
             model.query_heads * nodes.count * head, head, model.query_heads * head};
  a.keys.data = memory.copy(bfloat16_noise(model.kv_heads * rows * head, 1.0f));
  a.values.data = memory.copy(bfloat16_noise(model.kv_heads * rows * head, 1.0f));
  a.dtype = DType::kBFloat16;
  a.lengths = memory.copy(std::vector<int32_t>{static_cast<int32_t>(prefix)});
  a.masks = {memory.copy(nodes.masks), nodes.count * nodes.words, nodes.words};
  a.positions = {memory.copy(nodes.positions), nodes.count};
  a.batch = 1;
  a.query_heads = model.query_heads;
  a.kv_heads = model.kv_heads;
  a.nodes = nodes.count;
  a.head_dim = head;
  a.capacity = rows;
  a.tree_rows = nodes.count;
  a.scale = 1.0f / std::sqrt(static_cast<float>(head));
  a.output = memory.zeros<BFloat16>(nodes.count * model.query_heads * head);
  a.threads = thread_count();
  return call_of(LTD_OPERATOR(TreeAttention, tree_attention), a, memory);
}

Case make_case(const Model& model, const Labelled& prefix, int64_t size) {
  const double nodes = static_cast<double>(size + 1);
  const double rows = static_cast<double>(prefix.value) + nodes;
  const double query_width = static_cast<double>(model.query_heads * model.head_dim);
  const double cache_width = static_cast<double>(model.kv_heads * model.head_dim);
  return {
      .name = std::string("tree_attention/") + model.label + "/prefix:" + prefix.label + "/V:" + std::to_string(size),
      .usual = size == kUsualSize || prefix.value == kUsualPrefix,
      .bytes = kElement * (2 * rows * cache_width + 2 * nodes * query_width),
      .prepare = [model, prefix, size](Memory& m) { return prepare(m, model, prefix.value, size); }};
}

}  // namespace

void add_attention_cases(std::vector<Case>& cases) {
  for (const Model& model : kModels) {
    for (const Labelled& prefix : kPrefixes) {
      for (const int64_t size : kSizes) cases.push_back(make_case(model, prefix, size));
    }
  }
}

}  // namespace ltd::bench
