"""Which questions train and which validate."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from ltd.errors import InputError
from ltd_rl.traces.format import RecordedGeneration


def held_out(count: int, share: float = 0.2, seed: int = 0) -> tuple[list[int], list[int]]:
    """Numbers 0 … count - 1 for training and for validation, both ascending; they are the same for the same arguments.

    Args:
        count: how many there are.
        share: that are held out, rounded up.
        seed: of the order that the last are taken from.

    Raises:
        InputError: too few for both, or a share out of range.
    """
    if not 0 < share < 1:
        raise InputError(f"a share of {share} cannot be held out; it must be between 0 and 1")
    if count < 2:
        raise InputError(f"{count} questions cannot be split into training and validation; record at least 2")
    order = list(range(count))
    random.Random(seed).shuffle(order)
    kept = count - min(math.ceil(count * share), count - 1)
    return sorted(order[:kept]), sorted(order[kept:])


def split_generations(
    generations: Sequence[RecordedGeneration], share: float = 0.2, seed: int = 0
) -> tuple[list[RecordedGeneration], list[RecordedGeneration]]:
    """Generations for training and for validation; all turns of a question go to the same side.

    Raises:
        InputError: as `held_out`.
    """
    questions = list(dict.fromkeys((generation.task, generation.question_id) for generation in generations))
    _, validation = held_out(len(questions), share, seed)
    chosen = {questions[number] for number in validation}
    sides: tuple[list[RecordedGeneration], list[RecordedGeneration]] = ([], [])
    for generation in generations:
        sides[(generation.task, generation.question_id) in chosen].append(generation)
    return sides
