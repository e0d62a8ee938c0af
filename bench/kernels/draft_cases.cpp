// Drafting, the text's candidates beside the drafted ones, and selection.
#include <algorithm>
#include <numeric>

#include "cases.h"
#include "entropy/row_entropy.h"
#include "expand/expand_beam.h"
#include "lookup/merge_text.h"
#include "noise.h"
#include "select/select_tree.h"
#include "trees.h"

namespace ltd::bench {
namespace {

constexpr int32_t kTextCandidates = 32;

AnyMatrices draft_logits(Memory& memory, int64_t vocabulary) {
  return {memory.copy(bfloat16_noise(kWidth * vocabulary, 3.0f)), DType::kBFloat16, kWidth * vocabulary, vocabulary};
}

// Each logit is above all before it, so that what a block has seen of a row says nothing of what comes: the most that
// has to be ranked.
AnyMatrices ascending_logits(Memory& memory, int64_t vocabulary) {
  std::vector<float> logits(kWidth * vocabulary);
  for (int64_t i = 0; i < kWidth * vocabulary; ++i) logits[i] = 1e-4f * static_cast<float>(i % vocabulary);
  return {memory.copy(logits), DType::kFloat32, kWidth * vocabulary, vocabulary};
}

// The deepest level, of which the levels before are as drafted.
Call prepare_expand(Memory& memory, const AnyMatrices& logits, int64_t vocabulary, bool has_noise = false) {
  const int64_t level = kDepth, levels = kDepth + 1, words = ceil_div(levels * kWidth, 64);
  const Candidates drafted = draft_candidates();
  std::vector<int32_t> beam_nodes(levels * kWidth);
  for (int64_t row = 0; row < kWidth; ++row) {
    beam_nodes[(level - 1) * kWidth + row] = static_cast<int32_t>(level_offset(level - 1, kWidth) + row);
  }
  ExpandBeam a{};
  a.logits = logits;
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
  if (has_noise) {
    a.ring = noise_ring(memory, vocabulary);
    a.lengths = memory.zeros<int32_t>(1);
  }
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

// Of the text's candidates the first half are the best drafted ones, the others a chain below them.
Call prepare_merge(Memory& memory) {
  const Candidates drafted = draft_candidates();
  const int64_t count = drafted.count(), columns = count + kTextCandidates;
  std::vector<int32_t> best(count), places(count, -1);
  std::iota(best.begin(), best.end(), 0);
  const auto is_better = [&](int32_t i, int32_t j) { return drafted.scores[i] > drafted.scores[j]; };
  std::stable_sort(best.begin(), best.end(), is_better);
  std::vector<int64_t> tokens(kTextCandidates);
  std::vector<int32_t> parents(kTextCandidates);
  for (int32_t i = 0; i < kTextCandidates; ++i) {
    const bool is_drafted = i < kTextCandidates / 2;
    const int32_t above = is_drafted ? drafted.parents[best[i]] : -1;
    tokens[i] = is_drafted ? drafted.tokens[best[i]] : -1;
    parents[i] = !is_drafted ? i - 1 : above < 0 ? -1 : places[above];
    places[best[i]] = i;
  }
  const auto widened = [&](auto values) {
    values.resize(columns);
    return values;
  };
  MergeText a{};
  a.text_tokens = {memory.copy(tokens), kTextCandidates};
  a.text_parents = {memory.copy(parents), kTextCandidates};
  a.text_scores = {memory.copy(std::vector<float>(kTextCandidates, -20.0f)), kTextCandidates};
  a.text_counts = memory.copy(std::vector<int32_t>{kTextCandidates});
  a.roots = memory.zeros<int64_t>(1);
  a.batch = 1;
  a.text = kTextCandidates;
  a.candidates = count;
  a.tokens = {memory.copy(widened(drafted.tokens)), columns};
  a.scores = {memory.copy(widened(drafted.scores)), columns};
  a.parents = {memory.copy(widened(drafted.parents)), columns};
  a.sources = {memory.zeros<int8_t>(columns), columns};
  a.appended = memory.zeros<int32_t>(1);
  return call_of(LTD_OPERATOR(MergeText, merge_text), a, memory);
}

// Parents of all candidates, what is written of each, the text's, and all that is written of those.
double merge_bytes() {
  const double candidates = static_cast<double>(level_offset(kDepth + 1, kWidth));
  const double of_text = 8 + 4 + 4;
  return candidates * (4 + 1) + kTextCandidates * (of_text + of_text + 1);
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
                     .prepare = [vocabulary = vocabulary](Memory& m) {
                       return prepare_expand(m, draft_logits(m, vocabulary), vocabulary);
                     }});
    cases.push_back({.name = std::string("expand_beam/W:10/noise/vocabulary:") + label,
                     .usual = true,
                     .bytes = static_cast<double>(kWidth * vocabulary * kElement + vocabulary * (4 + 8)),
                     .prepare = [vocabulary = vocabulary](Memory& m) {
                       return prepare_expand(m, draft_logits(m, vocabulary), vocabulary, true);
                     }});
    cases.push_back({.name = std::string("expand_beam/W:10/ascending/vocabulary:") + label,
                     .usual = vocabulary == kVocabularies[1].value,
                     .bytes = static_cast<double>(kWidth * vocabulary) * sizeof(float),
                     .prepare = [vocabulary = vocabulary](Memory& m) {
                       return prepare_expand(m, ascending_logits(m, vocabulary), vocabulary);
                     }});
  }
  for (const auto& [label, vocabulary] : kVocabularies) {
    cases.push_back({.name = std::string("row_entropy/rows:10/vocabulary:") + label,
                     .usual = true,
                     .bytes = static_cast<double>(kWidth * vocabulary * kElement),
                     .prepare = [vocabulary = vocabulary](Memory& m) { return prepare_entropy(m, vocabulary); }});
  }
  cases.push_back({.name = "merge_text/candidates:810/text:" + std::to_string(kTextCandidates),
                   .usual = true,
                   .bytes = merge_bytes(),
                   .prepare = prepare_merge});
  for (const int64_t size : kSizes) {
    cases.push_back({.name = "select_tree/candidates:810/V:" + std::to_string(size),
                     .usual = true,
                     .bytes = select_bytes(size),
                     .prepare = [size](Memory& m) { return prepare_select(m, size); }});
  }
}

}  // namespace ltd::bench
