// Trees as a cycle has them, made by the CPU's own kernels.
#pragma once

#include <cstdint>
#include <vector>

namespace ltd::bench {

// kWidth + kDepth * kWidth * kWidth of them.
struct Candidates {
  std::vector<int64_t> tokens;
  std::vector<float> scores;
  std::vector<int32_t> parents;

  int64_t count() const { return static_cast<int64_t>(tokens.size()); }
};

Candidates draft_candidates();

// Root and selected candidates, as select_tree writes them.
struct Nodes {
  int64_t count;
  int64_t words;
  std::vector<int64_t> tokens;
  std::vector<int32_t> parents;
  std::vector<int64_t> positions;
  std::vector<int64_t> masks;
  std::vector<int32_t> first_child;
  std::vector<int32_t> next_sibling;
  std::vector<int32_t> candidates;

  explicit Nodes(int64_t size);
};

Nodes select_nodes(int64_t size, int32_t length);

}  // namespace ltd::bench
