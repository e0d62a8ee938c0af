// Commit: the accepted rows of all layers, and what a cycle hands on.
#include "cases.h"
#include "commit/commit_path.h"
#include "commit/gather_accepted.h"
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

const std::vector<int32_t>& accepted_path() {
  static const std::vector<int32_t> path{0, 1, 7, 20, 41};
  return path;
}

Call prepare(Memory& memory, const Model& model) {
  const std::vector<int32_t>& path = accepted_path();
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

constexpr int64_t kPlaces = 18;
constexpr int64_t kTaps = 3;

Call prepare_gather(Memory& memory, const Model& model) {
  std::vector<int32_t> path = accepted_path();
  const auto gained = static_cast<int32_t>(path.size());
  path.resize(kPlaces);
  const int64_t nodes = kUsualSize + 1, row_bytes = kTaps * model.hidden * kElement;
  const auto rows = [&](int64_t count) {
    return reinterpret_cast<char*>(memory.copy(bfloat16_noise(count * kTaps * model.hidden, 1.0f)));
  };
  GatherAccepted a{};
  a.features = {rows(nodes), nodes * row_bytes, row_bytes};
  a.path = {memory.copy(path), kPlaces};
  a.tokens = {memory.zeros<int64_t>(kPlaces), kPlaces};
  a.gained = memory.copy(std::vector<int32_t>{gained});
  a.gathered = {rows(kPlaces), kPlaces * row_bytes, row_bytes};
  a.roots = memory.zeros<int64_t>(1);
  a.report = {memory.zeros<int64_t>(2 + kPlaces), 2 + kPlaces};
  a.batch = 1;
  a.places = kPlaces;
  a.nodes = nodes;
  a.row_bytes = row_bytes;
  return call_of(LTD_OPERATOR(GatherAccepted, gather_accepted), a, memory);
}

}  // namespace

void add_cache_cases(std::vector<Case>& cases) {
  for (const Model& model : kModels) {
    const int64_t rows = 2 * model.layers * model.kv_heads * kMoved;
    cases.push_back({.name = std::string("commit_path/") + model.label + "/rows:5",
                     .usual = true,
                     .bytes = static_cast<double>(2 * rows * model.head_dim * kElement),
                     .prepare = [model](Memory& m) { return prepare(m, model); }});
    cases.push_back({.name = std::string("gather_accepted/") + model.label + "/rows:5",
                     .usual = true,
                     .bytes = static_cast<double>((5 + kPlaces) * kTaps * model.hidden * kElement),
                     .prepare = [model](Memory& m) { return prepare_gather(m, model); }});
  }
}

}  // namespace ltd::bench
