// Commit: the accepted rows of all layers.
#include "cases.h"
#include "commit/commit_path.h"
#include "models.h"

namespace ltd::bench {
namespace {

constexpr int64_t kPrefix = 2048;
constexpr int64_t kCapacity = kPrefix + 256;
constexpr int64_t kMoved = 3;  // the first two of the path stand where they belong

CacheTensor make_cache(Memory& memory, const Model& model) {
  const int64_t rows = model.layers * model.kv_heads * kCapacity;
  char* data = reinterpret_cast<char*>(memory.copy(bfloat16_noise(rows * model.head_dim, 1.0f)));
  const int64_t head_stride = kCapacity * model.head_dim;
  return {data, model.kv_heads * head_stride, model.kv_heads * head_stride, head_stride, model.head_dim};
}

Call prepare(Memory& memory, const Model& model) {
  const std::vector<int32_t> path{0, 1, 7, 20, 41};
  CommitPath a{};
  a.keys = make_cache(memory, model);
  a.values = make_cache(memory, model);
  a.path = {memory.copy(path), static_cast<int64_t>(path.size())};
  a.gained = memory.copy(std::vector<int32_t>{static_cast<int32_t>(path.size())});
  a.lengths = memory.copy(std::vector<int32_t>{kPrefix});
  a.layers = model.layers;
  a.batch = 1;
  a.heads = model.kv_heads;
  a.row_bytes = model.head_dim * kElement;
  a.element_bytes = kElement;
  a.threads = thread_count();
  return call_of(LTD_OPERATOR(CommitPath, commit_path), a, memory);
}

}  // namespace

void add_cache_cases(std::vector<Case>& cases) {
  for (const Model& model : kModels) {
    const int64_t rows = 2 * model.layers * model.kv_heads * kMoved;
    cases.push_back({.name = std::string("commit_path/") + model.label + "/rows:5",
                     .usual = true,
                     .bytes = static_cast<double>(2 * rows * model.head_dim * kElement),
                     .prepare = [model](Memory& m) { return prepare(m, model); }});
  }
}

}  // namespace ltd::bench
