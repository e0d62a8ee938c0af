// expand_beam: one more level of the draft tree.
//
// Every beam row's draft logits give its W best children; a child's score is its parent's score plus its
// log-probability under the softmax over the draft vocabulary. The best W of the new candidates become the next beam.
// Equal logits go to the smaller draft id, equal scores to the smaller candidate index. NaN logits count as -inf; a
// log-probability that is not a number (no finite logit, or an infinite one) counts as -inf.
//
// In place of its logit an id may have the value logit / temperature + noise, the noise being that of the target's
// token at the level's position: the very one with which the target's token is sampled there (accept/accept.h). An id
// whose token lies outside of the noise's vocabulary has the value -inf. The softmax is that of sharpness * value.
#pragma once

#include "common/types.h"
#include "noise/place_noise.h"

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
  const int32_t* lengths;        // (B), positions of the roots; null: there is no noise
  NoiseRing ring;                // of lengths[b] + level, where there is noise
  float rate = 1.0f;             // 1 / temperature
  float sharpness = 1.0f;
  int threads;
  Launch launch;
};

// The target's token that draft id `id` stands for. Offsets that are rubbish give tokens that are: the sum wraps.
LTD_INLINE int64_t target_token(int64_t id, int64_t offset) {
  return static_cast<int64_t>(static_cast<uint64_t>(id) + static_cast<uint64_t>(offset));
}

// Candidates before a level: W of the root, then W * W a level.
LTD_INLINE int64_t level_offset(int64_t level, int64_t width) {
  return level == 0 ? 0 : width + (level - 1) * width * width;
}

}  // namespace ltd
