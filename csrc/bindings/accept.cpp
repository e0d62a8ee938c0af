// Binds the walks through a tree, accept_greedy and accept_sample, and what samples and accepts a draft model's chains,
// draft_token and accept_chain.
#include "accept/accept.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <optional>
#include <tuple>

#include "accept/accept_chain.h"
#include "bindings/checks.h"
#include "bindings/device.h"
#include "bindings/noise.h"
#include "bindings/register.h"

namespace ltd {
namespace {

using at::Tensor;

TreeWalk tree_walk(const Tensors& tensors, const Tensor& logits, const Tensor& tokens, const Tensor& first_child,
                   const Tensor& next_sibling, const Tensor& path, const Tensor& gained_tokens, const Tensor& gained) {
  TreeWalk walk{};
  walk.logits = tensors.float_matrices({"logits", logits}, -1, -1);
  walk.batch = logits.size(0);
  walk.nodes = logits.size(1);
  walk.vocabulary = logits.size(2);
  LTD_CHECK(walk.nodes >= 1 && walk.vocabulary >= 1,
            "logits must have at least one row and one column, but its shape is ", logits.sizes());
  checked_count("rows of logits", {walk.batch, walk.nodes});
  walk.tokens = tensors.rows<const int64_t>({"tokens", tokens}, walk.batch, walk.nodes);
  walk.first_child = tensors.rows<const int32_t>({"first_child", first_child}, walk.batch, walk.nodes);
  walk.next_sibling = tensors.rows<const int32_t>({"next_sibling", next_sibling}, walk.batch, walk.nodes);
  walk.path = tensors.rows<int32_t>({"path", path}, walk.batch, -1);
  walk.path_capacity = path.size(1);
  walk.gained_tokens = tensors.rows<int64_t>({"gained_tokens", gained_tokens}, walk.batch, walk.path_capacity);
  walk.gained = tensors.per_row<int32_t>({"gained", gained}, walk.batch);
  walk.threads = at::get_num_threads();
  return walk;
}

void run_accept_greedy(const Tensor& logits, const Tensor& tokens, const Tensor& first_child,
                       const Tensor& next_sibling, Tensor path, Tensor gained_tokens, Tensor gained) {
  const Tensors tensors(logits.device());
  AcceptGreedy a{tree_walk(tensors, logits, tokens, first_child, next_sibling, path, gained_tokens, gained)};
  run<AcceptGreedy>(tensors.device(), LTD_KERNELS(accept_greedy), a, a.walk.launch);
}

// A chain's random numbers belong to a position of 64 bits.
constexpr int64_t kLargestPosition = INT64_MAX - kMaxSize;

// The walk through a tree has an operator of its own that is greedy.
enum class AtZero { kIsGreedy, kIsRefused };

SamplingParameters sampling_parameters(double temperature, int64_t top_k, double top_p, AtZero at_zero) {
  const bool may_be_zero = at_zero == AtZero::kIsGreedy;
  LTD_CHECK(
      (may_be_zero && temperature == 0) || (temperature >= kLeastTemperature && temperature <= kLargestTemperature),
      "temperature must be ", may_be_zero ? "0 (greedy) or " : "", kLeastTemperature, " to ", kLargestTemperature,
      ", but is ", temperature);
  LTD_CHECK(top_k >= 0, "top_k must be 0 (off) or more, but is ", top_k);
  LTD_CHECK(top_p > 0 && top_p <= 1, "top_p must be above 0 and at most 1 (off), but is ", top_p);
  return {static_cast<float>(temperature), top_k, top_p};
}

void check_places(const AcceptSample& a) {
  for (int64_t b = 0; b < a.walk.batch; ++b) {
    for (int64_t node = 0; node < a.walk.nodes; ++node) {
      LTD_CHECK(a.positions[b][node] >= 0 && a.positions[b][node] <= kLargestPlace, "positions[", b, ", ", node,
                "] must be 0 to ", kLargestPlace, ", but is ", a.positions[b][node]);
    }
  }
}

ChainDraws chain_draws(int64_t seed, int64_t cycle, int64_t position) {
  check_range("cycle", cycle, 0, kLargestRow);
  check_range("position", position, 0, kLargestPosition);
  return {static_cast<uint64_t>(seed), cycle, position};
}

void run_accept_sample(const Tensor& logits, const Tensor& tokens, const Tensor& first_child,
                       const Tensor& next_sibling, const Tensor& positions, const Tensor& rows, double temperature,
                       int64_t top_k, double top_p, const Tensor& seed, Tensor noise, Tensor places, Tensor path,
                       Tensor gained_tokens, Tensor gained) {
  const Tensors tensors(logits.device());
  AcceptSample a{};
  a.sampling = sampling_parameters(temperature, top_k, top_p, AtZero::kIsRefused);
  a.walk = tree_walk(tensors, logits, tokens, first_child, next_sibling, path, gained_tokens, gained);
  a.positions = tensors.rows<const int64_t>({"positions", positions}, a.walk.batch, a.walk.nodes);
  a.ring = noise_ring(tensors, noise, places, rows, seed, a.walk.batch, a.walk.vocabulary);
  if (tensors.are_on_cpu()) check_places(a);
  run<AcceptSample>(tensors.device(), LTD_KERNELS(accept_sample), a, a.walk.launch);
}

std::tuple<Tensor, Tensor> run_draft_token(const Tensor& logits, double temperature, int64_t top_k, double top_p,
                                           int64_t seed, int64_t cycle, int64_t position) {
  const Tensors tensors(logits.device());
  DraftToken a{};
  a.logits = tensors.float_rows({"logits", logits}, 1, -1);
  a.vocabulary = logits.size(1);
  LTD_CHECK(a.vocabulary >= 1, "logits must have at least one column, but its shape is ", logits.sizes());
  a.sampling = sampling_parameters(temperature, top_k, top_p, AtZero::kIsGreedy);
  a.draws = chain_draws(seed, cycle, position);
  a.threads = at::get_num_threads();
  Tensor token = at::empty({}, logits.options().dtype(at::kLong));
  Tensor chance = at::empty({}, logits.options().dtype(at::kFloat));
  a.token = written<int64_t>(token);
  a.chance = written<float>(chance);
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
  a.sampling = sampling_parameters(temperature, top_k, top_p, AtZero::kIsGreedy);
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
  a.draws = chain_draws(seed, cycle, position);
  a.threads = at::get_num_threads();
  Tensor result = at::empty({2}, drafted.options());
  a.result = written<int64_t>(result);
  run<AcceptChain>(tensors.device(), LTD_KERNELS(accept_chain), a, a.launch);
  return result;
}

Tensor accept_chain_meta(const Tensor&, const std::optional<Tensor>&, const std::optional<Tensor>&,
                         const Tensor& drafted, double, int64_t, double, int64_t, int64_t, int64_t) {
  return at::empty({2}, drafted.options());
}

}  // namespace
}  // namespace ltd

TORCH_LIBRARY_FRAGMENT(ltd, library) {
  ltd::define<ltd::run_accept_greedy>(
      library, "accept_greedy",
      "(Tensor logits, Tensor tokens, Tensor first_child, Tensor next_sibling, Tensor(a!) path, "
      "Tensor(b!) gained_tokens, Tensor(c!) gained) -> ()");
  ltd::define<ltd::run_accept_sample>(
      library, "accept_sample",
      "(Tensor logits, Tensor tokens, Tensor first_child, Tensor next_sibling, Tensor positions, "
      "Tensor rows, float temperature, int top_k, float top_p, Tensor seed, Tensor(a!) noise, Tensor(b!) places, "
      "Tensor(c!) path, Tensor(d!) gained_tokens, Tensor(e!) gained) -> ()");
  ltd::define<ltd::run_draft_token, ltd::draft_token_meta>(
      library, "draft_token",
      "(Tensor logits, float temperature, int top_k, float top_p, int seed, int cycle, int position) -> "
      "(Tensor, Tensor)");
  ltd::define<ltd::run_accept_chain, ltd::accept_chain_meta>(
      library, "accept_chain",
      "(Tensor logits, Tensor? draft_logits, Tensor? words, Tensor drafted, float temperature, int top_k, "
      "float top_p, int seed, int cycle, int position) -> Tensor");
}
