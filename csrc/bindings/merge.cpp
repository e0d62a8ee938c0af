// Binds merge_text.

#include "bindings/checks.h"
#include "bindings/device.h"
#include "bindings/register.h"
#include "lookup/merge_text.h"

namespace ltd {
namespace {

using at::Tensor;

void check_text(const MergeText& a) {
  for (int64_t b = 0; b < a.batch; ++b) {
    LTD_CHECK(a.text_counts[b] >= 0 && a.text_counts[b] <= a.text, "text_counts[", b, "] must be 0 to ", a.text,
              ", the size of text_tokens in dimension 1, but is ", a.text_counts[b]);
    for (int32_t i = 0; i < a.text_counts[b]; ++i) {
      const int32_t parent = a.text_parents[b][i];
      LTD_CHECK(parent >= -1 && parent < i, "text_parents[", b, "] must hold -1 for the root or a place before, but ",
                "holds ", parent, " at ", i);
    }
  }
}

void run_merge_text(const Tensor& text_tokens, const Tensor& text_parents, const Tensor& text_scores,
                    const Tensor& text_counts, int64_t candidates, const Tensor& roots, Tensor tokens, Tensor scores,
                    Tensor parents, Tensor sources, Tensor appended) {
  const Tensors tensors(text_tokens.device());
  MergeText a{};
  a.text_tokens = tensors.rows<const int64_t>({"text_tokens", text_tokens}, -1, -1);
  a.batch = text_tokens.size(0);
  a.text = text_tokens.size(1);
  LTD_CHECK(a.text <= kMaxText, "text_tokens must have at most ", kMaxText, " columns, but its shape is ",
            text_tokens.sizes());
  a.text_parents = tensors.rows<const int32_t>({"text_parents", text_parents}, a.batch, a.text);
  a.text_scores = tensors.rows<const float>({"text_scores", text_scores}, a.batch, a.text);
  a.text_counts = tensors.per_row<const int32_t>({"text_counts", text_counts}, a.batch);
  a.roots = tensors.per_row<const int64_t>({"roots", roots}, a.batch);
  a.tokens = tensors.rows<int64_t>({"tokens", tokens}, a.batch, -1);
  const int64_t columns = tokens.size(1), most = at_most(columns, kMaxCandidates) - a.text;
  LTD_CHECK(columns >= a.text, "tokens must have a column for each of the ", a.text,
            " candidates of the text, but its shape is ", tokens.sizes());
  LTD_CHECK(candidates >= 0 && candidates <= most, "candidates must be 0 to ", most, ", so that ", a.text,
            " of the text fit behind them, but is ", candidates);
  a.candidates = candidates;
  a.scores = tensors.rows<float>({"scores", scores}, a.batch, columns);
  a.parents = tensors.rows<int32_t>({"parents", parents}, a.batch, columns);
  a.sources = tensors.rows<int8_t>({"sources", sources}, a.batch, columns);
  a.appended = tensors.per_row<int32_t>({"appended", appended}, a.batch);
  if (tensors.are_on_cpu()) check_text(a);
  run<MergeText>(tensors.device(), LTD_KERNELS(merge_text), a, a.launch);
}

}  // namespace
}  // namespace ltd

TORCH_LIBRARY_FRAGMENT(ltd, library) {
  ltd::define<ltd::run_merge_text>(
      library, "merge_text",
      "(Tensor text_tokens, Tensor text_parents, Tensor text_scores, Tensor text_counts, int candidates, "
      "Tensor roots, Tensor(a!) tokens, Tensor(b!) scores, Tensor(c!) parents, Tensor(d!) sources, "
      "Tensor(e!) appended) -> ()");
}
