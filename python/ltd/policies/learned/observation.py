"""What the learned policies see. The one place that builds it: for training, for tests, and as the operators' contract.

The paper's observation (`Layout`) is scores, then the context length, then the depth. The latter two are repeated, so
that they carry weight beside so many scores (its vectors: 100 + 14 + 14 for the depth policy, 1210 + 29 + 29 for the
size policy). Ours (`Summary`) is the best scores in order, with their probabilities, the length, the depth, what the
draft's state at the root says, and what the text itself proposes. At inference the operators `depth_action`,
`size_action` and `summary_decision` build the same numbers and run the network in one go.

A network decides by what it learned only where its inputs are such as it learned from. All but one are bounded by
themselves: scores are clamped from below and never above 0, so that their exponentials are within 0 … 1 and the sums of
these within 0 … their number; the depth is -1 … 12; a state of H numbers, divided by the root of its mean square, has
none beyond √H; and the text's features are logs not below -20, chances, sums and shares of at most
`ltd.lookup.MAX_TEXT` candidates. The context length alone grows on, so it is shown within the range that the policy was
trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from ltd.errors import InputError
from ltd.lookup import TEXT_FEATURES
from ltd.tree import MAX_DEPTH, candidate_count

LOWEST_SCORE = -100.0
LENGTH_UNIT = 1000.0
ANY_LENGTH = (0, 2**31 - 1)
DEPTH_UNIT = 10.0
LEAST_RANKED = -20.0
RANKED_UNIT = 4.0
STATE_EPSILON = 1e-6
MAX_RANKED = 64
DEPTH_REPEATS = 14
SIZE_REPEATS = 29


@dataclass(frozen=True, slots=True)
class Layout:
    """Where an observation holds what.

    Args:
        slots: places for scores; where there are fewer scores, the rest is 0.
        repeats: how often the length and the depth are given.
        length_range: the shortest and the longest context length that are shown; shorter and longer ones are shown as
            these. Those that the policy was trained on, or `ANY_LENGTH`.

    Raises:
        InputError: a negative number, or a range that is none.
    """

    slots: int
    repeats: int
    length_range: tuple[int, int] = ANY_LENGTH

    def __post_init__(self) -> None:
        if self.slots < 0 or self.repeats < 0:
            raise InputError(f"an observation of {self.slots} scores and {self.repeats} repeats cannot be")
        check_length_range(self.length_range)

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
        """Context length within its range / 1000."""
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
        observation[:, self.length] = _shown_lengths(lengths, self.length_range, device)
        observation[:, self.depth] = _column(depths, device) / DEPTH_UNIT
        return observation


@dataclass(frozen=True, slots=True)
class Summary:
    """Our own observation, the same for both policies.

    Args:
        best: how many of the best scores of all candidates so far.
        newest: how many of the best scores of the newest level.
        states: size of the draft's states; 0 leaves them out.
        length_range: as that of a `Layout`.
        text: numbers of what the text proposes: `ltd.lookup.TEXT_FEATURES`, or 0 to leave them out. Only with them is
            there an observation before anything is drafted, at depth -1.

    Raises:
        InputError: a number out of range, or a range that is none.
    """

    best: int
    newest: int
    states: int = 0
    length_range: tuple[int, int] = ANY_LENGTH
    text: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.best <= MAX_RANKED or not 0 < self.newest <= MAX_RANKED:
            raise InputError(
                f"a summary of {self.best} best and {self.newest} newest scores cannot be; both must be "
                f"1 … {MAX_RANKED}"
            )
        if self.states < 0:
            raise InputError(f"a summary of {self.states} states cannot be")
        if self.text not in (0, TEXT_FEATURES):
            raise InputError(f"a summary of {self.text} numbers of the text cannot be; there are {TEXT_FEATURES}, or 0")
        check_length_range(self.length_range)

    @property
    def ranked(self) -> int:
        """Scores that it shows."""
        return self.best + self.newest

    @property
    def width(self) -> int:
        """Numbers in an observation: scores, probabilities, their two sums, length, depth, state, text."""
        return 2 * self.ranked + 2 + 1 + (MAX_DEPTH + 1) + self.states + self.text

    @property
    def least_depth(self) -> int:
        """The first depth that it can show: -1, before anything is drafted, where it shows the text."""
        return -1 if self.text else 0

    def build(
        self,
        scores: torch.Tensor,
        newest_from: int,
        lengths: torch.Tensor | ArrayLike,
        depth: int,
        states: torch.Tensor | None,
        text: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Observations of any number of cycles of the same depth at once.

        In this order: the `best` largest scores, descending, and the `newest` largest of the newest level, both not
        below -20, missing ones -20, divided by 4; their exponentials; the sum of the exponentials of the best, and of
        the newest; length within its range / 1000; 1 at the place of the depth among 0 … 12; the state divided by the
        root of its mean square; and the text's features as they are.

        At depth -1 nothing is drafted yet: there are no scores, the depth has no place, and the state, which nobody
        knows yet, counts as zeros.

        Args:
            scores: float32 (B, n), of all candidates so far; NaN counts as -20.
            newest_from: where the newest level begins, 0 … n.
            lengths: whole numbers (B,) or one for all: context lengths, without the root.
            depth: `least_depth` … 12.
            states: (B, states), any floating type; None is of no size. Not looked at where the depth is -1.
            text: float32 (B, text), as `ltd.lookup.TextCandidates.features`; None is of no size.

        Returns:
            float32 (B, width), on the scores' device.

        Raises:
            InputError: another shape, or a depth or place out of range.
        """
        batch, count = scores.shape
        if not self.least_depth <= depth <= MAX_DEPTH or not 0 <= newest_from <= count:
            raise InputError(f"depth {depth} or newest level from {newest_from} of {count} is out of range")
        if depth < 0 and count > 0:
            raise InputError(f"there are {count} scores at depth -1, where nothing is drafted yet; give none")
        if depth < 0:
            states = scores.new_zeros(batch, self.states)
        state = normalised(_of_size("states", states, scores, self.states))
        features = _of_size("features of the text", text, scores, self.text).float()
        known = scores.float().nan_to_num(nan=LEAST_RANKED).clamp(min=LEAST_RANKED)
        ranked = torch.cat([_largest(known, self.best), _largest(known[:, newest_from:], self.newest)], dim=1)
        likely = ranked.exp()
        sums = torch.stack([part.sum(1) for part in likely.split([self.best, self.newest], dim=1)], dim=1)
        length = _shown_lengths(lengths, self.length_range, scores.device).expand(batch, 1)
        place = torch.zeros(batch, MAX_DEPTH + 1, device=scores.device)
        if depth >= 0:
            place[:, depth] = 1.0
        return torch.cat([ranked / RANKED_UNIT, likely, sums, length, place, state, features], dim=1)


def normalised(states: torch.Tensor) -> torch.Tensor:
    """float32 (…, H): states divided by the root of their mean square (plus 1e-6); (…, 0) stays."""
    states = states.float()
    if states.shape[-1] == 0:
        return states
    return states * (states.square().mean(dim=-1, keepdim=True) + STATE_EPSILON).rsqrt()


def _of_size(name: str, values: torch.Tensor | None, scores: torch.Tensor, size: int) -> torch.Tensor:
    """(B, size): what is given, None being of no size. Raises InputError if it is of another than the layout shows."""
    values = scores.new_zeros(len(scores), 0) if values is None else values
    if values.shape != (len(scores), size):
        raise InputError(f"{name} {tuple(values.shape)} do not fit; they must be ({len(scores)}, {size})")
    return values


def _largest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """(B, count): the largest of (B, n) in descending order; -20 where there are fewer."""
    found = scores.topk(min(count, scores.shape[1]), dim=1).values
    missing = found.new_full((len(found), count - found.shape[1]), LEAST_RANKED)
    return torch.cat([found, missing], dim=1)


def depth_layout(width: int) -> Layout:
    """The paper's layout for the depth policy: the scores of the newest level, W²."""
    return Layout(width * width, DEPTH_REPEATS)


def size_layout(width: int, max_depth: int) -> Layout:
    """The paper's layout for the size policy: the scores of all candidates, W + D * W²."""
    return Layout(candidate_count(width, max_depth), SIZE_REPEATS)


def check_length_range(length_range: tuple[int, int]) -> None:
    """Raises InputError unless it is a shortest and a longest context length, in this order."""
    shortest, longest = length_range
    if not ANY_LENGTH[0] <= shortest <= longest <= ANY_LENGTH[1]:
        raise InputError(
            f"context lengths of {shortest} … {longest} are no range; the shortest must be 0 or more, and the longest "
            f"neither shorter nor above {ANY_LENGTH[1]}"
        )


def _shown_lengths(
    lengths: torch.Tensor | ArrayLike, length_range: tuple[int, int], device: torch.device
) -> torch.Tensor:
    """float32 (B, 1) or (1, 1): context lengths as every observation shows them."""
    return _column(lengths, device).clamp(*length_range) / LENGTH_UNIT


def _column(values: torch.Tensor | ArrayLike, device: torch.device) -> torch.Tensor:
    """float32 (B, 1) or (1, 1)."""
    tensor = values if isinstance(values, torch.Tensor) else torch.from_numpy(np.asarray(values, dtype=np.float32))
    return tensor.to(device=device, dtype=torch.float32).reshape(-1, 1)
