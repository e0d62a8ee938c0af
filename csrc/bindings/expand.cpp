// Binds expand_beam.
#include <ATen/Parallel.h>

#include <optional>

#include "bindings/checks.h"
#include "bindings/device.h"
#include "bindings/noise.h"
#include "bindings/register.h"
#include "expand/expand_beam.h"

namespace ltd {
namespace {

using at::Tensor;

// The beam before is of candidates of the level before, whose scores are read.
void check_beam(const ExpandBeam& a) {
  const int64_t first = level_offset(a.level - 1, a.width), last = level_offset(a.level, a.width) - 1;
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t row = 0; row < a.width; ++row) {
      const int32_t node = a.beam_nodes.at(b, a.level - 1)[row];
      LTD_CHECK(node >= first && node <= last, "beam_nodes[", b, ", ", a.level - 1, "] must be ", first, " to ", last,
                ", the candidates of that level, but holds ", node);
    }
  }
}

// The noise, which is given as a whole or not at all.
struct GivenNoise {
  const std::optional<Tensor>& noise;
  const std::optional<Tensor>& places;
  const std::optional<Tensor>& rows;
  const std::optional<Tensor>& seed;
  const std::optional<Tensor>& lengths;
};

void take_noise(const Tensors& tensors, const GivenNoise& given, ExpandBeam& a) {
  const int count = given.noise.has_value() + given.places.has_value() + given.rows.has_value() +
                    given.seed.has_value() + given.lengths.has_value();
  LTD_CHECK(count == 0 || count == 5, "noise, places, rows, seed and lengths must be given together, but only ", count,
            " of them are");
  if (count == 0) return;
  a.ring = noise_ring(tensors, *given.noise, *given.places, *given.rows, *given.seed, a.batch, -1);
  a.lengths = tensors.per_row<const int32_t>({"lengths", *given.lengths}, a.batch);
  for (int64_t b = 0; b < a.batch && tensors.are_on_cpu(); ++b) {
    LTD_CHECK(a.lengths[b] >= 0, "lengths[", b, "] must be 0 or more, but is ", a.lengths[b]);
  }
}

void check_factor(const char* name, double value) {
  LTD_CHECK(value >= kLeastTemperature && value <= kLargestTemperature, name, " must be ", kLeastTemperature, " to ",
            kLargestTemperature, ", but is ", value);
}

void run_expand_beam(const Tensor& logits, const std::optional<Tensor>& d2t, int64_t level, Tensor tokens,
                     Tensor scores, Tensor parents, Tensor beam_nodes, Tensor beam_rows, Tensor beam_tokens,
                     Tensor beam_masks, std::optional<Tensor> noise, std::optional<Tensor> places,
                     const std::optional<Tensor>& rows, const std::optional<Tensor>& seed,
                     const std::optional<Tensor>& lengths, double temperature, double sharpness) {
  const Tensors tensors(logits.device());
  LTD_CHECK(beam_tokens.dim() == 2, "beam_tokens must have 2 dimensions, but its shape is ", beam_tokens.sizes());
  const int64_t batch = beam_tokens.size(0);
  const int64_t width = beam_tokens.size(1);
  LTD_CHECK(width >= 1 && width <= kMaxBeamWidth, "the beam width, beam_tokens.size(1), must be 1 to ", kMaxBeamWidth,
            ", but is ", width);
  LTD_CHECK(level >= 0 && level <= kMaxDepth, "level must be 0 to ", kMaxDepth, ", but is ", level);
  const int64_t logit_rows = level == 0 ? 1 : width;
  checked_count("beam rows", {batch, logit_rows});
  ExpandBeam a{};
  a.logits = tensors.float_matrices({"logits", logits}, batch, logit_rows);
  a.vocabulary = logits.size(2);
  LTD_CHECK(a.vocabulary >= width, "logits must have at least as many columns as the beam is wide, ", width,
            ", but its shape is ", logits.sizes());
  if (d2t.has_value()) a.d2t = tensors.checked<const int64_t>({"d2t", *d2t}, {a.vocabulary});
  a.batch = batch;
  a.rows = logit_rows;
  a.level = level;
  a.width = width;
  a.tokens = tensors.rows<int64_t>({"tokens", tokens}, batch, -1);
  const int64_t candidates = tokens.size(1);
  const int64_t needed = level_offset(level, width) + logit_rows * width;
  LTD_CHECK(candidates >= needed && candidates <= kMaxCandidates, "tokens must have ", needed, " to ", kMaxCandidates,
            " columns for level ", level, " of width ", width, ", but its shape is ", tokens.sizes());
  a.scores = tensors.rows<float>({"scores", scores}, batch, candidates);
  a.parents = tensors.rows<int32_t>({"parents", parents}, batch, candidates);
  a.beam_nodes = tensors.matrices<int32_t>({"beam_nodes", beam_nodes}, batch, -1, width);
  const int64_t levels = beam_nodes.size(1);
  LTD_CHECK(levels > level, "beam_nodes must have more than ", level, " levels, but its shape is ", beam_nodes.sizes());
  a.beam_rows = tensors.rows<int64_t>({"beam_rows", beam_rows}, batch, width);
  a.beam_tokens = tensors.rows<int64_t>({"beam_tokens", beam_tokens}, batch, width);
  int64_t* masks = tensors.checked<int64_t>({"beam_masks", beam_masks}, {batch, levels, width, -1});
  a.words = beam_masks.size(3);
  LTD_CHECK(a.words * 64 >= (level + 1) * width && (width == 1 || beam_masks.stride(2) == a.words),
            "beam_masks must hold a bit for each of the ", (level + 1) * width,
            " tree rows and be contiguous in its last two dimensions, but its shape is ", beam_masks.sizes(),
            " and its strides are ", beam_masks.strides());
  a.beam_masks = {masks, beam_masks.stride(0), beam_masks.stride(1)};
  check_factor("temperature", temperature);
  check_factor("sharpness", sharpness);
  a.rate = 1.0f / static_cast<float>(temperature);
  a.sharpness = static_cast<float>(sharpness);
  take_noise(tensors, {noise, places, rows, seed, lengths}, a);
  a.threads = at::get_num_threads();
  if (level > 0 && tensors.are_on_cpu()) check_beam(a);
  run<ExpandBeam>(tensors.device(), LTD_KERNELS(expand_beam), a, a.launch);
}

}  // namespace
}  // namespace ltd

TORCH_LIBRARY_FRAGMENT(ltd, library) {
  ltd::define<ltd::run_expand_beam>(
      library, "expand_beam",
      "(Tensor logits, Tensor? d2t, int level, Tensor(a!) tokens, Tensor(b!) scores, Tensor(c!) parents, "
      "Tensor(d!) beam_nodes, Tensor(e!) beam_rows, Tensor(f!) beam_tokens, Tensor(g!) beam_masks, "
      "Tensor(h!)? noise=None, Tensor(i!)? places=None, Tensor? rows=None, Tensor? seed=None, Tensor? lengths=None, "
      "float temperature=1.0, float sharpness=1.0) -> ()");
}
