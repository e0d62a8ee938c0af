// Binds select_tree.

#include "bindings/checks.h"
#include "bindings/device.h"
#include "bindings/register.h"
#include "select/select_tree.h"

namespace ltd {
namespace {

using at::Tensor;

void run_select_tree(const Tensor& tokens, const Tensor& scores, const Tensor& parents, int64_t candidates,
                     const Tensor& roots, const Tensor& lengths, Tensor node_tokens, Tensor node_parents,
                     Tensor positions, Tensor masks, Tensor first_child, Tensor next_sibling, Tensor node_candidates) {
  const Tensors tensors(tokens.device());
  SelectTree a{};
  a.node_tokens = tensors.rows<int64_t>({"node_tokens", node_tokens}, -1, -1);
  a.batch = node_tokens.size(0);
  a.nodes = node_tokens.size(1);
  a.candidates = candidates;
  a.tokens = tensors.rows<const int64_t>({"tokens", tokens}, a.batch, -1);
  const int64_t columns = tokens.size(1);
  LTD_CHECK(candidates >= 0 && candidates <= columns && candidates <= kMaxCandidates, "candidates must be 0 to ",
            columns < kMaxCandidates ? columns : kMaxCandidates, ", but is ", candidates);
  LTD_CHECK(a.nodes >= 1 && a.nodes <= kMaxNodes && a.nodes <= candidates + 1,
            "node_tokens must have 1 column for the root and at most ", candidates, " (and at most ", kMaxNodes - 1,
            ") for candidates, but its shape is ", node_tokens.sizes());
  a.scores = tensors.rows<const float>({"scores", scores}, a.batch, columns);
  a.parents = tensors.rows<const int32_t>({"parents", parents}, a.batch, columns);
  a.roots = tensors.per_row<const int64_t>({"roots", roots}, a.batch);
  a.lengths = tensors.per_row<const int32_t>({"lengths", lengths}, a.batch);
  a.node_parents = tensors.rows<int32_t>({"node_parents", node_parents}, a.batch, a.nodes);
  a.positions = tensors.rows<int64_t>({"positions", positions}, a.batch, a.nodes);
  a.masks = tensors.matrices<int64_t>({"masks", masks}, a.batch, a.nodes, -1);
  a.words = masks.size(2);
  LTD_CHECK(a.words * 64 >= a.nodes, "masks must hold a bit for each of the ", a.nodes, " nodes, but its shape is ",
            masks.sizes());
  a.first_child = tensors.rows<int32_t>({"first_child", first_child}, a.batch, a.nodes);
  a.next_sibling = tensors.rows<int32_t>({"next_sibling", next_sibling}, a.batch, a.nodes);
  a.node_candidates = tensors.rows<int32_t>({"node_candidates", node_candidates}, a.batch, a.nodes);
  int64_t orphan = -1;
  if (tensors.are_on_cpu()) a.orphan = &orphan;
  run<SelectTree>(tensors.device(), LTD_KERNELS(select_tree), a, a.launch);
  LTD_CHECK(orphan < 0, "candidate ", orphan,
            " was selected without its parent: a parent must have a smaller index than ",
            "its children, or -1 for the root, and scores must not rise from parent to child");
}

}  // namespace
}  // namespace ltd

TORCH_LIBRARY_FRAGMENT(ltd, library) {
  ltd::define<ltd::run_select_tree>(
      library, "select_tree",
      "(Tensor tokens, Tensor scores, Tensor parents, int candidates, Tensor roots, Tensor lengths, "
      "Tensor(a!) node_tokens, Tensor(b!) node_parents, Tensor(c!) positions, Tensor(d!) masks, "
      "Tensor(e!) first_child, Tensor(f!) next_sibling, Tensor(g!) node_candidates) -> ()");
}
