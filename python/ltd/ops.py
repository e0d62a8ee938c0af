"""The operators `torch.ops.ltd.*`, typed and documented.

Each has a kernel per device and a shape-only one. All check their arguments before they write anything. The tensors of
a call are all on one device. On CUDA, what they hold is not checked, which would mean waiting for the device: where an
operator below lists what is "unchecked on CUDA", and it does not hold, memory outside the tensors may be read or
written and the results are rubbish, unless the operator says what happens instead.

Words used below: B sequences in the batch, W beam width, C capacity for candidates, V candidates verified, N = V + 1
tree nodes with the root first, P capacity of a path. Candidate c of level 0 is child c of the root; level l >= 1 starts
at W + (l - 1) * W², and child j of beam row r stands r * W + j behind. Masks are int64 words: bit j % 64 of word
j // 64 belongs to node (or tree row) j. Tensors may be strided in all dimensions but the last.

Raises, all of them:
    InputError: a tensor of the wrong shape, type, device or layout, or a number out of range; the message names it
        and gives the values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ltd import _C
from ltd.errors import InputError


def operator(name: str) -> Callable[..., Any]:
    """The operator `torch.ops.ltd.<name>`, with its ValueErrors raised as InputErrors that begin with its name."""
    call = getattr(torch.ops.ltd, name).default

    def run(*arguments: Any) -> Any:
        try:
            return call(*arguments)
        except ValueError as error:
            raise InputError(f"{name}: {error}") from None

    return run


_expand_beam = operator("expand_beam")
_row_entropy = operator("row_entropy")
_select_tree = operator("select_tree")
_tree_attention = operator("tree_attention")
_accept_greedy = operator("accept_greedy")
_accept_sample = operator("accept_sample")
_commit_path = operator("commit_path")
_depth_action = operator("depth_action")
_size_action = operator("size_action")
_summary_decision = operator("summary_decision")


def build_info() -> dict[str, object]:
    """What this build contains.

    Returns:
        version, compiler, torch (version built for), cpu_kernels (instruction set in use), cpu_isas (those that could
        be), openmp, cuda, and cuda_reason: why the CUDA kernels are left out.
    """
    info: dict[str, object] = _C.build_info()
    return info


def expand_beam(
    logits: Tensor,
    d2t: Tensor | None,
    level: int,
    tokens: Tensor,
    scores: Tensor,
    parents: Tensor,
    beam_nodes: Tensor,
    beam_rows: Tensor,
    beam_tokens: Tensor,
    beam_masks: Tensor,
) -> None:
    """Adds one level of candidates to the draft tree and chooses the next beam.

    Every beam row's W best draft tokens become candidates; score = parent's score + log-softmax of the draft logits.
    The W best new candidates by (score descending, index ascending) are the next beam. NaN logits count as -inf.

    Args:
        logits: (B, R, Vd) float32, float16 or bfloat16; R = 1 at level 0 and W after; Vd >= W.
        d2t: int64 (Vd,) offset from draft id to target id, or None if they are the same.
        level: 0 … 12.
        tokens: int64 (B, C), written: target ids of the new candidates.
        scores: float32 (B, C), read and written: cumulative log-probabilities.
        parents: int32 (B, C), written: candidate indices, -1 = root.
        beam_nodes: int32 (B, levels, W), read at level - 1, written at `level`: candidate index of each beam row.
        beam_rows: int64 (B, W), written: row of the parent in the beam before.
        beam_tokens: int64 (B, W), written.
        beam_masks: int64 (B, levels, W, words), last two dimensions contiguous, read at level - 1, written at
            `level`: ancestors-or-self among the draft's own tree rows, row l * W + w being beam row w of level l.
    """
    _expand_beam(logits, d2t, level, tokens, scores, parents, beam_nodes, beam_rows, beam_tokens, beam_masks)


def row_entropy(logits: Tensor) -> Tensor:
    """The entropy of the softmax over each row, in one pass.

    Args:
        logits: (B, R, Vd) float32, float16 or bfloat16; Vd >= 1. -inf contributes nothing.

    Returns:
        float32 (B, R), nats: log Z - Σ softmax * logit, Z being the sum of the exponentials. NaN for a row with NaN or
        +inf, or with -inf only.
    """
    entropies: Tensor = _row_entropy(logits)
    return entropies


def select_tree(
    tokens: Tensor,
    scores: Tensor,
    parents: Tensor,
    candidates: int,
    roots: Tensor,
    lengths: Tensor,
    node_tokens: Tensor,
    node_parents: Tensor,
    positions: Tensor,
    masks: Tensor,
    first_child: Tensor,
    next_sibling: Tensor,
    node_candidates: Tensor,
) -> None:
    """Writes the best V candidates by (score descending, index ascending) as a tree, in ascending candidate index.

    Args:
        tokens: int64 (B, C); scores: float32 (B, C), NaN counts as -inf; parents: int32 (B, C), -1 = root.
        candidates: columns considered, at most C.
        roots: int64 (B,), root tokens.
        lengths: int32 (B,), positions of the roots.
        node_tokens: int64 (B, N), written; N - 1 = V <= candidates, V <= 512.
        node_parents: int32 (B, N), written: node indices, -1 for the root.
        positions: int64 (B, N), written: lengths + depth.
        masks: int64 (B, N, words), words >= N / 64, written: ancestors-or-self among the nodes.
        first_child, next_sibling: int32 (B, N), written: node indices in the order of scores, -1 = none.
        node_candidates: int32 (B, N), written: the candidate behind each node, -1 for the root.

    Unchecked on CUDA: that the parent of a selected candidate stands before it and is selected, which it is if scores
    do not rise from parent to child; else the node hangs below the root.
    """
    _select_tree(
        tokens,
        scores,
        parents,
        candidates,
        roots,
        lengths,
        node_tokens,
        node_parents,
        positions,
        masks,
        first_child,
        next_sibling,
        node_candidates,
    )


def tree_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    tree_rows: int,
    masks: Tensor | None,
    positions: Tensor,
    scale: float,
    window: int = 0,
) -> Tensor:
    """Attention of tree nodes over the prefix and the tree.

    Query i of row b sees the prefix keys 0 … lengths[b] - 1, and tree key lengths[b] + j if bit j of masks[b, i] is
    set. A query that sees nothing gets 0. Accumulates in float32.

    Args:
        query: (B, Hq, N, head_dim) float32, float16 or bfloat16.
        keys, values: (B, Hkv, capacity, head_dim), same type: one layer of the cache; Hq is a multiple of Hkv.
        lengths: int32 (B,), prefix rows.
        tree_rows: rows behind the prefix that hold the tree.
        masks: int64 (B, N, words), or None for a chain: tree_rows = N, query i sees tree keys j <= i.
        positions: int64 (B, N), used if window > 0.
        scale: factor of the scores before the softmax, above 0.
        window: if above 0, only keys with query position - key position < window are seen; tree_rows = N then.

    Unchecked on CUDA: that 0 <= lengths[b] <= capacity - tree_rows.

    Returns:
        (B, N, Hq, head_dim), contiguous, of the query's type.
    """
    output: Tensor = _tree_attention(query, keys, values, lengths, tree_rows, masks, positions, scale, window)
    return output


def accept_greedy(
    logits: Tensor,
    tokens: Tensor,
    first_child: Tensor,
    next_sibling: Tensor,
    path: Tensor,
    gained_tokens: Tensor,
    gained: Tensor,
) -> None:
    """Walks from the root along the target's argmax tokens (ties: smallest id) as long as the tree holds them.

    Args:
        logits: (B, N, vocabulary) float32, float16 or bfloat16, the target's; only visited rows are read on the CPU.
        tokens: int64 (B, N); first_child, next_sibling: int32 (B, N), as `select_tree` writes them.
        path: int32 (B, P), written: visited nodes, root first. The walk ends after P nodes; P = tree depth + 1 never
            cuts it.
        gained_tokens: int64 (B, P), written: the target's token at each; -1 where its logits hold NaN or +inf, or
            only -inf, and the walk ends.
        gained: int32 (B,), written: how many; the last token is the bonus.
    """
    _accept_greedy(logits, tokens, first_child, next_sibling, path, gained_tokens, gained)


def accept_sample(
    logits: Tensor,
    tokens: Tensor,
    first_child: Tensor,
    next_sibling: Tensor,
    positions: Tensor,
    rows: Tensor,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    path: Tensor,
    gained_tokens: Tensor,
    gained: Tensor,
) -> None:
    """The walk of `accept_greedy` with tokens sampled from the target's warped distribution.

    A token is drawn by inverting the cumulative distribution in vocabulary order with one uniform number per (seed,
    row, position), from Philox4x32-10. The drafts being deterministic, this accepts a candidate x with probability
    p(x) as the paper does (section 3), and the tokens that a seed gives do not depend on the tree.

    Args:
        logits, tokens, first_child, next_sibling, path, gained_tokens, gained: as for `accept_greedy`.
        positions: int64 (B, N), as `select_tree` writes them.
        rows: int64 (B,), each sequence's number in its call; it keeps its random numbers when others leave the batch.
        temperature: above 0.
        top_k: keep all logits >= the k-th largest; 0 = off.
        top_p: then keep a token if the mass of the strictly better ones (ties: smaller id) is < top_p; 1 = off.
        seed: any int64.
    """
    _accept_sample(
        logits,
        tokens,
        first_child,
        next_sibling,
        positions,
        rows,
        temperature,
        top_k,
        top_p,
        seed,
        path,
        gained_tokens,
        gained,
    )


def commit_path(keys: Tensor, values: Tensor, path: Tensor, gained: Tensor, lengths: Tensor) -> None:
    """Moves the accepted nodes' rows, lengths[b] + path[b, i], to lengths[b] + i, in place, for all layers.

    Args:
        keys, values: (layers, B, Hkv, capacity, head_dim), any type, written.
        path: int32 (B, P), strictly increasing.
        gained: int32 (B,), how many entries of the path count.
        lengths: int32 (B,), prefix rows; not changed.

    Unchecked on CUDA: that 0 <= gained[b] <= P, that the path is strictly increasing from 0 on, and that lengths[b] +
    path[b, i] lies in the capacity.
    """
    _commit_path(keys, values, path, gained, lengths)


def depth_action(
    scores: Tensor,
    lengths: Tensor,
    depth: int,
    score_slots: int,
    repeats: int,
    weights: Sequence[Tensor],
    uses_tanh: bool = False,
) -> Tensor:
    """The depth policy's action: its observation and its network in one go.

    The observation is [scores clamped to >= -100, zeros up to score_slots, length / 1000 x repeats, depth / 10 x
    repeats] (paper: 100 slots, 14 repeats).

    Args:
        scores: float32 (B, n), n <= score_slots: of the newest level.
        lengths: int32 (B,).
        depth: levels drafted, as the policy was trained with.
        weights: w0, b0, w1, b1, … float32, w (outputs, inputs) contiguous.
        uses_tanh: what is between the layers is tanh, not ReLU.

    Returns:
        int32 (B,), index of the largest output, the smallest such.
    """
    action: Tensor = _depth_action(scores, lengths, depth, score_slots, repeats, weights, uses_tanh)
    return action


def size_action(
    scores: Tensor,
    lengths: Tensor,
    depth: int,
    score_slots: int,
    repeats: int,
    weights: Sequence[Tensor],
    uses_tanh: bool = False,
) -> Tensor:
    """The size policy's action, as `depth_action`; the scores are those of all candidates so far.

    The paper's observation has 1210 slots and 29 repeats.
    """
    action: Tensor = _size_action(scores, lengths, depth, score_slots, repeats, weights, uses_tanh)
    return action


def summary_decision(
    scores: Tensor,
    count: int,
    newest_from: int,
    lengths: Tensor,
    depth: int,
    best: int,
    newest: int,
    recents: Tensor | None,
    states: Tensor | None,
    weights: Tensor,
    depth_layers: Sequence[int],
    size_layers: Sequence[int],
    uses_tanh: bool,
    actions: Tensor,
) -> None:
    """The actions of a depth and a size policy that read the same summary: observation and both networks in one go.

    `ltd.policies.observation.Summary` says what the observation is and builds the same one for training.

    Args:
        scores: float32 (B, C), of which the first `count` are the candidates so far.
        count: 0 … C.
        newest_from: where the newest level begins, 0 … count.
        lengths: int32 (B,).
        depth: expansions so far, 0 … 12.
        best, newest: how many of the best scores of all and of the newest level it shows, 1 … 64.
        recents: float32 (B, R). None: R = 0.
        states: float32, float16 or bfloat16 (B, 1, H). None: H = 0.
        weights: float32 (n,): every layer's weight (outputs, inputs) and then its bias, layer by layer, first the depth
            network's, then the size network's.
        depth_layers, size_layers: outputs of each layer, up to 8; empty without a network.
        uses_tanh: what is between the layers of both is tanh, not ReLU.
        actions: int32 (B, 2), written: the depth network's action and the size network's: the index of the largest
            output, the smallest such; 0 without a network.
    """
    _summary_decision(
        scores,
        count,
        newest_from,
        lengths,
        depth,
        best,
        newest,
        recents,
        states,
        weights,
        depth_layers,
        size_layers,
        uses_tanh,
        actions,
    )
