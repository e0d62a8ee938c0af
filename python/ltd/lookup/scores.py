"""How likely looked-up tokens are: a table of chances by the evidence for a token, and what a head's scores mean.

The evidence for a token whose parent is right, one cell of the table:

- match: how many tokens before it, up to 16, are the same as at the places it was looked up at, its ancestors counted;
- agreement: what the parent's longest-matching places say. 0: there is one, and it says this token; 1: there are more,
  and all say it; some do and some do not: 2 if the newest says it, else 3 if several do and 4 if one does; 5: only
  places that match less say it;
- rate: how often the best place was right lately: in less than a third of the tokens, in less than two, or in more.

Sampled text says less often what stood there before, and a head's scores mean something else beside it. So there can be
two such tables, one for greedy text and one for temperatures above 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import ConfigDict

from ltd.common.arrays import Floats
from ltd.common.assets import shipped_text_scores
from ltd.common.files import write_bytes
from ltd.common.json_files import NOTHING_ELSE, Real, read_json
from ltd.common.trained_folder import read_facts
from ltd.errors import InputError

FORMAT, SCHEMA = "ltd-lookup", 1
TEXT_SCORES = "lookup.json"  # in the folder of a draft or of policies: how likely looked-up tokens are beside these
MATCHES, AGREEMENTS, RATES = 16, 6, 3
LEAST_CHANCE, MOST_CHANCE = 0.001, 0.999


@dataclass(frozen=True, slots=True, eq=False)
class TextScores:
    """How likely looked-up tokens are.

    Args:
        chances: float32 (MATCHES, AGREEMENTS, RATES), each in 0.001 … 0.999: the chance of a token whose parent is
            right; match m is row m - 1.
        head_scores, head_log_chances: float32 (K,), strictly ascending both: what a head's cumulative score means as
            log-chance of being right. Empty without a head: then scores are log-chances.
        sampled: the same for text at temperatures above 0; None where nothing is known of it apart, and these serve
            both.

    Raises:
        InputError: an array of another type or shape, a chance out of range, knots that do not ascend, or scores for
            sampled text that themselves have others for it.
    """

    chances: Floats
    head_scores: Floats
    head_log_chances: Floats
    sampled: TextScores | None = None

    def at(self, temperature: float) -> TextScores:
        """Those for text at a temperature, 0 being greedy."""
        return self if temperature == 0 or self.sampled is None else self.sampled

    def __post_init__(self) -> None:
        if self.sampled is not None and self.sampled.sampled is not None:
            raise InputError("the scores for sampled text cannot have others for sampled text")
        for name in ("chances", "head_scores", "head_log_chances"):
            if (kind := getattr(self, name).dtype) != np.float32:
                raise InputError(f"{name} must be of type float32, but are of {kind}")
        shape = (MATCHES, AGREEMENTS, RATES)
        if self.chances.shape != shape:
            raise InputError(f"chances must be of shape {shape}, but are of {self.chances.shape}")
        if not np.all((self.chances >= np.float32(LEAST_CHANCE)) & (self.chances <= np.float32(MOST_CHANCE))):
            raise InputError(f"chances must be {LEAST_CHANCE} … {MOST_CHANCE}, but one is not")
        if self.head_scores.ndim != 1 or self.head_scores.shape != self.head_log_chances.shape:
            raise InputError(
                "head_scores and head_log_chances must be as many numbers as each other, but their shapes are "
                f"{self.head_scores.shape} and {self.head_log_chances.shape}"
            )
        for name in ("head_scores", "head_log_chances"):
            knots = getattr(self, name)
            if not np.isfinite(knots).all() or np.any(np.diff(knots) <= 0):
                raise InputError(f"{name} must be finite and ascend strictly, but do not")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextScoresFile:
    """The parts of `TextScores` as they are stored; tables are lists of rows."""

    __pydantic_config__: ClassVar[ConfigDict] = NOTHING_ELSE

    chances: list[list[list[Real]]]
    head_scores: list[Real]
    head_log_chances: list[Real]
    sampled: TextScoresFile | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeFile(TextScoresFile):
    """A file of them alone; `facts` are for people."""

    format: str
    schema: int
    facts: dict[str, Any] = field(default_factory=dict)


def save_text_scores(scores: TextScores, file: Path, facts: Mapping[str, Any]) -> None:
    """Writes JSON.

    Args:
        scores: to write; reading gives the same ones.
        file: its folder is made if it is not there.
        facts: for people, as JSON can hold them: what the scores were fitted to.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, text_scores_file(scores, facts))
    except OSError as error:
        raise InputError(f"cannot write the lookup's scores {file}: {error}") from error


def text_scores_file(scores: TextScores, facts: Mapping[str, Any]) -> bytes:
    """The content of the file that `save_text_scores` writes; arguments as there."""
    content = {"format": FORMAT, "schema": SCHEMA, "facts": dict(facts), **text_scores_values(scores)}
    return (json.dumps(content, ensure_ascii=False) + "\n").encode()


def text_scores_values(scores: TextScores) -> dict[str, Any]:
    """The parts for JSON; `text_scores_of` makes the same scores of them."""
    values = {name: _shortest(getattr(scores, name)) for name in ("chances", "head_scores", "head_log_chances")}
    if scores.sampled is not None:  # else as files were written when there was one table only
        values["sampled"] = text_scores_values(scores.sampled)
    return values


def text_scores_of(parts: TextScoresFile) -> TextScores:
    """The scores that are stored; a ValueError says what is wrong with them."""
    # Too large for float32 is infinite, which is refused; lists of different lengths are a ValueError.
    with np.errstate(over="ignore"):
        tables = (np.array(table, np.float32) for table in (parts.chances, parts.head_scores, parts.head_log_chances))
        chances, head_scores, head_log_chances = tables
    sampled = None if parts.sampled is None else text_scores_of(parts.sampled)
    return TextScores(chances, head_scores, head_log_chances, sampled)


def _shortest(values: Floats) -> Any:
    """Lists of the shortest decimals that are these float32 numbers."""
    return values.astype(str).astype(np.float64).tolist()


def load_text_scores(file: str | Path) -> TextScores:
    """Reads what `save_text_scores` wrote.

    Raises:
        InputError: there is no such file, or it is not whole; the message names it and says why.
    """
    file = Path(file)
    try:
        read_facts(file, FORMAT, SCHEMA, ())
        return text_scores_of(read_json(file, WholeFile))
    except ValueError as error:
        raise InputError(f"the lookup's scores {file} cannot be used: {error}") from error


@cache
def default_text_scores() -> TextScores:
    """Those that come with this package."""
    return load_text_scores(shipped_text_scores())
