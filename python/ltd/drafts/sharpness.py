"""How far a draft's values with noise can be trusted, level by level: a file beside its weights.

A candidate's score should be its chance to be the target's token. The log-softmax of a draft's logits with the noise
that the target draws with is not that: the noise is known for certain, the draft's probabilities are an estimate. A
factor per level, fitted on traces at a temperature, says how sharp it has to be. Other weights have other factors, so
the file names those that it was fitted to by hash.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict

from ltd.common.files import file_hash, write_text
from ltd.common.json_files import NOTHING_ELSE, Real, read_json
from ltd.common.trained_folder import read_facts
from ltd.drafts.weights import weights_hash
from ltd.errors import InputError
from ltd.tree import MAX_DEPTH

FORMAT, SCHEMA = "ltd-sampling", 1
SAMPLING = "sampling.json"  # in the folder of a draft
NO_FACTORS = "none"  # instead of their hash
LEAST, MOST = 1e-3, 1e3  # of a factor


@dataclass(frozen=True, slots=True)
class SharpnessAt:
    """The factors at one temperature.

    Args:
        temperature: above 0.
        levels: per level of a tree, 0.001 … 1,000, the root's children first; the last is that of deeper levels too.

    Raises:
        InputError: a number out of range, no level, or more than a tree has.
    """

    __pydantic_config__: ClassVar[ConfigDict] = NOTHING_ELSE

    temperature: Real
    levels: list[Real]

    def __post_init__(self) -> None:
        if not self.temperature > 0.0:
            raise InputError(f"the temperature {self.temperature} is out of range; it must be above 0")
        if not 1 <= len(self.levels) <= MAX_DEPTH + 1:
            raise InputError(f"there are factors for {len(self.levels)} levels; it must be 1 … {MAX_DEPTH + 1}")
        for factor in self.levels:
            if not LEAST <= factor <= MOST:
                raise InputError(f"the factor {factor} is out of range; it must be {LEAST} … {MOST:g}")


@dataclass(frozen=True, slots=True)
class Sharpness:
    """The factors of a draft.

    Args:
        fits: one for every temperature they were fitted at, in ascending order, at least one.

    Raises:
        InputError: none, or temperatures that do not ascend.
    """

    fits: tuple[SharpnessAt, ...]

    def __post_init__(self) -> None:
        temperatures = [fit.temperature for fit in self.fits]
        if not temperatures:
            raise InputError("there are no factors; at least those of one temperature are needed")
        if any(after <= before for before, after in itertools.pairwise(temperatures)):
            raise InputError(f"the temperatures {temperatures} must ascend, but do not")

    def at(self, temperature: float) -> tuple[float, ...]:
        """Per level, at any temperature: on the line between those beside it, or the nearest one's."""
        below = [fit for fit in self.fits if fit.temperature <= temperature]
        above = [fit for fit in self.fits if fit.temperature > temperature]
        if not below or not above:
            return tuple((below[-1] if below else above[0]).levels)
        low, high = below[-1], above[0]
        share = (temperature - low.temperature) / (high.temperature - low.temperature)
        pairs = [
            (low.levels[min(level, len(low.levels) - 1)], high.levels[min(level, len(high.levels) - 1)])
            for level in range(max(len(low.levels), len(high.levels)))
        ]
        return tuple(one + share * (other - one) for one, other in pairs)


UNFITTED = Sharpness((SharpnessAt(1.0, [1.0]),))
"""Of a draft for which no factors are known."""


@dataclass(frozen=True, slots=True)
class SharpnessFile:
    """What the file says.

    Attributes:
        sharpness: the factors.
        head_sha256: of the weights that they were fitted to; None is unknown.
        facts: for people.
    """

    __pydantic_config__: ClassVar[ConfigDict] = NOTHING_ELSE

    sharpness: list[SharpnessAt]
    head_sha256: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    format: str = FORMAT
    schema: int = SCHEMA


def save_sharpness(sharpness: Sharpness, folder: Path, facts: Mapping[str, Any]) -> None:
    """Writes it into a draft's folder, for the weights that are there.

    Args:
        sharpness: to write; reading gives the same.
        folder: of the draft.
        facts: for people, as JSON can hold them: what the factors were fitted to.

    Raises:
        InputError: the file cannot be written.
    """
    _write(SharpnessFile(list(sharpness.fits), weights_hash(folder), dict(facts)), folder)


def load_sharpness(folder: Path, head_sha256: Callable[[], str | None] | None = None) -> Sharpness:
    """The factors in a draft's folder; those that are 1 everywhere if there are none.

    Args:
        folder: of the draft.
        head_sha256: gives the hash of its weights, if it is needed; None reads them.

    Raises:
        InputError: there are some, but the file is not whole, or of other weights; the message names it and says why.
    """
    if not (folder / SAMPLING).exists():
        return UNFITTED
    return Sharpness(tuple(_read(folder, head_sha256).sharpness))


def copy_sharpness(folder: Path, to: Path) -> None:
    """Writes the factors of a draft into another folder, in which the same weights lie in another file.

    Raises:
        InputError: they cannot be read, or not be written.
    """
    content = _read(folder)
    _write(content if content.head_sha256 is None else replace(content, head_sha256=weights_hash(to)), to)


def sharpness_hash(folder: Path) -> str:
    """SHA-256 of the factors of a draft, by which policies know them; `NO_FACTORS` where there are none."""
    return file_hash(folder / SAMPLING) or NO_FACTORS


def _write(content: SharpnessFile, folder: Path) -> None:
    """Errors as of `save_sharpness`."""
    file, values = folder / SAMPLING, asdict(content)
    if content.head_sha256 is None:
        del values["head_sha256"]
    ordered = {name: values.pop(name) for name in ("format", "schema", "facts")} | values
    try:
        write_text(file, json.dumps(ordered, ensure_ascii=False, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"cannot write the draft's factors {file}: {error}") from error


def _read(folder: Path, head_sha256: Callable[[], str | None] | None = None) -> SharpnessFile:
    """What the file says; errors as of `load_sharpness`."""
    file = folder / SAMPLING
    try:
        read_facts(file, FORMAT, SCHEMA, ("sharpness",))
        content = read_json(file, SharpnessFile)
        Sharpness(tuple(content.sharpness))  # raises if they are none
        if content.head_sha256 is not None:
            found = weights_hash(folder) if head_sha256 is None else head_sha256()
            if found != content.head_sha256:
                raise InputError(
                    "they were fitted to other weights than those beside it; fit them to these with ltd fit-sampling, "
                    "or delete the file"
                )
        return content
    except ValueError as error:
        raise InputError(f"the draft's factors {file} cannot be used: {error}") from error
