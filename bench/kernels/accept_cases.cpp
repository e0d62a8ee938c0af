// Acceptance along trees and chains.
#include "accept/accept.h"
#include "accept/accept_chain.h"
#include "cases.h"
#include "noise.h"
#include "trees.h"

namespace ltd::bench {
namespace {

constexpr int64_t kVisited = 5;
constexpr int64_t kPathCapacity = kDepth + 2;
constexpr int64_t kChain = 4;
constexpr float kSure = 30.0f;

struct NamedSampling {
  const char* label;
  SamplingParameters sampling;
};

constexpr NamedSampling kSamplings[] = {
    {"plain", {1.1f, 0, 1.0}}, {"top-k:50", {1.1f, 50, 1.0}}, {"top-p:0.9", {1.1f, 0, 0.9}}};

// The target agrees with the first child of the first kVisited - 1 nodes that the walk comes to, and with none of the
// next.
AnyMatrices agreeing_logits(Memory& memory, const Nodes& nodes, int64_t vocabulary) {
  std::vector<BFloat16> logits = bfloat16_noise(nodes.count * vocabulary, 3.0f);
  int64_t node = 0;
  for (int64_t step = 1; step < kVisited && nodes.first_child[node] >= 0; ++step) {
    const int64_t child = nodes.first_child[node];
    logits[node * vocabulary + nodes.tokens[child]] = to_bfloat16(kSure);
    node = child;
  }
  logits[node * vocabulary + vocabulary - 1] = to_bfloat16(kSure);
  return {memory.copy(logits), DType::kBFloat16, nodes.count * vocabulary, vocabulary};
}

TreeWalk make_walk(Memory& memory, const Nodes& nodes, int64_t vocabulary) {
  TreeWalk walk{};
  walk.logits = agreeing_logits(memory, nodes, vocabulary);
  walk.tokens = {memory.copy(nodes.tokens), nodes.count};
  walk.first_child = {memory.copy(nodes.first_child), nodes.count};
  walk.next_sibling = {memory.copy(nodes.next_sibling), nodes.count};
  walk.batch = 1;
  walk.nodes = nodes.count;
  walk.vocabulary = vocabulary;
  walk.path_capacity = kPathCapacity;
  walk.path = {memory.zeros<int32_t>(kPathCapacity), kPathCapacity};
  walk.gained_tokens = {memory.zeros<int64_t>(kPathCapacity), kPathCapacity};
  walk.gained = memory.zeros<int32_t>(1);
  walk.threads = thread_count();
  return walk;
}

template <typename Arguments>
Launch& launch_of_walk(Arguments& a) {
  return a.walk.launch;
}

Call prepare_greedy(Memory& memory, int64_t vocabulary) {
  const AcceptGreedy a{make_walk(memory, select_nodes(kUsualSize, 0), vocabulary)};
  return call_of(LTD_OPERATOR(AcceptGreedy, accept_greedy), a, launch_of_walk, memory);
}

Call prepare_sample(Memory& memory, int64_t vocabulary, const SamplingParameters& sampling) {
  const Nodes nodes = select_nodes(kUsualSize, 0);
  AcceptSample a{};
  a.walk = make_walk(memory, nodes, vocabulary);
  a.positions = {memory.copy(nodes.positions), nodes.count};
  a.sampling = sampling;
  a.ring = noise_ring(memory, vocabulary);
  return call_of(LTD_OPERATOR(AcceptSample, accept_sample), a, launch_of_walk, memory);
}

Call prepare_noise(Memory& memory, int64_t vocabulary) {
  PlaceNoise a{};
  a.seed = memory.zeros<int64_t>(1);
  a.vocabulary = vocabulary;
  a.noise = memory.zeros<float>(vocabulary);
  a.threads = thread_count();
  return call_of(LTD_OPERATOR(PlaceNoise, place_noise), a, memory);
}

AnyMatrices chain_logits(Memory& memory, int64_t rows, int64_t vocabulary) {
  return {memory.copy(bfloat16_noise(rows * vocabulary, 3.0f)), DType::kBFloat16, rows * vocabulary, vocabulary};
}

Call prepare_token(Memory& memory, int64_t vocabulary) {
  DraftToken a{};
  a.logits = chain_logits(memory, 1, vocabulary);
  a.vocabulary = vocabulary;
  a.sampling = {1.0f, 0, 1.0};
  a.draws = {7, 0, 0};
  a.threads = thread_count();
  a.token = memory.zeros<int64_t>(1);
  a.chance = memory.zeros<float>(1);
  return call_of(LTD_OPERATOR(DraftToken, draft_token), a, memory);
}

// Draft and target have the same logits, so that the whole chain is kept.
Call prepare_chain(Memory& memory, int64_t vocabulary) {
  AcceptChain a{};
  a.logits = chain_logits(memory, kChain + 1, vocabulary);
  a.draft_logits = chain_logits(memory, kChain, vocabulary);
  a.drafted = memory.zeros<int64_t>(kChain);
  a.count = kChain;
  a.vocabulary = vocabulary;
  a.draft_vocabulary = vocabulary;
  a.sampling = {1.0f, 0, 1.0};
  a.draws = {7, 0, 0};
  a.threads = thread_count();
  a.result = memory.zeros<int64_t>(2);
  return call_of(LTD_OPERATOR(AcceptChain, accept_chain), a, memory);
}

double row_bytes(int64_t rows, int64_t vocabulary) { return static_cast<double>(rows * vocabulary * kElement); }

}  // namespace

// The CPU reads the rows that the walk visits; a GPU reads all at once, and walks then. A sampled walk finds the noise
// of its places made, but at its first call: place_noise says what making it takes.
void add_accept_cases(std::vector<Case>& cases) {
  for (const auto& [label, size] : kVocabularies) {
    const int64_t vocabulary = size;
    const std::string shape = std::string("/vocabulary:") + label;
    if (vocabulary == kVocabularies[0].value) continue;  // of drafts only
    cases.push_back({.name = "accept_greedy/V:60" + shape,
                     .usual = true,
                     .bytes = row_bytes(kVisited, vocabulary),
                     .gpu_bytes = row_bytes(kUsualSize + 1, vocabulary),
                     .prepare = [vocabulary](Memory& m) { return prepare_greedy(m, vocabulary); }});
  }
  for (const auto& [sampling_label, sampling] : kSamplings) {
    for (const auto& [label, size] : kVocabularies) {
      const int64_t vocabulary = size;
      if (vocabulary == kVocabularies[0].value) continue;
      cases.push_back({.name = std::string("accept_sample/V:60/") + sampling_label + "/vocabulary:" + label,
                       .usual = true,
                       .bytes = row_bytes(kVisited, vocabulary),
                       .gpu_bytes = row_bytes(kUsualSize + 1, vocabulary),
                       .prepare = [vocabulary, s = sampling](Memory& m) { return prepare_sample(m, vocabulary, s); }});
    }
  }
  for (const auto& [label, size] : kVocabularies) {
    const int64_t vocabulary = size;
    cases.push_back({.name = std::string("place_noise/vocabulary:") + label,
                     .usual = true,
                     .bytes = static_cast<double>(vocabulary) * sizeof(float),
                     .prepare = [vocabulary](Memory& m) { return prepare_noise(m, vocabulary); }});
  }
  for (const auto& [label, size] : kVocabularies) {
    const int64_t vocabulary = size;
    cases.push_back({.name = std::string("draft_token/vocabulary:") + label,
                     .usual = true,
                     .bytes = row_bytes(1, vocabulary),
                     .prepare = [vocabulary](Memory& m) { return prepare_token(m, vocabulary); }});
  }
  for (const auto& [label, size] : kVocabularies) {
    const int64_t vocabulary = size;
    cases.push_back({.name = std::string("accept_chain/K:4/vocabulary:") + label,
                     .usual = true,
                     .bytes = row_bytes(2 * kChain + 1, vocabulary),
                     .prepare = [vocabulary](Memory& m) { return prepare_chain(m, vocabulary); }});
  }
}

}  // namespace ltd::bench
