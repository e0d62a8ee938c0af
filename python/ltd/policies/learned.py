"""The paper's two policies: small networks that read the draft's scores."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise

import torch

from ltd import ops
from ltd.errors import InputError
from ltd.policies.observation import Layout
from ltd.tree import MAX_SIZE, DraftTree, candidate_count, check_tree_limits

STOP, CONTINUE = 0, 1  # the depth network's outputs
MAX_LAYERS = 8  # as the operators take


@dataclass(frozen=True, slots=True)
class Setting:
    """What a policy was made for, or where it is used. None is unknown.

    Attributes:
        width: beam width W.
        target: the target's name, for people.
        vocab_size, hidden_size, layers: of the target.
        head_sha256: SHA-256 of the draft head's `model.safetensors`.
        hardware: processor or GPU.
        dtype: the target's, for example "bfloat16".
    """

    width: int
    target: str | None = None
    vocab_size: int | None = None
    hidden_size: int | None = None
    layers: int | None = None
    head_sha256: str | None = None
    hardware: str | None = None
    dtype: str | None = None

    def differences(self, other: Setting) -> dict[str, tuple[object, object]]:
        """What is known here and different there: {attribute: (here, there)}."""
        pairs = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        return {name: pair for name, pair in pairs.items() if pair[0] not in (None, pair[1])}


@dataclass(frozen=True, slots=True)
class Network:
    """A policy's network.

    Args:
        layout: of its observation.
        weights: w0, b0, w1, b1, … float32, w (outputs, inputs), with ReLU between the layers.

    Raises:
        InputError: weights that do not make a network that reads this observation.
    """

    layout: Layout
    weights: tuple[torch.Tensor, ...]

    def __post_init__(self) -> None:
        if len(self.weights) % 2 or not 0 < len(self.weights) <= 2 * MAX_LAYERS:
            raise InputError(
                f"a network has 1 to {MAX_LAYERS} layers of a weight and a bias, not {len(self.weights)} tensors"
            )
        if any(tensor.dtype != torch.float32 or not torch.isfinite(tensor).all() for tensor in self.weights):
            raise InputError("a network's weights must be finite numbers in float32")
        inputs = self.layout.width
        for layer, (weight, bias) in enumerate(zip(self.weights[::2], self.weights[1::2], strict=True)):
            if weight.ndim != 2 or weight.shape[1] != inputs or weight.shape[0] == 0 or bias.shape != weight.shape[:1]:
                raise InputError(
                    f"layer {layer} reads {inputs} numbers, but its weight has shape {tuple(weight.shape)} and its "
                    f"bias {tuple(bias.shape)}"
                )
            inputs = weight.shape[0]

    @property
    def outputs(self) -> int:
        """How many actions there are."""
        return len(self.weights[-1])


@dataclass(frozen=True, slots=True)
class Learned:
    """Decides with learned networks, asked at every level, unlike the official code, which asks at every third.

    One answer serves a batch that runs in lockstep: every sequence's network is asked, and the upper median counts. For
    the depth that is the majority, with a tie going on; for the size it is a size that at least half of the sequences
    do not exceed.

    Args:
        made_for: what it was trained for.
        depth_limit: the deepest tree, 0 … 12; without a depth network every tree is that deep.
        sizes: the ladder, ascending: what the size network's outputs stand for; without one, the one size.
        depth_network: decides whether to go on, output 0 stop and 1 continue, from the scores of the newest level.
        size_network: decides the size, from the scores of all candidates.
        min_depth: drafts so deep without asking. The official scripts trained their depth policy with 1.

    Raises:
        InputError: parts that do not go together.
    """

    made_for: Setting
    depth_limit: int
    sizes: tuple[int, ...]
    depth_network: Network | None = None
    size_network: Network | None = None
    min_depth: int = 0

    def __post_init__(self) -> None:
        width = self.made_for.width
        check_tree_limits(width, self.depth_limit, 0)
        if not 0 <= self.min_depth <= self.depth_limit:
            raise InputError(f"min_depth {self.min_depth} is out of range; it must be 0 … {self.depth_limit}")
        if not self.sizes or any(not 0 <= size <= MAX_SIZE for size in self.sizes):
            raise InputError(f"the size ladder {list(self.sizes)} must hold sizes of 0 … {MAX_SIZE}")
        if any(low >= high for low, high in pairwise(self.sizes)):
            raise InputError(f"the size ladder {list(self.sizes)} must ascend")
        outputs = 1 if self.size_network is None else self.size_network.outputs
        if len(self.sizes) != outputs:
            chooser = "without a size network there is 1" if self.size_network is None else f"its network has {outputs}"
            raise InputError(f"the size ladder holds {len(self.sizes)} sizes, but {chooser}")
        if self.depth_network is not None and self.depth_network.outputs != 2:
            raise InputError(
                f"the depth network has {self.depth_network.outputs} outputs; it must have 2, stop and continue"
            )
        newest = width * width if self.depth_limit > 1 else width  # as it is asked below the limit only
        for name, network, scores in (
            ("depth", self.depth_network, newest),
            ("size", self.size_network, candidate_count(width, self.depth_limit)),
        ):
            if network is not None and network.layout.slots < scores:
                raise InputError(
                    f"the {name} network has {network.layout.slots} slots for scores, but there are up to {scores} at "
                    f"beam width {width} and depth {self.depth_limit}"
                )

    @property
    def max_depth(self) -> int:
        """The depth limit."""
        return self.depth_limit

    @property
    def max_size(self) -> int:
        """The top of the ladder."""
        return self.sizes[-1]

    def speculate(self, lengths: torch.Tensor) -> bool:
        """Always: the networks decide from the draft's scores."""
        return True

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        """What the depth network says of the newest level."""
        network = self.depth_network
        if network is None or depth < self.min_depth:
            return True
        layout = network.layout
        actions = ops.depth_action(
            tree.newest_scores, tree.lengths, depth, layout.slots, layout.repeats, network.weights
        )
        return upper_median(actions) == CONTINUE

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        """What the size network says of all candidates."""
        network = self.size_network
        if network is None:
            return self.sizes[0]
        layout, scores = network.layout, tree.scores[:, : tree.candidates]
        actions = ops.size_action(scores, tree.lengths, depth, layout.slots, layout.repeats, network.weights)
        return self.sizes[upper_median(actions)]

    def __str__(self) -> str:
        depth = f"depth {self.depth_limit}" if self.depth_network is None else f"learned depth up to {self.depth_limit}"
        size = f"size {self.sizes[0]}" if self.size_network is None else f"learned size up to {self.max_size}"
        return f"{depth}, {size}"


def upper_median(actions: torch.Tensor) -> int:
    """One answer for a batch: int32 (B,) → the upper median."""
    answers = sorted(actions.tolist())
    return int(answers[len(answers) // 2])
