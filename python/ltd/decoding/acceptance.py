"""Which part of a verified tree is kept: greedily, or sampled from the target's distribution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ltd import ops
from ltd.common.argument_types import as_number, as_whole, settle
from ltd.decoding.gain import Accepted
from ltd.decoding.report import Report
from ltd.errors import InputError
from ltd.tree import TreeNodes, root_only


@dataclass(frozen=True, slots=True, eq=False)
class VerifiedTrees:
    """The verified trees of B sequences, and where the walk through each is written.

    Attributes:
        logits: (B, N, vocabulary) of the nodes.
        nodes: the trees.
        report: its path, tokens and gained are written; it says which prompt each of the B sequences belongs to.
        noise: of the B sequences; None where nothing is sampled.
    """

    logits: torch.Tensor
    nodes: TreeNodes
    report: Report
    noise: ops.Noise | None


Acceptor = Callable[[VerifiedTrees], None]
"""Walks every tree along the target's tokens, which it chooses."""


@dataclass(frozen=True, slots=True)
class Draws:
    """What is random in a request.

    Args:
        seed: of its noise.
        temperature: at which its draft proposes.
    """

    seed: int
    temperature: float


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: 0 is greedy.
        top_k: keep the k best tokens; 0 keeps all.
        top_p: keep the smallest set of best tokens that holds this probability, 0 < p <= 1.
        seed: of the sampled text, 0 … 2^63 - 1; None draws one from torch's generator.

    Raises:
        InputError: a number out of range, or something else than a number.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        settle(self, as_number, "temperature", "top_p")
        settle(self, as_whole, "top_k")
        if self.seed is not None:
            settle(self, as_whole, "seed")
        if self.temperature != 0.0 and not ops.LEAST_TEMPERATURE <= self.temperature <= ops.LARGEST_TEMPERATURE:
            raise InputError(
                f"temperature {self.temperature} is out of range; "
                f"use 0 (greedy) or {ops.LEAST_TEMPERATURE:g} … {ops.LARGEST_TEMPERATURE:g}"
            )
        if not 0 <= self.top_k < 2**63:
            raise InputError(f"top_k {self.top_k} is out of range; use 0 (off) or a positive number below 2^63")
        if not 0.0 < self.top_p <= 1.0:
            raise InputError(f"top_p {self.top_p} is out of range; it must be above 0 and at most 1")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise InputError(f"seed {self.seed} is out of range; it must be 0 … 2^63 - 1")

    def acceptor(self) -> Acceptor:
        """The acceptor for one call."""
        if self.temperature == 0.0:
            return accept_greedy
        return SampleAcceptor(self.temperature, self.top_k, self.top_p)

    def draws(self) -> Draws | None:
        """What is random in one call; None if it is greedy."""
        return None if self.temperature == 0.0 else Draws(self.drawn_seed(), self.temperature)

    def drawn_seed(self) -> int:
        """The seed, or a new one from torch's generator."""
        return self.seed if self.seed is not None else int(torch.randint(2**63 - 1, ()).item())


def accept_greedy(trees: VerifiedTrees) -> None:
    """The path along the target's most likely tokens."""
    nodes = trees.nodes
    ops.accept_greedy(trees.logits, nodes.tokens, nodes.first_child, nodes.next_sibling, *trees.report.walk)


@dataclass(frozen=True, slots=True)
class SampleAcceptor:
    """The path along tokens sampled from the target's distribution.

    A token is sampled at each node first and then looked for among the node's children. Its noise depends on the seed,
    the prompt's place in the batch and the position alone: the text of a seed does not depend on the tree, so it is the
    same with and without drafting. What the draft proposed with the same noise is accepted more often than by chance.
    """

    temperature: float
    top_k: int
    top_p: float

    def __call__(self, trees: VerifiedTrees) -> None:
        nodes = trees.nodes
        assert trees.noise is not None
        ops.accept_sample(
            trees.logits,
            nodes.tokens,
            nodes.first_child,
            nodes.next_sibling,
            nodes.positions,
            self.temperature,
            self.top_k,
            self.top_p,
            trees.noise,
            *trees.report.walk,
        )


def accept_next(
    accept: Acceptor,
    logits: torch.Tensor,
    positions: torch.Tensor,
    report: Report,
    noise: ops.Noise | None,
) -> Accepted:
    """The next token of every sequence by itself, without a tree.

    Args:
        logits: (B, 1, vocabulary) after its last token.
        positions: int64 (B,), of that token.
        report, noise: see `VerifiedTrees`.

    Raises:
        InputError: the target's logits were not finite.
    """
    accept(VerifiedTrees(logits, root_only(torch.zeros_like(positions), positions), report, noise))
    report.finish()
    report.send()
    return report.read()
