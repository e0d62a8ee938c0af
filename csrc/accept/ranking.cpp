#include "accept/ranking.h"

#include <algorithm>
#include <functional>

namespace ltd {
namespace {

// Fewer candidates are sorted at once.
constexpr int64_t kSortAtMost = 256;

bool better(const Candidate& a, const Candidate& b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

}  // namespace

float kth_largest(float* values, int64_t count, int64_t k) {
  std::nth_element(values, values + k - 1, values + count, std::greater<float>());
  return values[k - 1];
}

int64_t keep_nucleus(Candidate* candidates, int64_t count, double mass) {
  Candidate* first = candidates;
  Candidate* last = candidates + count;
  double before = 0.0;  // weight of everything in front of `first`, which is kept
  while (last - first > kSortAtMost) {
    Candidate* middle = first + (last - first) / 2;
    std::nth_element(first, middle, last, better);
    double half = 0.0;
    for (const Candidate* c = first; c != middle; ++c) half += c->weight;
    if (before + half < mass) {
      before += half;
      first = middle;
    } else {
      last = middle;
    }
  }
  std::sort(first, last, better);
  while (first != last && before < mass) before += (first++)->weight;
  return std::max<int64_t>(first - candidates, 1);
}

void sort_by_id(Candidate* candidates, int64_t count) {
  std::sort(candidates, candidates + count, [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
}

}  // namespace ltd
