#include "accept/accept_chain.h"

#include "accept/distribution.h"
#include "noise/philox.h"

namespace ltd::LTD_ISA {
namespace {

thread_local Buffers target_buffers;
thread_local Buffers draft_buffers;

// The random number for the token that row `row` of the chain's logits decides about.
double uniform(const ChainDraws& draws, int64_t row, RandomStream stream) {
  return sampling_uniform(draws.seed, draws.position + row, draws.cycle, stream);
}

int64_t target_id(const AcceptChain& a, int64_t draft_id) { return a.words == nullptr ? draft_id : a.words[draft_id]; }

// Makes p the weights of max(p - q, 0).
template <typename T>
void subtract(const AcceptChain& a, const Row<T>& row, Weights& p, const Row<T>& draft_row, const Weights& q) {
  const double scale = p.total / q.total;
  for (int64_t chunk = 0; chunk < draft_row.chunks(); ++chunk) {
    if (q.chunk_sums[chunk] == 0.0) continue;
    for (int64_t i = draft_row.begin(chunk); i < draft_row.end(chunk); ++i) {
      const int64_t id = target_id(a, i);
      if (q.values[i] == 0.0f || p.of(id) == 0.0f) continue;
      const double rest = p.values[id] - scale * q.values[i];
      p.values[id] = rest > 0.0 ? static_cast<float>(rest) : 0.0f;
    }
  }
  drop_below(row, -kInfinity, p);  // adds up anew
}

// What follows row i of the target's logits: the drafted token if it is kept, else another one.
template <typename T>
int64_t next_token(const AcceptChain& a, const Row<T>& row, int64_t i) {
  if (a.sampling.temperature == 0.0f) return first_peak(row);
  Weights p = weights_of(row, a.sampling, target_buffers);
  if (i == a.count) return draw(row, p, uniform(a.draws, i, kTargetStream));
  const Row<T> draft_row = read_row(a.draft_logits.at<T>(0, i), a.draft_vocabulary, a.threads, draft_buffers);
  // Nothing can have been drawn from such a row: the drafted token does not count.
  if (!draft_row.valid) return draw(row, p, uniform(a.draws, i, kTargetStream));
  const Weights q = weights_of(draft_row, a.sampling, draft_buffers);
  const int64_t drafted = target_id(a, a.drafted[i]);
  // u < p(x) / q(x), with both distributions' sums multiplied out.
  const double threshold = p.of(drafted) * q.total;
  if (uniform(a.draws, i, kAcceptanceStream) * q.of(a.drafted[i]) * p.total < threshold) return drafted;
  subtract(a, row, p, draft_row, q);
  // Nothing is left where p and q are the same but for rounding.
  return p.total > 0.0 ? draw(row, p, uniform(a.draws, i, kResidualStream)) : drafted;
}

}  // namespace

void draft_token(const DraftToken& a) {
  with_type(a.logits.dtype, [&](auto type) {
    using T = decltype(type);
    const Row<T> row = read_row(a.logits.at<T>(0, 0), a.vocabulary, a.threads, draft_buffers);
    *a.token = -1;
    *a.chance = 0.0f;
    if (!row.valid) return;
    const bool greedy = a.sampling.temperature == 0.0f;
    const Weights weights = weights_of(row, greedy ? SamplingParameters{1.0f, 0, 1.0} : a.sampling, draft_buffers);
    *a.token = greedy ? first_peak(row) : draw(row, weights, uniform(a.draws, 0, kDraftStream));
    *a.chance = static_cast<float>(weights.of(*a.token) / weights.total);
  });
}

void accept_chain(const AcceptChain& a) {
  with_type(a.logits.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t i = 0;; ++i) {
      const Row<T> row = read_row(a.logits.at<T>(0, i), a.vocabulary, a.threads, target_buffers);
      const int64_t token = row.valid ? next_token(a, row, i) : -1;
      if (i < a.count && token == target_id(a, a.drafted[i])) continue;
      a.result[0] = i;
      a.result[1] = token;
      return;
    }
  });
}

}  // namespace ltd::LTD_ISA
