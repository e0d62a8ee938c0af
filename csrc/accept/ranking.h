// Order statistics for top-k and top-p, independent of the instruction set.
#pragma once

#include <cstdint>

namespace ltd {

// A token that may be drawn.
struct Candidate {
  float logit;
  int32_t id;
  double weight;  // proportional to its probability
};

// The k-th largest of `count` values, 1 <= k <= count; reorders them.
float kth_largest(float* values, int64_t count, int64_t k);

// Moves the candidates that top-p keeps to the front and returns their number, at least 1: best first, until their weights reach
// `mass`. Better = larger logit, then smaller id. The order of the rest, and among the kept, is left open.
int64_t keep_nucleus(Candidate* candidates, int64_t count, double mass);

void sort_by_id(Candidate* candidates, int64_t count);

}  // namespace ltd
