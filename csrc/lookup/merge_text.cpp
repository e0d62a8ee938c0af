#include "lookup/merge_text.h"

#include <algorithm>
#include <cmath>

namespace ltd {
namespace {

// The head's candidates by their parents, each list ascending; -1 ends it.
struct Children {
  int32_t first[1 + kMaxCandidates];  // of the root, then of every candidate
  int32_t next[kMaxCandidates];

  Children(const MergeText& a, int64_t b) {
    const auto count = static_cast<int32_t>(a.candidates);
    std::fill_n(first, 1 + count, -1);
    for (int32_t c = count - 1; c >= 0; --c) {
      const int32_t parent = a.parents[b][c];
      if (parent < -1 || parent >= count) continue;  // nothing is looked for there
      next[c] = first[1 + parent];
      first[1 + parent] = c;
    }
  }
};

float number(float score) { return std::isnan(score) ? -INFINITY : score; }

// The first of the head's candidates of that token below a parent, or -1.
int32_t find(const MergeText& a, int64_t b, const Children& children, int32_t parent, int64_t token) {
  int32_t c = children.first[1 + parent];
  while (c >= 0 && a.tokens[b][c] != token) c = children.next[c];
  return c;
}

void write(const MergeText& a, int64_t b, int64_t column, int64_t token, float score, int32_t parent, int8_t source) {
  a.tokens[b][column] = token;
  a.scores[b][column] = score;
  a.parents[b][column] = parent;
  a.sources[b][column] = source;
}

// Returns the column behind the last one.
int64_t merge_candidates(const MergeText& a, int64_t b) {
  const Children children(a, b);
  int32_t columns[kMaxText];  // of the text's candidates
  auto end = static_cast<int32_t>(a.candidates);
  for (int32_t i = 0; i < a.text_counts[b]; ++i) {
    const int32_t text_parent = a.text_parents[b][i];
    const int32_t parent = text_parent < 0 ? -1 : columns[text_parent];
    const int64_t token = a.text_tokens[b][i];
    const float score = number(a.text_scores[b][i]);
    const int32_t found = parent < a.candidates ? find(a, b, children, parent, token) : -1;
    columns[i] = found < 0 ? end : found;
    if (found < 0) {
      write(a, b, end++, token, score, parent, kFromText);
    } else {
      a.scores[b][found] = std::max(number(a.scores[b][found]), score);
      a.sources[b][found] = kFromBoth;
    }
  }
  return end;
}

}  // namespace

void merge_text(const MergeText& a) {
  for (int64_t b = 0; b < a.batch; ++b) {
    std::fill_n(a.sources[b], a.candidates, kFromHead);
    const int64_t end = a.text_counts[b] == 0 ? a.candidates : merge_candidates(a, b);
    for (int64_t c = end; c < a.candidates + a.text; ++c) write(a, b, c, a.roots[b], -INFINITY, -1, 0);
    a.appended[b] = static_cast<int32_t>(end - a.candidates);
  }
}

}  // namespace ltd
