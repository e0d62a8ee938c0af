"""What the samples of an evaluation come to: speed with its uncertainty, what was drafted, where the time went."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from ltd.common.journal import Record
from ltd.evaluation.method_names import plain_among

MEAN = "mean"
RESAMPLES = 2000
LEVEL = 0.95
TIME_PARTS = ("draft", "lookup", "verify", "policy", "rest")
WHOLE = "whole"  # the time of what is timed from outside, and has no parts

Interval = tuple[float, float]
Groups = dict[str, dict[str, list[Record]]]  # by task, then by method


@dataclass(frozen=True, slots=True)
class Score:
    """One method on one task, prefill left out.

    Attributes:
        tokens_per_second: Σ tokens / Σ seconds over the task's answers.
        acceptance_length: τ, Σ tokens / Σ cycles.
        speedup: its tokens_per_second over the baseline's; None if that was not run.
        interval: where the speedup would be for other questions like these, see `intervals`; None if that is unknown.
    """

    tokens_per_second: float
    acceptance_length: float
    speedup: float | None
    interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class Drafted:
    """What one method drafted, over all tasks; None where it does not tell.

    Attributes:
        depth, size: mean D and V per cycle; a cycle that verified nothing counts as 0 and 0.
        discarded: candidates that were verified and rejected, per accepted one.
        target_calls: cycles per 100 tokens.
        depths, sizes: how many cycles that verified anything had each; depth -1 is the text's candidates alone.
        cycles: how many there were in all.
        sources: accepted candidates per cycle, by who proposed them: the draft, the text so far, or both. Empty where
            no tokens were looked up.
    """

    depth: float | None
    size: float | None
    discarded: float | None
    target_calls: float | None
    depths: dict[int, int]
    sizes: dict[int, int]
    cycles: int
    sources: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spent:
    """Where one method's time went, over all tasks.

    Attributes:
        milliseconds: per token, by `TIME_PARTS`, or as `WHOLE`; the prefill is left out.
        prefill: seconds per answer.
    """

    milliseconds: dict[str, float]
    prefill: float

    @property
    def shares(self) -> dict[str, float]:
        """The share of each part, 0 … 1."""
        total = sum(self.milliseconds.values()) or 1.0
        return {part: value / total for part, value in self.milliseconds.items()}


def all_scores(results: Record) -> Record:
    """Everything in this module, as plain values for JSON: by method, `tasks`, `drafted` and `time`."""
    by_method = scores(results)
    found: Record = {}
    for method, samples in group(results["samples"], "method").items():
        time = spent(samples)
        found[method] = {
            "tasks": {task: asdict(score) for task, score in by_method[method].items()},
            "drafted": asdict(drafted(samples)),
            "time": asdict(time) | {"shares": time.shares},
        }
    plain: Record = json.loads(json.dumps(found))  # tuples become lists, and numbers as keys texts
    return plain


def scores(results: Record, baseline: str | None = None) -> dict[str, dict[str, Score]]:
    """By method, then by task; "mean" is the arithmetic mean over the tasks, as in the paper's table.

    Args:
        results: of a run. baseline: a method; None is plain decoding, if it is among them.
    """
    tasks, methods = results["settings"]["tasks"], results["settings"]["methods"]
    baseline = baseline or plain_among(methods)
    by_task = group(results["samples"], "task")
    groups: Groups = {task: group(by_task[task], "method") for task in tasks}
    found = {} if baseline is None else intervals(groups, baseline)
    table: dict[str, dict[str, Score]] = {}
    for method in methods:
        row = {}
        for task in tasks:
            rate = throughput(groups[task][method])
            plain = 0.0 if baseline is None else throughput(groups[task][baseline])
            length = acceptance_length(groups[task][method])
            row[task] = Score(rate, length, rate / plain if plain else None, found.get((method, task)))
        table[method] = {**row, MEAN: mean_score(list(row.values()), found.get((method, MEAN)))}
    return table


def group(samples: Iterable[Record], key: str) -> dict[str, list[Record]]:
    """The samples by one of their values, in order of appearance."""
    found: dict[str, list[Record]] = {}
    for sample in samples:
        found.setdefault(sample[key], []).append(sample)
    return found


def throughput(samples: Iterable[Record]) -> float:
    """Σ tokens after the first / Σ seconds after the prefill; 0 for nothing."""
    samples = list(samples)
    seconds = sum(sample["decode_seconds"] for sample in samples)
    return sum(sum(sample["gains"]) for sample in samples) / seconds if seconds else 0.0


def acceptance_length(samples: Iterable[Record]) -> float:
    """Σ tokens gained / Σ cycles; 0 for nothing."""
    samples = list(samples)
    cycles = sum(sample["cycles"] for sample in samples)
    return sum(sum(sample["gains"]) for sample in samples) / cycles if cycles else 0.0


def mean_score(row: Sequence[Score], interval: Interval | None = None) -> Score:
    """The arithmetic mean of several scores."""
    speedups = [score.speedup for score in row if score.speedup is not None]
    return Score(
        fmean(score.tokens_per_second for score in row),
        fmean(score.acceptance_length for score in row),
        fmean(speedups) if len(speedups) == len(row) else None,
        interval,
    )


# --- uncertainty ---


def intervals(
    groups: Groups, baseline: str, resamples: int = RESAMPLES, seed: int = 0
) -> dict[tuple[str, str], Interval]:
    """The bootstrap's 95 % interval of every speedup, by method and task, and of its mean over the tasks.

    Every resample draws the questions of each task anew, with replacement, the same for all methods (so that hard
    questions are hard for both sides of a ratio), and asks for the speedup on those; the interval is from the 2.5 % to
    the 97.5 % quantile of the percentile method. A task of one question has no interval, nor has the mean then.
    """
    generator = np.random.default_rng(seed)
    methods = list(next(iter(groups.values())))
    found: dict[tuple[str, str], Interval] = {}
    means = np.zeros((resamples, len(methods)))
    for task, samples in groups.items():
        # Methods take turns at going first, so tasks may hold them in different orders.
        tokens, seconds = question_sums({method: samples[method] for method in methods})
        count = tokens.shape[0]
        # How often each question is drawn; (resamples, questions).
        draws = generator.multinomial(count, np.full(count, 1 / count), size=resamples)
        speedups = (
            np.full((resamples, len(methods)), np.nan)
            if count < 2
            else ratios(draws, tokens, seconds, methods.index(baseline))
        )
        found |= quantiles(speedups, methods, task)
        means += speedups / len(groups)
    return found | quantiles(means, methods, MEAN)


def question_sums(samples: Mapping[str, Sequence[Record]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(questions, methods) twice: tokens, and seconds, summed over the turns of each question."""
    places = {question: place for place, question in enumerate(group(next(iter(samples.values())), "question_id"))}
    tokens, seconds = np.zeros((2, len(places), len(samples)))
    for column, mine in enumerate(samples.values()):
        for sample in mine:
            tokens[places[sample["question_id"]], column] += sum(sample["gains"])
            seconds[places[sample["question_id"]], column] += sample["decode_seconds"]
    return tokens, seconds


def ratios(
    draws: NDArray[np.int64], tokens: NDArray[np.float64], seconds: NDArray[np.float64], baseline: int
) -> NDArray[np.float64]:
    """(resamples, methods): tokens per second over those of the baseline's column; NaN where it has none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = (draws @ tokens) / (draws @ seconds)
        speedups = rates / rates[:, [baseline]]
    return np.where(np.isfinite(speedups), speedups, np.nan)


def quantiles(speedups: NDArray[np.float64], methods: Sequence[str], task: str) -> dict[tuple[str, str], Interval]:
    """The interval of every method whose (resamples, methods) column has a number everywhere."""
    low, high = np.quantile(speedups, ((1 - LEVEL) / 2, (1 + LEVEL) / 2), axis=0)
    ends = zip(methods, low.tolist(), high.tolist(), strict=True)
    return {(method, task): (bottom, top) for method, bottom, top in ends if not math.isnan(bottom)}


# --- choices and time ---


def drafted(samples: Sequence[Record]) -> Drafted:
    """What one method drafted in these answers.

    A cycle that gained n tokens accepted n - 1, the last one being the target's own. An answer's last cycle may have
    accepted one more, as its gain ends where the answer does; that one is not counted.
    """
    cycles = sum(sample["cycles"] for sample in samples)
    tokens = sum(sum(sample["gains"]) for sample in samples)
    calls = 100 * cycles / tokens if tokens else None
    chosen = [pair for sample in samples for pair in zip(sample["depths"], sample["sizes"], strict=True)]
    if not chosen:
        return Drafted(None, None, None, calls, {}, {}, cycles)
    verified = [(depth, size) for depth, size in chosen if size > 0]
    candidates, accepted = sum(size for _, size in verified), tokens - cycles
    return Drafted(
        depth=sum(max(depth, 0) for depth, _ in verified) / len(chosen),
        size=candidates / len(chosen),
        discarded=(candidates - accepted) / accepted if accepted else None,
        target_calls=calls,
        depths=dict(sorted(Counter(depth for depth, _ in verified).items())),
        sizes=dict(sorted(Counter(size for _, size in verified).items())),
        cycles=len(chosen),
        sources=accepted_from(samples, cycles),
    )


def accepted_from(samples: Sequence[Record], cycles: int) -> dict[str, float]:
    """Accepted candidates per cycle by their source; empty where no tokens were looked up."""
    counts: Counter[str] = Counter()
    for sample in samples:
        counts.update(sample.get("sources", {}))  # samples of earlier versions do not tell
    return {name: count / cycles for name, count in counts.items()} if cycles else {}


def spent(samples: Sequence[Record]) -> Spent:
    """Where one method's time went in these answers."""
    tokens = sum(sum(sample["gains"]) for sample in samples) or 1
    milliseconds = dict.fromkeys(TIME_PARTS, 0.0)
    for sample in samples:
        for part, seconds in sample["seconds"].items():
            if part != "prefill":
                place = part if part in (*TIME_PARTS, WHOLE) else "rest"
                milliseconds[place] = milliseconds.get(place, 0.0) + 1e3 * seconds / tokens
    return Spent(milliseconds, fmean(sample["seconds"]["prefill"] for sample in samples))
