"""At which temperatures, and with which seeds, questions are answered in a recording."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from ltd.decoding.acceptance import Sampling
from ltd.errors import InputError
from ltd.evaluation.questions import Question

GREEDY = (0.0,)


def checked_temperatures(temperatures: Sequence[float]) -> tuple[float, ...]:
    """The same, as numbers; raises InputError if there is none, one twice, or one out of range."""
    known = tuple(Sampling(temperature).temperature for temperature in temperatures)
    if not known or len(set(known)) != len(known):
        raise InputError(f"the temperatures are {spelled(known) or 'none'}; name one at least, and each once")
    return known


def name_of(temperature: float) -> str:
    """A temperature as short as can be read back exactly, so that no other one has the same name."""
    short = f"{temperature:g}"
    return short if float(short) == temperature else repr(temperature)


def spelled(temperatures: Sequence[float]) -> str:
    """Temperatures for people."""
    return ", ".join(map(name_of, temperatures))


def texts_at(temperatures: Sequence[float]) -> str:
    """What is generated at these temperatures, for people."""
    hot = spelled([temperature for temperature in temperatures if temperature])
    kinds = ["greedy text"] * (0.0 in temperatures) + [f"text at temperature {hot}"] * bool(hot)
    return " and ".join(kinds)


def samplings(
    questions: Sequence[Question], temperatures: Sequence[float], top_k: int, top_p: float, seed: int
) -> list[Sampling]:
    """How the answers to each of the questions are chosen.

    Args:
        temperatures: which all questions take in turns, task by task, 0 being greedy; each turn in an order of its own,
            so that questions that have turns themselves, as those of several kinds do, come to all of them.
        top_k, top_p: of those that are sampled.
        seed: from which each of these gets its own, see `question_seed`.

    Raises:
        InputError: there are too few questions.
    """
    check_turns_for(temperatures, len(questions))
    chance = random.Random(f"{seed} temperatures")
    taken: list[float] = []
    # Over all tasks: with few questions of each, some temperature would have none if every task began with the first.
    while len(taken) < len(questions):
        taken += chance.sample(temperatures, len(temperatures))
    return [
        Sampling(temperature, top_k, top_p, question_seed(seed, question)) if temperature else Sampling()
        for question, temperature in zip(questions, taken, strict=False)
    ]


def check_turns_for(temperatures: Sequence[float], questions: int) -> None:
    """Raises InputError if there are too few questions for every temperature to have one."""
    if questions < len(temperatures):
        raise InputError(
            f"the temperatures are {spelled(temperatures)}, but there {'is' if questions == 1 else 'are'} only "
            f"{questions} question{'s' * (questions != 1)} to take them in turns; name fewer, or ask more"
        )


def question_seed(seed: int, question: Question) -> int:
    """A question's own seed, 0 … 2^63 - 1: it follows from the recording's and from what names the question."""
    name = f"{seed} {question.task} {question.question_id}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
