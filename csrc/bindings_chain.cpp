// The part of the torch operator library `ltd` that samples and accepts chains of a draft model.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>
#include <optional>
#include <tuple>

#include "accept/accept_chain.h"
#include "bindings_checks.h"
#include "bindings_device.h"

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

std::tuple<Tensor, Tensor> run_draft_token(const Tensor& logits, double temperature, int64_t top_k, double top_p,
                                           int64_t seed, int64_t cycle, int64_t position) {
  const Tensors tensors(logits.device());
  DraftToken a{};
  a.logits = tensors.float_rows({"logits", logits}, 1, -1);
  a.vocabulary = logits.size(1);
  LTD_CHECK(a.vocabulary >= 1, "logits must have at least one column, but its shape is ", logits.sizes());
  a.warp = checked_warp(temperature, top_k, top_p);
  a.draws = {static_cast<uint64_t>(seed), cycle, position};
  a.threads = at::get_num_threads();
  Tensor token = at::empty({}, logits.options().dtype(at::kLong));
  Tensor chance = at::empty({}, logits.options().dtype(at::kFloat));
  a.token = token.mutable_data_ptr<int64_t>();
  a.chance = chance.mutable_data_ptr<float>();
  run<DraftToken>(tensors.device(), LTD_KERNELS(draft_token), a, a.launch);
  return {token, chance};
}

std::tuple<Tensor, Tensor> draft_token_meta(const Tensor& logits, double, int64_t, double, int64_t, int64_t, int64_t) {
  return {at::empty({}, logits.options().dtype(at::kLong)), at::empty({}, logits.options().dtype(at::kFloat))};
}

void check_ids(const AcceptChain& a) {
  for (int64_t i = 0; a.words != nullptr && i < a.draft_vocabulary; ++i) {
    LTD_CHECK(a.words[i] >= 0 && a.words[i] < a.vocabulary, "words[", i, "] must be 0 to ", a.vocabulary - 1,
              ", but is ", a.words[i]);
  }
  for (int64_t i = 0; i < a.count; ++i) {
    LTD_CHECK(a.drafted[i] >= 0 && a.drafted[i] < a.draft_vocabulary, "drafted[", i, "] must be 0 to ",
              a.draft_vocabulary - 1, ", but is ", a.drafted[i]);
  }
}

Tensor run_accept_chain(const Tensor& logits, const std::optional<Tensor>& draft_logits,
                        const std::optional<Tensor>& words, const Tensor& drafted, double temperature, int64_t top_k,
                        double top_p, int64_t seed, int64_t cycle, int64_t position) {
  const Tensors tensors(logits.device());
  AcceptChain a{};
  a.drafted = tensors.checked<const int64_t>({"drafted", drafted}, {-1});
  a.count = drafted.size(0);
  a.logits = tensors.float_rows({"logits", logits}, a.count + 1, -1);
  a.vocabulary = logits.size(1);
  LTD_CHECK(a.vocabulary >= 1, "logits must have at least one column, but its shape is ", logits.sizes());
  a.warp = checked_warp(temperature, top_k, top_p);
  a.draft_vocabulary = words.has_value() ? words->numel() : a.vocabulary;
  if (words.has_value()) {
    a.words = tensors.checked<const int64_t>({"words", *words}, {-1});
  }
  if (tensors.are_on_cpu()) check_ids(a);
  if (temperature > 0 && a.count > 0) {
    LTD_CHECK(draft_logits.has_value(), "draft_logits must be given to sample");
    tensors.checked_like({"draft_logits", *draft_logits}, {"logits", logits}, {a.count, a.draft_vocabulary});
    a.draft_logits = tensors.float_rows({"draft_logits", *draft_logits}, a.count, a.draft_vocabulary);
  }
  a.draws = {static_cast<uint64_t>(seed), cycle, position};
  a.threads = at::get_num_threads();
  Tensor result = at::empty({2}, drafted.options());
  a.result = result.mutable_data_ptr<int64_t>();
  run<AcceptChain>(tensors.device(), LTD_KERNELS(accept_chain), a, a.launch);
  return result;
}

Tensor accept_chain_meta(const Tensor&, const std::optional<Tensor>&, const std::optional<Tensor>&,
                         const Tensor& drafted, double, int64_t, double, int64_t, int64_t, int64_t) {
  return at::empty({2}, drafted.options());
}

// For every device.
void implement(torch::Library& library) {
  library.impl("draft_token", run_draft_token);
  library.impl("accept_chain", run_accept_chain);
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

TORCH_LIBRARY_IMPL(ltd, CPU, library) { ltd::implement(library); }

#ifdef LTD_WITH_CUDA
TORCH_LIBRARY_IMPL(ltd, CUDA, library) { ltd::implement(library); }
#endif

TORCH_LIBRARY_IMPL(ltd, Meta, library) {
  library.impl("draft_token", ltd::draft_token_meta);
  library.impl("accept_chain", ltd::accept_chain_meta);
}
