"""Which questions train and which validate."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ltd.errors import InputError
from ltd_rl.traces.format import RecordedGeneration

LEAST_COMPARED = 2  # questions of a task; one alone has no interval
LEAST_QUESTIONS = LEAST_COMPARED + 2
VALIDATION_SEED = 1  # another than the comparison's


def held_out(
    count: int, share: float = 0.2, seed: int = 0, least: int = 1, kinds: Sequence[float] | None = None
) -> tuple[list[int], list[int]]:
    """Numbers 0 … count - 1 for training and for validation, both ascending; they are the same for the same arguments.

    Args:
        count: how many there are.
        share: that are held out, rounded up.
        seed: of the order that the last are taken from.
        least: so many are held out at least.
        kinds: of the numbers, which are held out in turns; None is one kind.

    Raises:
        InputError: too few for both, or a share out of range.
    """
    if not 0 < share < 1:
        raise InputError(f"a share of {share} cannot be held out; it must be between 0 and 1")
    if count <= least:
        raise InputError(
            f"{count} questions cannot be split so that {least} or more are held out; it takes at least {least + 1}"
        )
    order = list(range(count))
    random.Random(seed).shuffle(order)
    if kinds is not None:
        order = in_turns(order, kinds)
    kept = count - min(max(math.ceil(count * share), least), count - 1)
    return sorted(order[:kept]), sorted(order[kept:])


def in_turns(order: Sequence[int], kinds: Sequence[float]) -> list[int]:
    """The numbers such that, from the end on, one of each kind comes after the other; of one kind as they are."""
    seen, places = Counter[float](), {}
    for number in reversed(order):
        places[number] = seen[kinds[number]]
        seen[kinds[number]] += 1
    return sorted(order, key=places.__getitem__, reverse=True)


def split_questions(
    questions: Iterable[tuple[str, str]],
    share: float = 0.2,
    seed: int = 0,
    least: int = 1,
    kinds: Mapping[tuple[str, str], float] | None = None,
) -> set[tuple[str, str]]:
    """The questions that are held out, of every task its share, see `held_out`.

    Args:
        questions: (task, question id), in order; one that comes again counts once.
        kinds: of the questions, such as their temperature: each has its part in what is held out, as far as there is
            room. None is one kind.

    Raises:
        InputError: a task has too few; the message names it.
    """
    by_task: dict[str, list[str]] = {}
    for task, question in dict.fromkeys(questions):
        by_task.setdefault(task, []).append(question)
    chosen: set[tuple[str, str]] = set()
    for task, mine in by_task.items():
        try:
            own = None if kinds is None else [kinds[task, question] for question in mine]
            _, kept = held_out(len(mine), share, seed, least, own)
        except InputError as error:
            raise InputError(f"task {task}: {error}") from error
        chosen |= {(task, mine[number]) for number in kept}
    return chosen


@dataclass(frozen=True, slots=True, eq=False)
class ThreeWays:
    """Generations of different questions, a share of every task's in each.

    Attributes:
        training: to learn from.
        validation: to choose among what was learned, such as the epoch.
        comparison: that nothing was learned or chosen with.
    """

    training: list[RecordedGeneration]
    validation: list[RecordedGeneration]
    comparison: list[RecordedGeneration]

    @property
    def known(self) -> list[RecordedGeneration]:
        """All but those of the comparison."""
        return self.training + self.validation


def split_three_ways(generations: Sequence[RecordedGeneration]) -> ThreeWays:
    """A fifth of every task's questions to compare with, at least two, and a fifth of the others to validate with.

    Raises:
        InputError: a task has fewer than `LEAST_QUESTIONS` questions.
    """
    check_three_ways((each.task, each.question_id) for each in generations)
    known, comparison = split_generations(generations, least=LEAST_COMPARED)
    return ThreeWays(*split_generations(known, seed=VALIDATION_SEED), comparison)


def check_three_ways(questions: Iterable[tuple[str, str]]) -> None:
    """Raises InputError if `split_three_ways` cannot split these questions, (task, question id)."""
    counts = Counter(task for task, _ in dict.fromkeys(questions))
    for task, count in counts.items():
        if count < LEAST_QUESTIONS:
            raise InputError(
                f"task {task} has {count} question{'s' * (count != 1)}, but to train, to validate and to compare takes "
                f"at least {LEAST_QUESTIONS} of every task"
            )


def split_generations(
    generations: Sequence[RecordedGeneration], share: float = 0.2, seed: int = 0, least: int = 1
) -> tuple[list[RecordedGeneration], list[RecordedGeneration]]:
    """Generations for training and for validation: of every task the same share of its questions, with all their turns.

    Where there are several temperatures, they have their parts in both.

    Raises:
        InputError: as `split_questions`.
    """
    heat = {(each.task, each.question_id): each.sampling.temperature for each in generations}
    chosen = split_questions(heat, share, seed, least, heat)
    sides: tuple[list[RecordedGeneration], list[RecordedGeneration]] = ([], [])
    for generation in generations:
        sides[(generation.task, generation.question_id) in chosen].append(generation)
    return sides
