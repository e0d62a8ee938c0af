#include "select/select_tree.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace ltd {
namespace {

// Orders candidates by (score descending, index ascending) when compared as whole numbers.
uint64_t rank_key(float score, int64_t index) {
  if (std::isnan(score)) score = -INFINITY;
  score += 0.0f;  // -0 becomes +0, which it equals
  uint32_t bits;
  std::memcpy(&bits, &score, sizeof bits);
  const uint32_t ascending = (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
  return (uint64_t{~ascending} << 32) | static_cast<uint64_t>(index);
}

// Candidate indices of nodes 1 ... V into `chosen`, ascending.
void choose(const SelectTree& a, int64_t b, int32_t* chosen) {
  const int64_t size = a.nodes - 1;
  uint64_t keys[kMaxCandidates];
  for (int64_t i = 0; i < a.candidates; ++i) keys[i] = rank_key(a.scores[b][i], i);
  if (size < a.candidates) std::nth_element(keys, keys + size, keys + a.candidates);
  for (int64_t i = 0; i < size; ++i) chosen[i] = static_cast<int32_t>(keys[i] & 0xffffffffu);
  std::sort(chosen, chosen + size);
}

void write_root(const SelectTree& a, int64_t b) {
  a.node_tokens[b][0] = a.roots[b];
  a.node_parents[b][0] = -1;
  a.positions[b][0] = a.lengths[b];
  a.node_candidates[b][0] = -1;
  std::memset(a.masks.at(b, 0), 0, a.words * sizeof(int64_t));
  a.masks.at(b, 0)[0] = 1;
}

void write_node(const SelectTree& a, int64_t b, int32_t node, int32_t parent, int32_t candidate) {
  a.node_tokens[b][node] = a.tokens[b][candidate];
  a.node_parents[b][node] = parent;
  a.positions[b][node] = a.positions[b][parent] + 1;
  a.node_candidates[b][node] = candidate;
  int64_t* mask = a.masks.at(b, node);
  std::memcpy(mask, a.masks.at(b, parent), a.words * sizeof(int64_t));
  mask[node / 64] |= static_cast<int64_t>(uint64_t{1} << (node % 64));
}

// Returns the first candidate without a selected parent, or -1.
int64_t select_row(const SelectTree& a, int64_t b) {
  int32_t chosen[kMaxNodes];
  int32_t node_of[kMaxCandidates];  // candidate -> node, -1 = not selected
  int32_t last_child[kMaxNodes];    // node -> its child written last
  const int64_t size = a.nodes - 1;
  choose(a, b, chosen);
  std::fill_n(node_of, a.candidates, -1);
  for (int64_t i = 0; i < size; ++i) {
    const int32_t parent = a.parents[b][chosen[i]];
    if (parent < -1 || parent >= chosen[i] || (parent >= 0 && node_of[parent] < 0)) return chosen[i];
    node_of[chosen[i]] = static_cast<int32_t>(i + 1);
  }

  std::fill_n(last_child, a.nodes, -1);
  std::fill_n(a.first_child[b], a.nodes, -1);
  std::fill_n(a.next_sibling[b], a.nodes, -1);
  write_root(a, b);
  for (int32_t node = 1; node < a.nodes; ++node) {
    const int32_t candidate = chosen[node - 1];
    const int32_t parent_candidate = a.parents[b][candidate];
    const int32_t parent = parent_candidate < 0 ? 0 : node_of[parent_candidate];
    write_node(a, b, node, parent, candidate);
    (last_child[parent] < 0 ? a.first_child[b][parent] : a.next_sibling[b][last_child[parent]]) = node;
    last_child[parent] = node;
  }
  return -1;
}

}  // namespace

void select_tree(const SelectTree& a) {
  int64_t orphan = -1;
  for (int64_t b = 0; b < a.batch && orphan < 0; ++b) orphan = select_row(a, b);
  if (a.orphan != nullptr) *a.orphan = orphan;
}

}  // namespace ltd
