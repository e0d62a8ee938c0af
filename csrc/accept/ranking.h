// Order statistics for top-k and top-p, independent of the instruction set.
#pragma once

#include <cstdint>

namespace ltd {

// A token near the edge of the nucleus.
struct Candidate {
  float logit;
  int32_t id;
  double weight;  // proportional to its probability
};

// The k-th largest of `count` values, 1 <= k <= count; reorders them.
float kth_largest(float* values, int64_t count, int64_t k);

// Puts candidates in order, best first: larger logit, then smaller id.
void sort_best_first(Candidate* candidates, int64_t count);

}  // namespace ltd
