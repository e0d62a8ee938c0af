// merge_text: the text's candidates beside the draft head's, in the head's buffers.
//
// For every candidate of the text, in their order: if the head has one of the same token below the same parent, the
// first such is both of them, and gets the better of the two scores. Else the text's is appended behind the head's. So
// below an appended one all are appended. NaN scores count as -inf, and are written so.
//
// What the text leaves of its columns is filled with the root's token below the root, scored -inf. Scores that do not
// rise from parent to child, in either of the two, do not rise afterwards; and parents stand before their children.
#pragma once

#include "common/types.h"

namespace ltd {

// Who proposed a candidate; that of a column which only fills up is 0.
inline constexpr int8_t kFromHead = 1;
inline constexpr int8_t kFromText = 2;
inline constexpr int8_t kFromBoth = 3;

struct MergeText {
  Rows<const int64_t> text_tokens;   // (B, T)
  Rows<const int32_t> text_parents;  // (B, T), places of the text's candidates before, -1 = root
  Rows<const float> text_scores;     // (B, T)
  const int32_t* text_counts;        // (B), how many candidates of the text there are
  const int64_t* roots;              // (B)
  int64_t batch;                     // B
  int64_t text;                      // T <= kMaxText
  int64_t candidates;                // the head's: the first columns; with T more, at most kMaxCandidates
  Rows<int64_t> tokens;              // (B, C), C >= candidates + T
  Rows<float> scores;                // (B, C)
  Rows<int32_t> parents;             // (B, C), columns, -1 = root
  Rows<int8_t> sources;              // (B, C), who proposed it
  int32_t* appended;                 // (B), how many of the text stand behind the head's
  Launch launch;
};

}  // namespace ltd
