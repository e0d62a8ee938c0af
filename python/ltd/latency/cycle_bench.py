"""The decoder's own cycles, timed part by part, with trees of chosen sizes: of a draft, or of the text's candidates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, cycle

import numpy as np
import torch

from ltd.decoding.acceptance import accept_greedy
from ltd.decoding.decoder import Decoder
from ltd.decoding.gain import Gain
from ltd.decoding.prefill import prefill
from ltd.decoding.request import Request
from ltd.decoding.statistics import Statistics, Stopwatch
from ltd.decoding.stopping import StopRule, take
from ltd.drafts.base import at_width, reads_features
from ltd.errors import InputError
from ltd.lookup import MAX_TEXT, TextScores, TextSource
from ltd.lookup.scores import AGREEMENTS, MATCHES, MOST_CHANCE, RATES
from ltd.policies.base import check_width
from ltd.tree import MAX_CANDIDATES, MAX_DEPTH, MAX_GAIN, MAX_SIZE, DraftTree, candidate_count

LENGTHS = (64, 256, 512, 1024)
SIZES = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 200, 240)
GAINS = (1, 2, 4, 8, MAX_GAIN)
LOOKED_UP = 32  # candidates of the text, as learned policies have them
WORDS = 50  # different tokens in the text: so few that at every place there are as many candidates as that
FEW_WORDS = 4  # the same without a draft, where trees are to have `MAX_TEXT` candidates behind a short text too
Key = tuple[str, int, int]  # part, size, length
Timings = dict[Key, list[float]]
Taken = Iterable[tuple[Key, float]]
# Of so many cycles one drafts to the full depth, for the expansions. The others draft what their size needs, as cycles
# of use do: much drafting before a verification drives what that reads out of the processor's caches.
DEEP = 4
# By these nothing that the text proposes is left out as too unlikely.
ALL_LIKELY = TextScores(
    np.full((MATCHES, AGREEMENTS, RATES), MOST_CHANCE, dtype=np.float32),
    np.zeros(0, dtype=np.float32),
    np.zeros(0, dtype=np.float32),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Args:
        lengths: context lengths in tokens; None takes 64, 256, 512 and 1024, as far as the context goes.
        sizes: candidates to verify, without the root; those that no tree here can have are left out.
        gains: tokens that the draft reads at the beginning of a cycle.
        depth: how deep to draft, 1 … 12.
        width: beam width to draft with; None is the draft's own.
        seconds: about how long to measure; every point is measured once at least, however long that takes.
        seed: of the prompt and of the order.

    Raises:
        InputError: a number out of range.
    """

    lengths: tuple[int, ...] | None = None
    sizes: tuple[int, ...] = SIZES
    gains: tuple[int, ...] = GAINS
    depth: int = MAX_DEPTH
    seconds: float = 60.0
    seed: int = 0
    width: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise InputError(f"seconds {self.seconds} is out of range; it must be a positive number")
        check_range("size", self.sizes, 0, MAX_SIZE)
        check_range("gain", self.gains, 1, MAX_GAIN)
        check_range("depth", (self.depth,), 1, MAX_DEPTH)
        check_width(self.width)

    def lengths_for(self, max_length: int) -> list[int]:
        """The lengths, in order, for a decoder whose prompts and answers have at most so many tokens together."""
        least, most = max(self.gains), max_length - 1
        if most < least:
            raise InputError(f"max_length {max_length} is too short to measure at; it must be at least {least + 1}")
        if self.lengths is None:
            return sorted({max(least, min(length, most)) for length in LENGTHS})
        check_range("length", self.lengths, least, most)
        return sorted(set(self.lengths))

    def sizes_for(self, most: int) -> list[int]:
        """The sizes, in order, that a tree of so many candidates can have."""
        check_range("smallest size", (min(self.sizes),), 0, most)
        return sorted({size for size in self.sizes if size <= most})


def check_range(name: str, values: tuple[int, ...], low: int, high: int) -> None:
    """Raises InputError unless there are values and all of them are in the range."""
    if not values:
        raise InputError(f"there is no {name} to measure at; name at least one")
    for value in values:
        if not low <= value <= high:
            raise InputError(f"{name} {value} is out of range; it must be {low} … {high}")


@dataclass(slots=True)
class OrderedSize:
    """A policy that drafts as deep, and has verified as much, as it is told to.

    The limits of its trees stay the same whatever the size, as with a policy that learns, so buffers are kept. Tokens
    are looked up as well: what that takes is a part of its own.

    Attributes:
        depth: expansions that are ordered; None is the full depth.
        sizes: all that it will be told, so that a GPU verifies no more than that.
    """

    max_depth: int
    max_size: int
    size: int = 0
    depth: int | None = None
    max_text: int = LOOKED_UP
    sizes: tuple[int, ...] = ()

    def start(self, batch: int) -> OrderedSize:
        """Itself: the order holds for the next cycle of any call."""
        return self

    def keep(self, rows: list[int]) -> None:
        """Nothing is kept of any sequence."""

    def speculate(self, lengths: torch.Tensor, gained: list[int]) -> bool:
        """Always."""
        return True

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        """Up to the depth that was ordered."""
        return self.depth is None or depth < self.depth

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        """What was ordered."""
        return self.size


class LapLog(Stopwatch):
    """A stopwatch that also keeps every lap: its part and its seconds. It starts when the device is idle."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(Statistics(), device, waits=True)
        self.laps: list[tuple[str, float]] = []
        self.lap("other")  # what is still running on a GPU
        self.laps.clear()

    def lap(self, part: str) -> None:
        """Ends a part, as in the decoder."""
        begun = self.last
        super().lap(part)
        self.laps.append((part, self.last - begun))


class CycleBench:
    """Runs the decoder's cycles and prefills at chosen sizes and lengths, and says what their parts took.

    Args:
        decoder: whose target and draft are measured, or, where it looks tokens up without a draft, that; its own
            settings do not count, only its max_length.
        plan: what to measure.

    Raises:
        InputError: as for `calibrate`.

    Attributes:
        lengths: context lengths, in order.
        grid: the sizes of every part, in order.
    """

    def __init__(self, decoder: Decoder, plan: Plan) -> None:
        if decoder.draft is None and decoder.text_scores is None:
            raise InputError(
                "calibration measures drafting beside decoding, so it needs a draft; load one, or the draft lookup"
            )
        self.target, self.max_length = decoder.target, decoder.max_length
        self.draft = None if decoder.draft is None else at_width(decoder.draft, plan.width)
        self.lengths = plan.lengths_for(self.max_length)
        generator = torch.Generator().manual_seed(plan.seed)
        words = min(FEW_WORDS if self.draft is None else WORDS, self.target.vocab_size)
        # One more than the longest context: the root.
        self.text = torch.randint(words, (self.lengths[-1] + 1,), generator=generator)
        sizes = plan.sizes_for(self.most_candidates(plan.depth))
        self.grid = {
            "begin": sorted(set(plan.gains)),
            "expand": list(range(1, plan.depth + 1)),
            "verify": sizes,
            "other": sizes,
            "lookup": [0],
            "plain": [0],
            "prefill": [0],
        }
        looked_up, scores = MAX_TEXT, None if self.draft is not None else ALL_LIKELY
        if self.draft is not None:  # beside a wide draft there may be room for fewer
            looked_up = min(LOOKED_UP, MAX_CANDIDATES - candidate_count(self.draft.width, plan.depth))
        self.policy = OrderedSize(plan.depth, max(sizes), max_text=looked_up, sizes=tuple(sizes))
        self.drafting = Decoder(self.target, self.draft, self.policy, max_length=self.max_length, text_scores=scores)
        self.plain = Decoder(self.target, max_length=self.max_length)
        self.gains = {length: cycle(self.grid["begin"]) for length in self.lengths}
        self.deep = {length: cycle([True] + [False] * (DEEP - 1)) for length in self.lengths}
        self.capacity = self.request(self.drafting, self.lengths[-1]).capacity
        self.features = self.read_features()

    def most_candidates(self, depth: int) -> int:
        """Candidates that trees can have at all lengths: the draft's of this depth, or else those of the text."""
        if self.draft is not None:
            return candidate_count(self.draft.width, depth)
        source, read, found = TextSource(1, ALL_LIKELY, MAX_TEXT), 0, MAX_TEXT
        for length in self.lengths:
            source.extend(0, self.text[read : length + 1].tolist())
            read, found = length + 1, min(found, source.propose().counts_list[0])
        return found

    def points(self) -> list[partial[Taken]]:
        """Everything to measure, as calls that give what the parts took."""
        return self.points_at(self.lengths)

    @property
    def may_record(self) -> bool:
        """Whether first calls may record their cycle, as on a GPU, which takes far longer than the cycle."""
        return self.target.device.type != "cpu"

    def warming_points(self) -> list[partial[Taken]]:
        """Those whose first call takes longer than others, so that its result does not count.

        All where cycles are recorded; else those of the longest context, which touch all the memory.
        """
        return self.points_at(self.lengths if self.may_record else self.lengths[-1:])

    def points_at(self, lengths: list[int]) -> list[partial[Taken]]:
        """What is measured at these lengths."""
        return [
            *(
                partial(self.time_cycle, size, length, self.gains[length], self.deep[length])
                for length in lengths
                for size in self.grid["verify"]
            ),
            *(partial(self.time_plain, length) for length in lengths),
            *(partial(self.time_prefill, length) for length in lengths),
        ]

    def time_cycle(self, size: int, length: int, gains: Iterator[int], deep: Iterator[bool]) -> Taken:
        """A cycle that verifies so many candidates after the next of the gains, and is deep or not as the next says."""
        count, self.policy.size = next(gains), size
        self.policy.depth = self.policy.max_depth if next(deep) else self.least_depth(size)
        read = length - count + 1  # all that is committed, but for the last gain
        request = self.request(self.drafting, read)
        with request.open(self.target, self.capacity):
            assert request.speculation is not None
            # Nothing is read again: the rows hold some text's keys and values, and time does not depend on which.
            request.session.cache.advance([length])
            if request.speculation.session is not None:
                request.speculation.session.pretend_read([read])
            laps = self.run_cycle(self.drafting, request, self.gain(request, length, count))
        drafting = [seconds for part, seconds in laps if part == "draft"]
        # Without a draft, what is not there takes no time.
        begin, *expansions = drafting or [0.0] * (1 + self.policy.max_depth)
        verify = sum(seconds for part, seconds in laps if part == "verify")
        lookup = sum(seconds for part, seconds in laps if part == "lookup")
        other = sum(seconds for part, seconds in laps if part not in ("draft", "verify", "lookup"))
        levels = ((("expand", level, length), seconds) for level, seconds in enumerate(expansions, 1))
        rest = ((("verify", size, length), verify), (("other", size, length), other), (("lookup", 0, length), lookup))
        return chain([(("begin", count, length), begin)], levels, rest)

    def least_depth(self, size: int) -> int:
        """Expansions without which a tree of the draft has fewer candidates than that; 0 without a draft."""
        depth, width = 0, 1 if self.draft is None else self.draft.width
        while self.draft is not None and candidate_count(width, depth) < size:
            depth += 1
        return depth

    def time_plain(self, length: int) -> Taken:
        """A cycle of plain decoding."""
        request = self.request(self.plain, length)
        with request.open(self.target, self.capacity):
            request.session.cache.advance([length])
            laps = self.run_cycle(self.plain, request, self.gain(request, length, 1))
        return [(("plain", 0, length), sum(seconds for _, seconds in laps))]

    def time_prefill(self, length: int) -> Taken:
        """Reading a prompt, the draft's part included."""
        request = self.request(self.drafting, length)
        with request.open(self.target, self.capacity):
            watch = LapLog(self.target.device)
            prefill(self.target, request)
            watch.lap("prefill")
        return [(("prefill", 0, length), watch.laps[0][1])]

    def run_cycle(self, decoder: Decoder, request: Request, gain: Gain) -> list[tuple[str, float]]:
        """One cycle, from the last gain to the tokens that come out; its laps."""
        watch = LapLog(self.target.device)
        accepted = decoder.cycle(request, gain, watch).accepted
        take([0], accepted.token_lists, request.answers, request.stops)
        watch.lap("other")
        return watch.laps

    def request(self, decoder: Decoder, length: int) -> Request:
        """A greedy request with a prompt of so many tokens."""
        prompts = [self.text[:length].tolist()]
        stops = StopRule.usual(prompts, (), MAX_GAIN, self.max_length)
        return Request(prompts, accept_greedy, stops, decoder.speculation())

    def read_features(self) -> torch.Tensor | None:
        """(1, n, F * Ht): the target's features of the longest context; None if the draft reads none."""
        with self.target.session(1, self.capacity, tap=reads_features(self.draft)) as session:
            return session.prefill(0, self.text[:-1].to(self.target.device)).features

    def gain(self, request: Request, length: int, count: int) -> Gain:
        """A last gain of so many tokens, the last of which is the root at position `length`."""
        accepted = request.report.known([self.text[length - count + 1 : length + 1].tolist()])
        features = request.session.features
        if features is not None and self.features is not None:
            features[:, :count] = self.features[:, length - count : length]
        return Gain(accepted, features)
