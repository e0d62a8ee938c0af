// select_tree: the candidates that go to verification, as a tree.
//
// The best V candidates by (score descending, index ascending) become nodes 1 ... V in ascending candidate index,
// behind the root as node 0. A parent has a smaller index than its children and never a lower score, so the selection
// is a tree, parents stand before children, and siblings in candidate order. NaN scores count as -inf.
//
// If some selected candidate's parent is not selected (scores rose from parent to child, or a parent did not stand
// before its child), the CPU says so and writes nothing for that row. CUDA cannot say it: there the candidate's node
// hangs below the root, and all else is as described.
#pragma once

#include "common/types.h"

namespace ltd {

struct SelectTree {
  Rows<const int64_t> tokens;     // (B, C)
  Rows<const float> scores;       // (B, C)
  Rows<const int32_t> parents;    // (B, C), candidate indices, -1 = root
  const int64_t* roots;           // (B)
  const int32_t* lengths;         // (B), position of the root
  int64_t batch;                  // B
  int64_t candidates;             // considered: the first columns
  int64_t nodes;                  // N = V + 1 <= candidates + 1
  int64_t words;                  // of 64 bits in a mask, >= N / 64
  Rows<int64_t> node_tokens;      // (B, N), node 0 = root
  Rows<int32_t> node_parents;     // (B, N), node indices, -1 for the root
  Rows<int64_t> positions;        // (B, N), lengths[b] + depth
  Matrices<int64_t> masks;        // (B, N, words), bit j: node j is the node or an ancestor
  Rows<int32_t> first_child;      // (B, N), -1 = none
  Rows<int32_t> next_sibling;     // (B, N), -1 = none
  Rows<int32_t> node_candidates;  // (B, N), -1 for the root
  int64_t* orphan;                // the first selected one without a selected parent, -1 = none; CPU only; may be null
  Launch launch;
};

}  // namespace ltd
