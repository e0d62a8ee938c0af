#include "trees.h"

#include "cases.h"
#include "expand/expand_beam.h"
#include "select/select_tree.h"

namespace ltd::bench {
namespace {

constexpr int64_t kVocabulary = 1024;

}  // namespace

Candidates draft_candidates() {
  const int64_t count = level_offset(kDepth + 1, kWidth);
  const int64_t words = ceil_div((kDepth + 1) * kWidth, 64);
  Candidates made{std::vector<int64_t>(count), std::vector<float>(count), std::vector<int32_t>(count)};
  std::vector<int32_t> beam_nodes((kDepth + 1) * kWidth);
  std::vector<int64_t> beam_rows(kWidth), beam_tokens(kWidth), beam_masks((kDepth + 1) * kWidth * words);
  const std::vector<BFloat16> logits = bfloat16_noise((kDepth + 1) * kWidth * kVocabulary, 3.0f);
  ExpandBeam a{};
  a.batch = 1;
  a.vocabulary = kVocabulary;
  a.width = kWidth;
  a.words = words;
  a.tokens = {made.tokens.data(), count};
  a.scores = {made.scores.data(), count};
  a.parents = {made.parents.data(), count};
  a.beam_nodes = {beam_nodes.data(), 0, kWidth};
  a.beam_rows = {beam_rows.data(), kWidth};
  a.beam_tokens = {beam_tokens.data(), kWidth};
  a.beam_masks = {beam_masks.data(), 0, kWidth * words};
  a.threads = 1;
  for (a.level = 0; a.level <= kDepth; ++a.level) {
    a.rows = a.level == 0 ? 1 : kWidth;
    a.logits = {logits.data() + a.level * kWidth * kVocabulary, DType::kBFloat16, 0, kVocabulary};
    cpu_kernels().expand_beam(a);
  }
  return made;
}

Nodes::Nodes(int64_t size)
    : count(size + 1),
      words(ceil_div(count, 64)),
      tokens(count),
      parents(count),
      positions(count),
      masks(count * words),
      first_child(count),
      next_sibling(count),
      candidates(count) {}

Nodes select_nodes(int64_t size, int32_t length) {
  const Candidates drafted = draft_candidates();
  const int64_t root = 0;
  Nodes made(size);
  SelectTree a{};
  a.tokens = {drafted.tokens.data(), drafted.count()};
  a.scores = {drafted.scores.data(), drafted.count()};
  a.parents = {drafted.parents.data(), drafted.count()};
  a.roots = &root;
  a.lengths = &length;
  a.batch = 1;
  a.candidates = drafted.count();
  a.nodes = made.count;
  a.words = made.words;
  a.node_tokens = {made.tokens.data(), made.count};
  a.node_parents = {made.parents.data(), made.count};
  a.positions = {made.positions.data(), made.count};
  a.masks = {made.masks.data(), made.count * made.words, made.words};
  a.first_child = {made.first_child.data(), made.count};
  a.next_sibling = {made.next_sibling.data(), made.count};
  a.node_candidates = {made.candidates.data(), made.count};
  cpu_kernels().select_tree(a);
  return made;
}

}  // namespace ltd::bench
