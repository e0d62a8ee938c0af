"""What one call asks of the decoder."""

from __future__ import annotations

from dataclasses import dataclass, field

from ltd.decoding.acceptance import MAX_GAIN, Acceptor
from ltd.decoding.speculation import Speculation
from ltd.decoding.stopping import Stops


@dataclass(slots=True)
class Request:
    """What one call wants, and its answers.

    Attributes:
        prompts: token ids.
        accept: chooses the target's tokens along a tree.
        stops: says when an answer ends.
        speculation: what drafts; None is plain decoding.
        answers: the new tokens so far, per prompt.
    """

    prompts: list[list[int]]
    accept: Acceptor
    stops: Stops
    speculation: Speculation | None
    answers: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.answers = [[] for _ in self.prompts]

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
