"""What one call asks of the decoder, and all that is its own while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from ltd.decoding.acceptance import MAX_GAIN, Acceptor, Sampling
from ltd.decoding.speculation import Speculation
from ltd.decoding.statistics import Statistics
from ltd.decoding.stopping import StopRule, Stops
from ltd.target.target import Target, TargetSession
from ltd.tree import DraftTree


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What a call says beside its prompts and what drafts, as `ltd.decoding.decoder.Decoder.generate` takes it."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop_token_ids: Sequence[int] | None = None

    def sampling(self) -> Sampling:
        """How tokens are chosen; raises InputError as that does."""
        return Sampling(self.temperature, self.top_k, self.top_p, self.seed)

    def stops(self, prompts: list[list[int]], stop_ids: Sequence[int], max_length: int) -> StopRule:
        """When answers end; raises InputError as `StopRule.usual` does.

        Args:
            stop_ids: unless the call says otherwise. max_length: of prompt and answer together.
        """
        usual = stop_ids if self.stop_token_ids is None else self.stop_token_ids
        return StopRule.usual(prompts, usual, self.max_new_tokens, max_length)


@dataclass(slots=True)
class Request:
    """What one call wants, and its answers.

    Attributes:
        prompts: token ids.
        accept: chooses the target's tokens along a tree.
        stops: says when an answer ends.
        speculation: what drafts; None is plain decoding.
        answers: the new tokens so far, per prompt.
        statistics: of this call.
        session: its sequences in the target, while it is open.
        tree: the buffers of its trees, while it is open.
        was_run: whether a decoder was told to run it, which can be done once.
    """

    prompts: list[list[int]]
    accept: Acceptor
    stops: Stops
    speculation: Speculation | None
    answers: list[list[int]] = field(init=False)
    statistics: Statistics = field(init=False)
    session: TargetSession = field(init=False, repr=False)
    tree: DraftTree = field(init=False, repr=False)
    was_run: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.answers = [[] for _ in self.prompts]
        self.statistics = Statistics(sum(map(len, self.prompts)), sequences=len(self.prompts))

    @property
    def tree_limits(self) -> tuple[int, int, int]:
        """Beam width, depth and size of the largest tree; in plain decoding there is only ever the root."""
        return self.speculation.limits if self.speculation is not None else (1, 0, 0)

    @property
    def capacity(self) -> int:
        """Cache rows for the longest sequence, what a last cycle may gain beyond its end, and the largest tree."""
        longest = max(len(prompt) + self.stops.limit(row) for row, prompt in enumerate(self.prompts))
        width, depth, size = self.tree_limits
        return longest + MAX_GAIN + max(size + 1, (depth + 1) * width)

    @property
    def reads_features(self) -> bool:
        """Whether there is a draft, which reads the target's hidden states."""
        return self.speculation is not None and self.speculation.draft is not None

    def new_tree(self, batch: int, device: torch.device) -> DraftTree:
        """Buffers for the trees of so many sequences."""
        max_text = 0 if self.speculation is None else self.speculation.max_text
        return DraftTree(batch, *self.tree_limits, device, max_text)

    @contextmanager
    def open(self, target: Target, capacity: int | None = None) -> Iterator[None]:
        """Gives the request sequences of its own in target and draft, and the buffers of its trees, for a while.

        Args:
            target: to decode with.
            capacity: rows per sequence; None is what it needs.
        """
        batch, rows = len(self.prompts), self.capacity if capacity is None else capacity
        with target.session(batch, rows, tap=self.reads_features) as self.session:
            self.tree = self.new_tree(batch, target.device)
            if self.speculation is None:
                yield
                return
            self.speculation.start(self.prompts, rows, target.device)
            try:
                yield
            finally:
                self.speculation.close()

    def keep(self, rows: list[int]) -> None:
        """Drops all sequences but these."""
        self.session.keep(rows)
        self.tree = self.new_tree(len(rows), self.tree.roots.device)
        if self.speculation is not None:
            self.speculation.keep(rows)
