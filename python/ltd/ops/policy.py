"""A policy's observation and network in one call. Words and errors: see `ltd.ops`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ltd.ops.library import operator

LONGEST = 2**31 - 1  # that an int32 can be

_depth_action = operator("depth_action")
_size_action = operator("size_action")
_summary_decision = operator("summary_decision")
_summary_state = operator("summary_state")


def depth_action(
    scores: Tensor,
    lengths: Tensor,
    depth: int,
    score_slots: int,
    repeats: int,
    weights: Sequence[Tensor],
    uses_tanh: bool = False,
    shortest: int = 0,
    longest: int = LONGEST,
) -> Tensor:
    """The depth policy's action: its observation and its network in one go.

    The observation is [scores clamped to >= -100, zeros up to score_slots, length within shortest … longest / 1000 x
    repeats, depth / 10 x repeats] (paper: 100 slots, 14 repeats).

    Args:
        scores: float32 (B, n), n <= score_slots: of the newest level.
        lengths: int32 (B,).
        depth: levels drafted, as the policy was trained with.
        weights: w0, b0, w1, b1, … float32, w (outputs, inputs) contiguous.
        uses_tanh: what is between the layers is tanh, not ReLU.
        shortest, longest: the policy sees no length beyond these, but the nearest of them.

    Returns:
        int32 (B,), index of the largest output, the smallest such.
    """
    action: Tensor = _depth_action(scores, lengths, depth, score_slots, repeats, weights, uses_tanh, shortest, longest)
    return action


def size_action(
    scores: Tensor,
    lengths: Tensor,
    depth: int,
    score_slots: int,
    repeats: int,
    weights: Sequence[Tensor],
    uses_tanh: bool = False,
    shortest: int = 0,
    longest: int = LONGEST,
) -> Tensor:
    """The size policy's action, as `depth_action`; the scores are those of all candidates so far.

    The paper's observation has 1210 slots and 29 repeats.
    """
    action: Tensor = _size_action(scores, lengths, depth, score_slots, repeats, weights, uses_tanh, shortest, longest)
    return action


def summary_decision(
    scores: Tensor,
    count: int,
    newest_from: int,
    lengths: Tensor,
    depth: int,
    best: int,
    newest: int,
    states: Tensor | None,
    text: Tensor | None,
    weights: Tensor,
    depth_layers: Sequence[int],
    size_layers: Sequence[int],
    uses_tanh: bool,
    actions: Tensor,
    shortest: int = 0,
    longest: int = LONGEST,
    sums: Tensor | None = None,
) -> None:
    """The actions of a depth and a size policy that read the same summary: observation and both networks in one go.

    `ltd.policies.learned.observation.Summary` says what the observation is and builds the same one for training.

    Args:
        scores: float32 (B, C), of which the first `count` are the candidates so far.
        count: 0 … C.
        newest_from: where the newest level begins, 0 … count.
        lengths: int32 (B,).
        depth: expansions so far, 0 … 12; with a text also -1: nothing is drafted yet, and count must be 0.
        best, newest: how many of the best scores of all and of the newest level it shows, 1 … 64.
        states: float32, float16 or bfloat16 (B, 1, H). None: H = 0. At depth -1 they count as zeros. With sums they are
            not read.
        text: float32 (B, 24), the features of what the text proposes. None: the networks do not read it.
        weights: float32 (n,): every layer's weight (outputs, inputs) and then its bias, layer by layer, first the depth
            network's, then the size network's.
        depth_layers, size_layers: outputs of each layer, up to 8; empty without a network.
        uses_tanh: what is between the layers of both is tanh, not ReLU.
        actions: int32 (B, 2), written: the depth network's action and the size network's: the index of the largest
            output, the smallest such; 0 without a network. Where the others are on a GPU it may be in pinned memory of
            the host, which then sees the answer without copying it.
        shortest, longest: the networks see no length beyond these, but the nearest of them.
        sums: float32 (B, n), what `summary_state` made of these states: the same actions, sooner.
    """
    _summary_decision(
        scores,
        count,
        newest_from,
        lengths,
        depth,
        best,
        newest,
        states,
        text,
        weights,
        depth_layers,
        size_layers,
        uses_tanh,
        actions,
        shortest,
        longest,
        sums,
    )


def summary_state(
    states: Tensor,
    weights: Tensor,
    depth_layers: Sequence[int],
    size_layers: Sequence[int],
    best: int,
    newest: int,
    reads_text: bool = False,
) -> Tensor:
    """What the networks of `summary_decision` make of the states, which stay the same in all of a cycle's questions.

    Args:
        states: float32, float16 or bfloat16 (B, 1, H).
        weights, depth_layers, size_layers, best, newest: as `summary_decision` takes them.
        reads_text: the networks read the text as well.

    Returns:
        float32 (B, n): for every output of the depth network's first layer, then of the size network's, its bias and
        the part of its sum that comes from the state divided by the root of its mean square. n = 0 without networks.
    """
    sums: Tensor = _summary_state(states, weights, depth_layers, size_layers, best, newest, reads_text)
    return sums
