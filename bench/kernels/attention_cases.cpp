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

// In a cache of so many rows, of which the kernel is told how many are in use, or not.
struct Room {
  int64_t rows;
  bool is_told;
};

Call prepare(Memory& memory, const Model& model, int64_t prefix, int64_t size, const Room& room) {
  const Nodes nodes = select_nodes(size, static_cast<int32_t>(prefix));
  const int64_t rows = room.rows, head = model.head_dim;
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
  a.longest = room.is_told ? prefix + nodes.count : rows;
  a.tree_rows = nodes.count;
  a.scale = 1.0f / std::sqrt(static_cast<float>(head));
  a.output = memory.zeros<BFloat16>(nodes.count * model.query_heads * head);
  a.counters = memory.zeros<int32_t>(kMergeCounters);
  a.threads = thread_count();
  return call_of(LTD_OPERATOR(TreeAttention, tree_attention), a, memory);
}

Case make_case(const Model& model, const Labelled& prefix, int64_t size, const Room& room, const std::string& where) {
  const double nodes = static_cast<double>(size + 1);
  const double rows = static_cast<double>(prefix.value) + nodes;
  const double query_width = static_cast<double>(model.query_heads * model.head_dim);
  const double cache_width = static_cast<double>(model.kv_heads * model.head_dim);
  return {.name = std::string("tree_attention/") + model.label + "/prefix:" + prefix.label + where +
                  "/V:" + std::to_string(size),
          .usual = size == kUsualSize || prefix.value == kUsualPrefix,
          .bytes = kElement * (2 * rows * cache_width + 2 * nodes * query_width),
          .prepare = [model, prefix, size, room](Memory& m) { return prepare(m, model, prefix.value, size, room); }};
}

}  // namespace

void add_attention_cases(std::vector<Case>& cases) {
  for (const Model& model : kModels) {
    for (const Labelled& prefix : kPrefixes) {
      for (const int64_t size : kSizes) {
        cases.push_back(make_case(model, prefix, size, {prefix.value + size + 1, true}, ""));
      }
    }
    // A short prefix in a long cache, as graphs are captured with.
    for (const bool is_told : {true, false}) {
      cases.push_back(make_case(model, kPrefixes[0], kUsualSize, {kPrefixes[3].value, is_told},
                                is_told ? " in 32k" : " in 32k, not told"));
    }
  }
}

}  // namespace ltd::bench
