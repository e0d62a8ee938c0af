// expand_beam: one more level of the draft tree.
//
// Every beam row's draft logits give its W best children; a child's score is its parent's score plus its
// log-probability under the softmax over the draft vocabulary. The best W of the new candidates become the next beam.
// Equal logits go to the smaller draft id, equal scores to the smaller candidate index. NaN logits count as -inf; a
// log-probability that is not a number (no finite logit, or an infinite one) counts as -inf.
#pragma once

#include "common/types.h"

namespace ltd {

struct ExpandBeam {
  AnyMatrices logits;            // (B, rows, vocabulary)
  const int64_t* d2t;            // (vocabulary), target id = draft id + d2t[draft id]; null: the ids are the same
  int64_t batch;                 // B
  int64_t rows;                  // 1 at level 0, width after
  int64_t vocabulary;            // of the draft, >= width
  int64_t level;                 // 0-based
  int64_t width;                 // W <= kMaxBeamWidth
  int64_t words;                 // of 64 bits in a mask
  Rows<int64_t> tokens;          // (B, C), target ids
  Rows<float> scores;            // (B, C), cumulative log-probabilities
  Rows<int32_t> parents;         // (B, C), candidate indices, -1 = root
  Matrices<int32_t> beam_nodes;  // (B, levels, W), candidate index of each beam row
  Rows<int64_t> beam_rows;       // (B, W), row of the parent in the beam before
  Rows<int64_t> beam_tokens;     // (B, W)
  Matrices<int64_t> beam_masks;  // (B, levels, W * words), W and words contiguous: bits of the draft's own tree rows
  int threads;
  Launch launch;
};

// Candidates before a level: W of the root, then W * W a level.
LTD_INLINE int64_t level_offset(int64_t level, int64_t width) {
  return level == 0 ? 0 : width + (level - 1) * width * width;
}

}  // namespace ltd
