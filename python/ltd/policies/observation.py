"""What the learned policies see. The one place that builds it: for training, for tests, and as the operators' contract.

An observation is scores, then the context length, then the depth. The latter two are repeated, so that they carry
weight beside so many scores (the paper's vectors: 100 + 14 + 14 for the depth policy, 1210 + 29 + 29 for the size
policy). At inference the operators `depth_action` and `size_action` build the same numbers and run the network in one
go.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from ltd.errors import InputError
from ltd.tree import candidate_count

LOWEST_SCORE = -100.0
LENGTH_UNIT = 1000.0
DEPTH_UNIT = 10.0
DEPTH_REPEATS = 14
SIZE_REPEATS = 29


@dataclass(frozen=True, slots=True)
class Layout:
    """Where an observation holds what.

    Args:
        slots: places for scores; where there are fewer scores, the rest is 0.
        repeats: how often the length and the depth are given.

    Raises:
        InputError: a negative number.
    """

    slots: int
    repeats: int

    def __post_init__(self) -> None:
        if self.slots < 0 or self.repeats < 0:
            raise InputError(f"an observation of {self.slots} scores and {self.repeats} repeats cannot be")

    @property
    def width(self) -> int:
        """Numbers in an observation."""
        return self.slots + 2 * self.repeats

    @property
    def scores(self) -> slice:
        """Cumulative log-probabilities under the draft, clamped to -100 from below."""
        return slice(0, self.slots)

    @property
    def length(self) -> slice:
        """Context length / 1000."""
        return slice(self.slots, self.slots + self.repeats)

    @property
    def depth(self) -> slice:
        """Depth / 10: expansions after the root's own draft forward."""
        return slice(self.slots + self.repeats, self.width)

    def build(
        self,
        scores: torch.Tensor,
        lengths: torch.Tensor | ArrayLike,
        depths: torch.Tensor | ArrayLike,
        counts: torch.Tensor | ArrayLike | None = None,
    ) -> torch.Tensor:
        """Observations of any number of cycles at once.

        Args:
            scores: float32 (B, n), n <= slots; NaN counts as -100. A NumPy array goes in by `torch.from_numpy`.
            lengths: whole numbers (B,) or one for all: context lengths, without the root.
            depths: whole numbers (B,) or one for all.
            counts: whole numbers (B,): how many of the n scores a cycle has, where the cycles differ; None is all.

        Returns:
            float32 (B, width), on the scores' device.

        Raises:
            InputError: scores of another shape or more than there are slots.
        """
        if scores.ndim != 2 or scores.shape[1] > self.slots:
            raise InputError(f"scores must be (B, at most {self.slots}), but their shape is {tuple(scores.shape)}")
        given, device = scores.shape[1], scores.device
        observation = torch.zeros(len(scores), self.width, device=device)
        observation[:, :given] = scores.float().nan_to_num(nan=LOWEST_SCORE).clamp(min=LOWEST_SCORE)
        if counts is not None:
            missing = torch.arange(given, device=device) >= _column(counts, device)
            observation[:, :given].masked_fill_(missing, 0.0)
        observation[:, self.length] = _column(lengths, device) / LENGTH_UNIT
        observation[:, self.depth] = _column(depths, device) / DEPTH_UNIT
        return observation


def depth_layout(width: int) -> Layout:
    """The paper's layout for the depth policy: the scores of the newest level, W²."""
    return Layout(width * width, DEPTH_REPEATS)


def size_layout(width: int, max_depth: int) -> Layout:
    """The paper's layout for the size policy: the scores of all candidates, W + D * W²."""
    return Layout(candidate_count(width, max_depth), SIZE_REPEATS)


def _column(values: torch.Tensor | ArrayLike, device: torch.device) -> torch.Tensor:
    """float32 (B, 1) or (1, 1)."""
    tensor = values if isinstance(values, torch.Tensor) else torch.from_numpy(np.asarray(values, dtype=np.float32))
    return tensor.to(device=device, dtype=torch.float32).reshape(-1, 1)
