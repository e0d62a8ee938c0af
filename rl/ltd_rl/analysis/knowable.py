"""A bound on what can be known: how many tokens per second large predictors reach that have not seen the question.

The optimum knows the future. Here, at every stage of a cycle, a predictor says from what is known there what every
decision that is still open would gain. With its cost, which is known, and a second worth `rate` tokens, the best is
that of the greatest

    expected gain - rate · seconds,

as of the exact trainer and Dinkelbach's method. Where it is one of this stage, the cycle stops there; else it drafts
one level more, and is predicted anew. The questions are dealt into folds: what is decided about those of a fold is
learned, and its rate found, from the others alone. The decisions are then replayed as all others are.

What comes out can be reached with what is known, so it is a lower bound on the knowable, as good as the predictor is:
another may know more, and the value of what the next level will tell is not in the expectation.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from ltd.common.arrays import Doubles, Floats, Integers
from ltd.errors import InputError
from ltd.latency.cycle_bench import LOOKED_UP
from ltd.latency.model import LatencyModel
from ltd.lookup import TextScores
from ltd.tree import NOT_ASKED
from ltd_rl.analysis.known import Known
from ltd_rl.analysis.predictors import PREDICTORS, Predictor, ahead, check_boosting
from ltd_rl.analysis.ways import Way, decided_before
from ltd_rl.traces.format import RecordedGeneration
from ltd_rl.traces.limits import worthwhile
from ltd_rl.traces.optimum import best_static, silent_first
from ltd_rl.traces.outcomes import Outcomes, outcomes_of, reading_more, split, total

FOLDS = 5
CHECKED = 6  # of the questions that are learned from, one in so many says when to end
ROUNDS = 4  # of Dinkelbach's method; the rate settles in two or three
SEED = 0  # of which question is in which fold


@dataclass(frozen=True, slots=True, eq=False)
class Knowable:
    """What a kind of predictor comes to.

    Attributes:
        depths, steps: int64 (P,), the decisions; `NOT_ASKED` does not ask the draft.
        explained: the share of the variance of the gains that it predicts on questions that it has not seen, once the
            first level is drafted; without a draft, before.
    """

    depths: Integers
    steps: Integers
    explained: float


def check_questions(questions: Sequence[Hashable]) -> None:
    """Raises InputError if there are too few to learn from some and judge on others, or nothing to learn with."""
    check_boosting()
    if len(set(questions)) < 2:
        raise InputError("the knowable is learned from some questions and judged on others; record at least 2")


def knowable_ways(
    generations: Sequence[RecordedGeneration], latency: LatencyModel, text: TextScores | None
) -> tuple[dict[str, Way], list[str]]:
    """A way to decide for every kind of predictor, all tasks together, and sentences on them.

    Args:
        generations: those with positions. text: how likely looked-up tokens are; None where nothing is looked up.
    """
    sizes, depth = worthwhile(generations, latency, text)
    ladder, most = sizes if text is not None else sizes[1:], 0 if text is None else LOOKED_UP
    outcomes = outcomes_of(generations, latency, ladder, depth, text, most or LOOKED_UP)
    questions = [(generation.task, generation.question_id) for generation in generations]
    ways, notes = {}, []
    for name, make in PREDICTORS.items():
        found = knowable(outcomes, questions, make, f"knowable, {name}")
        decide = decided_before(generations, found.depths, np.array(ladder)[found.steps])
        ways[f"knowable, {name}"] = Way(decide, text, most)
        notes.append(
            f"Knowable, {name}: predicts {found.explained:.0%} of the variance of gains on questions that it has not "
            "seen; a lower bound on what can be known."
        )
    return ways, notes


def knowable(
    outcomes: Outcomes, questions: Sequence[Hashable], make: Callable[[], Predictor], title: str = "knowable"
) -> Knowable:
    """What a kind of predictor comes to at the positions of some outcomes.

    Args:
        outcomes: the positions. questions: at least two, one for each generation. make: a new predictor. title: of the
            progress bar.
    """
    numbers, dealt = numbered(questions), folds_of(len(set(questions)))
    folds = dealt[numbers]
    predicted = predict_unseen(outcomes, numbers, dealt, make, title)
    seconds = expected_seconds(outcomes, predicted)
    depths, steps = np.zeros((2, outcomes.positions), dtype=np.int64)
    for fold in range(dealt.max() + 1):
        rate = best_rate(outcomes, predicted, seconds, np.flatnonzero(folds != fold))
        mine = np.flatnonzero(np.repeat(folds == fold, np.diff(outcomes.starts)))
        depths[mine], steps[mine] = choose(outcomes, predicted[mine], seconds[mine], rate)
    return Knowable(depths, steps, explained(outcomes, predicted))


# --- by question ---


def numbered(questions: Sequence[Hashable]) -> Integers:
    """int64 (G,): a number for each question, from 0 in the order in which they first come."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(question, len(numbers)) for question in questions], dtype=np.int64)


def folds_of(count: int) -> Integers:
    """int64 (Q,): the fold of each of so many questions, about as many in each."""
    folds: Integers = np.random.default_rng(SEED).permutation(count) % min(FOLDS, count)
    return folds


def predict_unseen(
    outcomes: Outcomes, numbers: Integers, folds: Integers, make: Callable[[], Predictor], title: str
) -> Floats:
    """float32 (P, stages, D + 2, S): gains that are expected at every stage, by predictors without that question.

    Args:
        numbers: int64 (G,), the question of each generation. folds: int64 (Q,), the fold of each question.
    """
    known, asked = Known(outcomes), np.repeat(numbers, np.diff(outcomes.starts))
    shape = (outcomes.positions, len(known.stages), outcomes.depth + 2, len(outcomes.sizes))
    predicted = np.ones(shape, dtype=np.float32)
    ticks = make().ticks * len(known.stages)
    with tqdm(total=ticks * (folds.max() + 1), desc=title, unit="step") as progress:
        for fold in range(folds.max() + 1):
            others = np.flatnonzero(folds != fold)
            checks = others[::CHECKED]
            learned = np.setdiff1d(others, checks) if len(others) > 1 else others
            rows = [np.flatnonzero(np.isin(asked, part)) for part in (learned, checks, np.flatnonzero(folds == fold))]
            predictor = make()
            predictor.fit(known, rows[0], rows[1], progress.update)
            for place, stage in enumerate(known.stages):
                predicted[rows[2], place] = np.maximum(predictor.predict(known, rows[2], stage), 1.0)
            progress.update(ticks * (fold + 1) - progress.n)  # where it ended early
    return predicted


# --- deciding ---


def expected_seconds(outcomes: Outcomes, predicted: Floats) -> Floats:
    """float32 (P, stages, D + 2, S): what cycles cost with the gains that are expected at every stage.

    All of a cycle's cost is known beforehand but for the draft's reading of what it gains.
    """
    lengths, begin = outcomes.lengths[:, None, None], outcomes.begin
    seconds = np.repeat(outcomes.seconds[:, None], predicted.shape[1], axis=1)
    seconds[:, :, :NOT_ASKED] -= begin(outcomes.gains[:, :NOT_ASKED], lengths).astype(np.float32)[:, None]
    for place in range(predicted.shape[1]):
        seconds[:, place, :NOT_ASKED] += begin(predicted[:, place, :NOT_ASKED], lengths).astype(np.float32)
        # Without the draft it is read later; here, as if the draft were asked right after.
        later = reading_more(begin, 1, predicted[:, place, NOT_ASKED], outcomes.lengths[:, None])
        seconds[:, place, NOT_ASKED] += later.astype(np.float32)
    return seconds


def choose(outcomes: Outcomes, predicted: Floats, seconds: Floats, rate: float) -> tuple[Integers, Integers]:
    """int64 (n,) each: depths and steps where a second is worth `rate` tokens; of equals, the smallest draft.

    Args:
        outcomes: whose decisions they are. predicted, seconds: float32 (n, stages, D + 2, S), at n positions.
    """
    depths, steps = np.zeros((2, len(predicted)), dtype=np.int64)
    going = np.arange(len(predicted))
    for place, stage in enumerate(range(NOT_ASKED, outcomes.depth + 1)):
        if not len(going):
            break
        worth: Doubles = predicted[going, place] - rate * seconds[going, place].astype(np.float64)
        worth[:, ~ahead(outcomes, stage)] = -np.inf
        best, step = np.divmod(silent_first(worth).argmax(axis=1), len(outcomes.sizes))
        stops = best + NOT_ASKED == stage
        depths[going[stops]], steps[going[stops]] = stage, step[stops]
        going = going[~stops]
    return depths, steps


def best_rate(outcomes: Outcomes, predicted: Floats, seconds: Floats, generations: Integers) -> float:
    """Tokens per second that some generations, by number, reach where a second is worth just that (Dinkelbach)."""
    part = split(outcomes, generations.tolist())
    rows = np.concatenate([np.arange(outcomes.starts[each], outcomes.starts[each + 1]) for each in generations])
    rate = best_static(part)[2].throughput
    for _ in range(ROUNDS):
        rate = total(part, *choose(part, predicted[rows], seconds[rows], rate)).throughput
    return rate


def explained(outcomes: Outcomes, predicted: Floats) -> float:
    """See `Knowable`."""
    place = min(1, outcomes.depth + 1)
    chosen = ahead(outcomes, place + NOT_ASKED)
    gains = outcomes.gains[:, chosen].astype(np.float64)
    missed, spread = ((gains - middle) ** 2 for middle in (predicted[:, place][:, chosen], gains.mean(axis=0)))
    return 1.0 - float(missed.sum() / spread.sum()) if spread.any() else 0.0
