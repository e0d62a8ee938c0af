#include "accept/ranking.h"

#include <algorithm>
#include <functional>

namespace ltd {

float kth_largest(float* values, int64_t count, int64_t k) {
  std::nth_element(values, values + k - 1, values + count, std::greater<float>());
  return values[k - 1];
}

void sort_best_first(Candidate* candidates, int64_t count) {
  std::sort(candidates, candidates + count, [](const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
  });
}

}  // namespace ltd
