// The torch operator library `ltd`: checks arguments, fills argument structs and calls the kernels. Only bindings
// include torch.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <optional>
#include <string>
#include <vector>

#include "accept/accept.h"
#include "attention/tree_attention.h"
#include "bindings_checks.h"
#include "bindings_device.h"
#include "commit/commit_path.h"
#include "entropy/row_entropy.h"
#include "expand/expand_beam.h"
#include "select/select_tree.h"

namespace ltd {
namespace {

using at::Tensor;

int threads() { return at::get_num_threads(); }

void run_expand_beam(const Tensor& logits, const std::optional<Tensor>& d2t, int64_t level, Tensor tokens,
                     Tensor scores, Tensor parents, Tensor beam_nodes, Tensor beam_rows, Tensor beam_tokens,
                     Tensor beam_masks) {
  const Tensors tensors(logits.device());
  LTD_CHECK(beam_tokens.dim() == 2, "beam_tokens must have 2 dimensions, but its shape is ", beam_tokens.sizes());
  const int64_t batch = beam_tokens.size(0);
  const int64_t width = beam_tokens.size(1);
  LTD_CHECK(width >= 1 && width <= kMaxBeamWidth, "the beam width, beam_tokens.size(1), must be 1 to ", kMaxBeamWidth,
            ", but is ", width);
  LTD_CHECK(level >= 0 && level <= kMaxDepth, "level must be 0 to ", kMaxDepth, ", but is ", level);
  const int64_t logit_rows = level == 0 ? 1 : width;
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
  a.threads = threads();
  run<ExpandBeam>(tensors.device(), LTD_KERNELS(expand_beam), a, a.launch);
}

Tensor run_row_entropy(const Tensor& logits) {
  const Tensors tensors(logits.device());
  RowEntropy a{};
  a.logits = tensors.float_matrices({"logits", logits}, -1, -1);
  a.batch = logits.size(0);
  a.rows = logits.size(1);
  a.vocabulary = logits.size(2);
  LTD_CHECK(a.vocabulary >= 1, "logits must have at least one column, but its shape is ", logits.sizes());
  Tensor entropies = at::empty({a.batch, a.rows}, logits.options().dtype(at::kFloat));
  a.entropies = {entropies.mutable_data_ptr<float>(), a.rows};
  a.threads = threads();
  run<RowEntropy>(tensors.device(), LTD_KERNELS(row_entropy), a, a.launch);
  return entropies;
}

Tensor row_entropy_meta(const Tensor& logits) {
  return at::empty_symint({logits.sym_size(0), logits.sym_size(1)}, logits.options().dtype(at::kFloat));
}

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
  if (!tensors.are_on_cpu()) {
    run_on_device<SelectTree>(tensors.device(), LTD_DEVICE_KERNELS(select_tree), a, a.launch);
    return;
  }
  const int64_t orphan = cpu_kernels().select_tree(a);
  LTD_CHECK(orphan < 0, "candidate ", orphan,
            " was selected without its parent: a parent must have a smaller index than ",
            "its children, or -1 for the root, and scores must not rise from parent to child");
}

HeadRows head_rows(const Tensors& tensors, const Named& a, const Named& like, at::IntArrayRef sizes) {
  return {tensors.checked_like(a, like, sizes), a.tensor.stride(0), a.tensor.stride(1), a.tensor.stride(2)};
}

void check_attention_rows(const TreeAttention& a, bool chain) {
  LTD_CHECK(a.scale > 0 && a.scale < INFINITY, "scale must be positive and finite, but is ", a.scale);
  LTD_CHECK(a.window >= 0, "window must be 0 (none) or more, but is ", a.window);
  LTD_CHECK(a.tree_rows >= 0, "tree_rows must be 0 or more, but is ", a.tree_rows);
  LTD_CHECK(!(chain || a.window > 0) || a.tree_rows == a.nodes,
            "without masks or with a window, tree_rows must be the ", a.nodes, " rows of query, but is ", a.tree_rows);
}

void check_lengths(const TreeAttention& a, const Tensor& keys) {
  for (int64_t b = 0; b < a.batch; ++b) {
    LTD_CHECK(a.lengths[b] >= 0 && a.lengths[b] + a.tree_rows <= keys.size(2), "lengths[", b, "] = ", a.lengths[b],
              " and ", a.tree_rows, " tree rows do not fit the ", keys.size(2), " rows of keys");
  }
}

Tensor run_tree_attention(const Tensor& query, const Tensor& keys, const Tensor& values, const Tensor& lengths,
                          int64_t tree_rows, const std::optional<Tensor>& masks, const Tensor& positions, double scale,
                          int64_t window) {
  const Tensors tensors(query.device());
  check_sizes({"query", query}, {-1, -1, -1, -1});
  check_sizes({"keys", keys}, {-1, -1, -1, -1});
  TreeAttention a{};
  a.dtype = float_type({"query", query});
  a.batch = query.size(0);
  a.query_heads = query.size(1);
  a.nodes = query.size(2);
  a.head_dim = query.size(3);
  a.kv_heads = keys.size(1);
  a.capacity = keys.size(2);
  a.tree_rows = tree_rows;
  a.scale = static_cast<float>(scale);
  a.window = window;
  LTD_CHECK(a.kv_heads >= 1 && a.query_heads % a.kv_heads == 0, "query must have a multiple of the ", a.kv_heads,
            " heads of keys, but its shape is ", query.sizes());
  a.query = head_rows(tensors, {"query", query}, {"query", query}, query.sizes());
  a.keys = head_rows(tensors, {"keys", keys}, {"query", query}, {a.batch, a.kv_heads, -1, a.head_dim});
  a.values = head_rows(tensors, {"values", values}, {"query", query}, {a.batch, a.kv_heads, keys.size(2), a.head_dim});
  a.lengths = tensors.per_row<const int32_t>({"lengths", lengths}, a.batch);
  if (masks.has_value()) {
    a.masks = tensors.matrices<const int64_t>({"masks", *masks}, a.batch, a.nodes, -1);
    LTD_CHECK(masks->size(2) * 64 >= tree_rows, "masks must hold a bit for each of the ", tree_rows,
              " tree rows, but its shape is ", masks->sizes());
  }
  if (window > 0) a.positions = tensors.rows<const int64_t>({"positions", positions}, a.batch, a.nodes);
  check_attention_rows(a, !masks.has_value());
  if (tensors.are_on_cpu()) check_lengths(a, keys);
  Tensor output = at::empty({a.batch, a.nodes, a.query_heads, a.head_dim}, query.options());
  a.output = output.mutable_data_ptr();
  a.threads = threads();
  if (output.numel() > 0) run<TreeAttention>(tensors.device(), LTD_KERNELS(tree_attention), a, a.launch);
  return output;
}

Tensor tree_attention_meta(const Tensor& query, const Tensor&, const Tensor&, const Tensor&, int64_t,
                           const std::optional<Tensor>&, const Tensor&, double, int64_t) {
  return at::empty_symint({query.sym_size(0), query.sym_size(2), query.sym_size(1), query.sym_size(3)},
                          query.options());
}

TreeWalk tree_walk(const Tensors& tensors, const Tensor& logits, const Tensor& tokens, const Tensor& first_child,
                   const Tensor& next_sibling, const Tensor& path, const Tensor& gained_tokens, const Tensor& gained) {
  TreeWalk walk{};
  walk.logits = tensors.float_matrices({"logits", logits}, -1, -1);
  walk.batch = logits.size(0);
  walk.nodes = logits.size(1);
  walk.vocabulary = logits.size(2);
  LTD_CHECK(walk.nodes >= 1 && walk.vocabulary >= 1,
            "logits must have at least one row and one column, but its shape is ", logits.sizes());
  walk.tokens = tensors.rows<const int64_t>({"tokens", tokens}, walk.batch, walk.nodes);
  walk.first_child = tensors.rows<const int32_t>({"first_child", first_child}, walk.batch, walk.nodes);
  walk.next_sibling = tensors.rows<const int32_t>({"next_sibling", next_sibling}, walk.batch, walk.nodes);
  walk.path = tensors.rows<int32_t>({"path", path}, walk.batch, -1);
  walk.path_capacity = path.size(1);
  walk.gained_tokens = tensors.rows<int64_t>({"gained_tokens", gained_tokens}, walk.batch, walk.path_capacity);
  walk.gained = tensors.per_row<int32_t>({"gained", gained}, walk.batch);
  walk.threads = threads();
  return walk;
}

void run_accept_greedy(const Tensor& logits, const Tensor& tokens, const Tensor& first_child,
                       const Tensor& next_sibling, Tensor path, Tensor gained_tokens, Tensor gained) {
  const Tensors tensors(logits.device());
  AcceptGreedy a{tree_walk(tensors, logits, tokens, first_child, next_sibling, path, gained_tokens, gained)};
  run<AcceptGreedy>(tensors.device(), LTD_KERNELS(accept_greedy), a, a.walk.launch);
}

void run_accept_sample(const Tensor& logits, const Tensor& tokens, const Tensor& first_child,
                       const Tensor& next_sibling, const Tensor& positions, const Tensor& rows_of_call,
                       double temperature, int64_t top_k, double top_p, int64_t seed, Tensor path, Tensor gained_tokens,
                       Tensor gained) {
  const Tensors tensors(logits.device());
  LTD_CHECK(temperature > 0 && temperature < INFINITY, "temperature must be positive and finite, but is ", temperature);
  LTD_CHECK(top_k >= 0, "top_k must be 0 (off) or more, but is ", top_k);
  LTD_CHECK(top_p > 0 && top_p <= 1, "top_p must be above 0 and at most 1 (off), but is ", top_p);
  AcceptSample a{};
  a.walk = tree_walk(tensors, logits, tokens, first_child, next_sibling, path, gained_tokens, gained);
  a.positions = tensors.rows<const int64_t>({"positions", positions}, a.walk.batch, a.walk.nodes);
  a.rows = tensors.per_row<const int64_t>({"rows", rows_of_call}, a.walk.batch);
  a.warp = {static_cast<float>(temperature), top_k, top_p};
  a.seed = static_cast<uint64_t>(seed);
  run<AcceptSample>(tensors.device(), LTD_KERNELS(accept_sample), a, a.walk.launch);
}

CacheTensor cache_tensor(const Tensors& tensors, const Named& a, const Tensor& keys) {
  tensors.checked_like(a, {"keys", keys}, keys.sizes());
  return {static_cast<char*>(a.tensor.mutable_data_ptr()), a.tensor.stride(0), a.tensor.stride(1), a.tensor.stride(2),
          a.tensor.stride(3)};
}

void check_commit_rows(const CommitPath& a, int64_t path_capacity, int64_t capacity) {
  for (int64_t b = 0; b < a.batch; ++b) {
    LTD_CHECK(a.gained[b] >= 0 && a.gained[b] <= path_capacity, "gained[", b, "] must be 0 to ", path_capacity,
              ", the size of path in dimension 1, but is ", a.gained[b]);
    for (int64_t i = 0; i < a.gained[b]; ++i) {
      const int32_t node = a.path[b][i];
      LTD_CHECK(node > (i == 0 ? -1 : a.path[b][i - 1]), "path[", b,
                "] must be strictly increasing from 0 on, but holds ", node, " at ", i);
      LTD_CHECK(a.lengths[b] >= 0 && a.lengths[b] + node < capacity, "path[", b, "] = ", node, " behind ", a.lengths[b],
                " prefix rows lies outside the ", capacity, " rows of keys");
    }
  }
}

void run_commit_path(Tensor keys, Tensor values, const Tensor& path, const Tensor& gained, const Tensor& lengths) {
  const Tensors tensors(keys.device());
  check_sizes({"keys", keys}, {-1, -1, -1, -1, -1});
  CommitPath a{};
  a.keys = cache_tensor(tensors, {"keys", keys}, keys);
  a.values = cache_tensor(tensors, {"values", values}, keys);
  a.layers = keys.size(0);
  a.batch = keys.size(1);
  a.heads = keys.size(2);
  a.element_bytes = keys.element_size();
  a.row_bytes = keys.size(4) * a.element_bytes;
  a.path = tensors.rows<const int32_t>({"path", path}, a.batch, -1);
  a.gained = tensors.per_row<const int32_t>({"gained", gained}, a.batch);
  a.lengths = tensors.per_row<const int32_t>({"lengths", lengths}, a.batch);
  a.threads = threads();
  if (tensors.are_on_cpu()) check_commit_rows(a, path.size(1), keys.size(3));
  run<CommitPath>(tensors.device(), LTD_KERNELS(commit_path), a, a.launch);
}

// For every device.
void implement(torch::Library& library) {
  library.impl("expand_beam", run_expand_beam);
  library.impl("row_entropy", run_row_entropy);
  library.impl("select_tree", run_select_tree);
  library.impl("tree_attention", run_tree_attention);
  library.impl("accept_greedy", run_accept_greedy);
  library.impl("accept_sample", run_accept_sample);
  library.impl("commit_path", run_commit_path);
}

}  // namespace
}  // namespace ltd

TORCH_LIBRARY(ltd, library) {
  library.def(
      "expand_beam(Tensor logits, Tensor? d2t, int level, Tensor(a!) tokens, Tensor(b!) scores, Tensor(c!) parents, "
      "Tensor(d!) beam_nodes, Tensor(e!) beam_rows, Tensor(f!) beam_tokens, Tensor(g!) beam_masks) -> ()");
  library.def("row_entropy(Tensor logits) -> Tensor");
  library.def(
      "select_tree(Tensor tokens, Tensor scores, Tensor parents, int candidates, Tensor roots, Tensor lengths, "
      "Tensor(a!) node_tokens, Tensor(b!) node_parents, Tensor(c!) positions, Tensor(d!) masks, "
      "Tensor(e!) first_child, Tensor(f!) next_sibling, Tensor(g!) node_candidates) -> ()");
  library.def(
      "tree_attention(Tensor query, Tensor keys, Tensor values, Tensor lengths, int tree_rows, Tensor? masks, "
      "Tensor positions, float scale, int window) -> Tensor");
  library.def(
      "accept_greedy(Tensor logits, Tensor tokens, Tensor first_child, Tensor next_sibling, Tensor(a!) path, "
      "Tensor(b!) gained_tokens, Tensor(c!) gained) -> ()");
  library.def(
      "accept_sample(Tensor logits, Tensor tokens, Tensor first_child, Tensor next_sibling, Tensor positions, Tensor "
      "rows, "
      "float temperature, int top_k, float top_p, int seed, Tensor(a!) path, Tensor(b!) gained_tokens, "
      "Tensor(c!) gained) -> ()");
  library.def("commit_path(Tensor(a!) keys, Tensor(b!) values, Tensor path, Tensor gained, Tensor lengths) -> ()");
}

TORCH_LIBRARY_IMPL(ltd, CPU, library) { ltd::implement(library); }

#ifdef LTD_WITH_CUDA
TORCH_LIBRARY_IMPL(ltd, CUDA, library) { ltd::implement(library); }
#endif

TORCH_LIBRARY_IMPL(ltd, Meta, library) {
  library.impl("expand_beam", ltd::nothing_like(ltd::run_expand_beam));
  library.impl("row_entropy", ltd::row_entropy_meta);
  library.impl("select_tree", ltd::nothing_like(ltd::run_select_tree));
  library.impl("tree_attention", ltd::tree_attention_meta);
  library.impl("accept_greedy", ltd::nothing_like(ltd::run_accept_greedy));
  library.impl("accept_sample", ltd::nothing_like(ltd::run_accept_sample));
  library.impl("commit_path", ltd::nothing_like(ltd::run_commit_path));
}
