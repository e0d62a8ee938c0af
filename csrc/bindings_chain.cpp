// The part of the torch operator library `ltd` that samples and accepts chains of a draft model.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>
#include <optional>
#include <tuple>

#include "accept/accept_chain.h"
#include "bindings_checks.h"
#include "common/cpu_kernels.h"

namespace ltd {
namespace {

using at::Tensor;

Warp checked_warp(double temperature, int64_t top_k, double top_p) {
  LTD_CHECK(temperature >= 0 && temperature < INFINITY,
            "temperature must be 0 (greedy) or positive and finite, but is ", temperature);
  LTD_CHECK(top_k >= 0, "top_k must be 0 (off) or more, but is ", top_k);
  LTD_CHECK(top_p > 0 && top_p <= 1, "top_p must be above 0 and at most 1 (off), but is ", top_p);
  return {static_cast<float>(temperature), top_k, top_p};
}

// (R, n) as (1, R, n).
AnyMatrices float_rows(const Named& a, int64_t count, int64_t columns) {
  check_cpu(a);
  const DType dtype = float_type(a);
  check_sizes(a, {count, columns});
  check_last_contiguous(a);
  return {a.tensor.const_data_ptr(), dtype, 0, a.tensor.stride(0)};
}

std::tuple<Tensor, Tensor> draft_token_cpu(const Tensor& logits, double temperature, int64_t top_k, double top_p,
                                           int64_t seed, int64_t cycle, int64_t position) {
  DraftToken a{};
  a.logits = float_rows({"logits", logits}, 1, -1);
  a.vocabulary = logits.size(1);
  LTD_CHECK(a.vocabulary >= 1, "logits must have at least one column, but its shape is ", logits.sizes());
  a.warp = checked_warp(temperature, top_k, top_p);
  a.draws = {static_cast<uint64_t>(seed), cycle, position};
  a.threads = at::get_num_threads();
  Tensor token = at::empty({}, logits.options().dtype(at::kLong));
  Tensor chance = at::empty({}, logits.options().dtype(at::kFloat));
  a.token = token.mutable_data_ptr<int64_t>();
  a.chance = chance.mutable_data_ptr<float>();
  cpu_kernels().draft_token(a);
  return {token, chance};
}

std::tuple<Tensor, Tensor> draft_token_meta(const Tensor& logits, double, int64_t, double, int64_t, int64_t, int64_t) {
  return {at::empty({}, logits.options().dtype(at::kLong)), at::empty({}, logits.options().dtype(at::kFloat))};
}

Tensor accept_chain_cpu(const Tensor& logits, const std::optional<Tensor>& draft_logits,
                        const std::optional<Tensor>& words, const Tensor& drafted, double temperature, int64_t top_k,
                        double top_p, int64_t seed, int64_t cycle, int64_t position) {
  AcceptChain a{};
  a.drafted = checked<const int64_t>({"drafted", drafted}, {-1});
  a.count = drafted.size(0);
  a.logits = float_rows({"logits", logits}, a.count + 1, -1);
  a.vocabulary = logits.size(1);
  LTD_CHECK(a.vocabulary >= 1, "logits must have at least one column, but its shape is ", logits.sizes());
  a.warp = checked_warp(temperature, top_k, top_p);
  a.draft_vocabulary = words.has_value() ? words->numel() : a.vocabulary;
  if (words.has_value()) {
    a.words = checked<const int64_t>({"words", *words}, {-1});
    for (int64_t i = 0; i < a.draft_vocabulary; ++i) {
      LTD_CHECK(a.words[i] >= 0 && a.words[i] < a.vocabulary, "words[", i, "] must be 0 to ", a.vocabulary - 1,
                ", but is ", a.words[i]);
    }
  }
  for (int64_t i = 0; i < a.count; ++i) {
    LTD_CHECK(a.drafted[i] >= 0 && a.drafted[i] < a.draft_vocabulary, "drafted[", i, "] must be 0 to ",
              a.draft_vocabulary - 1, ", but is ", a.drafted[i]);
  }
  if (temperature > 0 && a.count > 0) {
    LTD_CHECK(draft_logits.has_value(), "draft_logits must be given to sample");
    checked_like({"draft_logits", *draft_logits}, {"logits", logits}, {a.count, a.draft_vocabulary});
    a.draft_logits = float_rows({"draft_logits", *draft_logits}, a.count, a.draft_vocabulary);
  }
  a.draws = {static_cast<uint64_t>(seed), cycle, position};
  a.threads = at::get_num_threads();
  Tensor result = at::empty({2}, drafted.options());
  a.result = result.mutable_data_ptr<int64_t>();
  cpu_kernels().accept_chain(a);
  return result;
}

Tensor accept_chain_meta(const Tensor&, const std::optional<Tensor>&, const std::optional<Tensor>&,
                         const Tensor& drafted, double, int64_t, double, int64_t, int64_t, int64_t) {
  return at::empty({2}, drafted.options());
}

}  // namespace
}  // namespace ltd

TORCH_LIBRARY_FRAGMENT(ltd, library) {
  library.def(
      "draft_token(Tensor logits, float temperature, int top_k, float top_p, int seed, int cycle, int position) -> "
      "(Tensor, Tensor)");
  library.def(
      "accept_chain(Tensor logits, Tensor? draft_logits, Tensor? words, Tensor drafted, float temperature, int top_k, "
      "float top_p, int seed, int cycle, int position) -> Tensor");
}

TORCH_LIBRARY_IMPL(ltd, CPU, library) {
  library.impl("draft_token", ltd::draft_token_cpu);
  library.impl("accept_chain", ltd::accept_chain_cpu);
}

TORCH_LIBRARY_IMPL(ltd, Meta, library) {
  library.impl("draft_token", ltd::draft_token_meta);
  library.impl("accept_chain", ltd::accept_chain_meta);
}
