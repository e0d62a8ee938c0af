"""At which temperatures, and with which seeds, questions are answered in a recording."""

from __future__ import annotations

import hashlib
from collections import Counter
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
        temperatures: which the questions of every task take in turns, 0 being greedy.
        top_k, top_p: of those that are sampled.
        seed: from which each of these gets its own, see `question_seed`.
    """
    found, asked = [], Counter[str]()
    for question in questions:
        temperature = temperatures[asked[question.task] % len(temperatures)]
        asked[question.task] += 1
        own = Sampling(temperature, top_k, top_p, question_seed(seed, question))
        found.append(own if temperature else Sampling())
    return found


def question_seed(seed: int, question: Question) -> int:
    """A question's own seed, 0 … 2^63 - 1: it follows from the recording's and from what names the question."""
    name = f"{seed} {question.task} {question.question_id}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
