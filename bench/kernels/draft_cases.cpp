// Drafting and selection.
#include "cases.h"
#include "entropy/row_entropy.h"
#include "expand/expand_beam.h"
#include "select/select_tree.h"
#include "trees.h"

namespace ltd::bench {
namespace {

AnyMatrices draft_logits(Memory& memory, int64_t vocabulary) {
  return {memory.copy(bfloat16_noise(kWidth * vocabulary, 3.0f)), DType::kBFloat16, kWidth * vocabulary, vocabulary};
}

// The deepest level, of which the levels before are as drafted.
Call prepare_expand(Memory& memory, int64_t vocabulary) {
  const int64_t level = kDepth, levels = kDepth + 1, words = ceil_div(levels * kWidth, 64);
  const Candidates drafted = draft_candidates();
  std::vector<int32_t> beam_nodes(levels * kWidth);
  for (int64_t row = 0; row < kWidth; ++row) {
    beam_nodes[(level - 1) * kWidth + row] = static_cast<int32_t>(level_offset(level - 1, kWidth) + row);
  }
  ExpandBeam a{};
  a.logits = draft_logits(memory, vocabulary);
  a.d2t = memory.zeros<int64_t>(vocabulary);
  a.batch = 1;
  a.rows = kWidth;
  a.vocabulary = vocabulary;
  a.level = level;
  a.width = kWidth;
  a.words = words;
  a.tokens = {memory.copy(drafted.tokens), drafted.count()};
  a.scores = {memory.copy(drafted.scores), drafted.count()};
  a.parents = {memory.copy(drafted.parents), drafted.count()};
  a.beam_nodes = {memory.copy(beam_nodes), levels * kWidth, kWidth};
  a.beam_rows = {memory.zeros<int64_t>(kWidth), kWidth};
  a.beam_tokens = {memory.zeros<int64_t>(kWidth), kWidth};
  a.beam_masks = {memory.zeros<int64_t>(levels * kWidth * words), levels * kWidth * words, kWidth * words};
  a.threads = thread_count();
  return call_of(LTD_OPERATOR(ExpandBeam, expand_beam), a, memory);
}

Call prepare_entropy(Memory& memory, int64_t vocabulary) {
  RowEntropy a{};
  a.logits = draft_logits(memory, vocabulary);
  a.batch = 1;
  a.rows = kWidth;
  a.vocabulary = vocabulary;
  a.entropies = {memory.zeros<float>(kWidth), kWidth};
  a.threads = thread_count();
  return call_of(LTD_OPERATOR(RowEntropy, row_entropy), a, memory);
}

Call prepare_select(Memory& memory, int64_t size) {
  const Candidates drafted = draft_candidates();
  const Nodes nodes(size);
  SelectTree a{};
  a.tokens = {memory.copy(drafted.tokens), drafted.count()};
  a.scores = {memory.copy(drafted.scores), drafted.count()};
  a.parents = {memory.copy(drafted.parents), drafted.count()};
  a.roots = memory.zeros<int64_t>(1);
  a.lengths = memory.zeros<int32_t>(1);
  a.batch = 1;
  a.candidates = drafted.count();
  a.nodes = nodes.count;
  a.words = nodes.words;
  a.node_tokens = {memory.copy(nodes.tokens), nodes.count};
  a.node_parents = {memory.copy(nodes.parents), nodes.count};
  a.positions = {memory.copy(nodes.positions), nodes.count};
  a.masks = {memory.copy(nodes.masks), nodes.count * nodes.words, nodes.words};
  a.first_child = {memory.copy(nodes.first_child), nodes.count};
  a.next_sibling = {memory.copy(nodes.next_sibling), nodes.count};
  a.node_candidates = {memory.copy(nodes.candidates), nodes.count};
  return call_of(LTD_OPERATOR(SelectTree, select_tree), a, memory);
}

// Scores of all candidates, tokens and parents of those that become nodes, and what is written for a node.
double select_bytes(int64_t size) {
  const double candidates = 4.0 * static_cast<double>(level_offset(kDepth + 1, kWidth));
  const double node = 8 + 4 + 8 + 8 * static_cast<double>(ceil_div(size + 1, 64)) + 4 + 4 + 4;
  return candidates + static_cast<double>(size + 1) * (8 + 4 + node);
}

}  // namespace

void add_draft_cases(std::vector<Case>& cases) {
  for (const auto& [label, vocabulary] : kVocabularies) {
    cases.push_back({.name = std::string("expand_beam/W:10/vocabulary:") + label,
                     .usual = true,
                     .bytes = static_cast<double>(kWidth * vocabulary * kElement),
                     .prepare = [vocabulary = vocabulary](Memory& m) { return prepare_expand(m, vocabulary); }});
  }
  for (const auto& [label, vocabulary] : kVocabularies) {
    cases.push_back({.name = std::string("row_entropy/rows:10/vocabulary:") + label,
                     .usual = true,
                     .bytes = static_cast<double>(kWidth * vocabulary * kElement),
                     .prepare = [vocabulary = vocabulary](Memory& m) { return prepare_entropy(m, vocabulary); }});
  }
  for (const int64_t size : kSizes) {
    cases.push_back({.name = "select_tree/candidates:810/V:" + std::to_string(size),
                     .usual = true,
                     .bytes = select_bytes(size),
                     .prepare = [size](Memory& m) { return prepare_select(m, size); }});
  }
}

}  // namespace ltd::bench
