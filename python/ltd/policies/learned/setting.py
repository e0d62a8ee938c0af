"""What a learned policy was made for, and whether that is what it meets."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from typing import ClassVar

from pydantic import ConfigDict

from ltd.common.json_files import NOTHING_ELSE
from ltd.errors import InputError


@dataclass(frozen=True, slots=True)
class Setting:
    """What a policy was made for, or where it is used. None is unknown.

    Attributes:
        width: beam width W.
        target: the target's name, for people.
        vocab_size, hidden_size, layers: of the target.
        head_sha256: of the draft head's weights, see `ltd.drafts.weights`.
        hardware: processor or GPU.
        dtype: the target's, for example "bfloat16".
        threads: of torch on the CPU.
        sampling_sha256: SHA-256 of the factors for sampled text beside the head, "none" where there are none; None also
            of a policy that learned nothing from sampled text.
    """

    __pydantic_config__: ClassVar[ConfigDict] = NOTHING_ELSE

    width: int
    target: str | None = None
    vocab_size: int | None = None
    hidden_size: int | None = None
    layers: int | None = None
    head_sha256: str | None = None
    hardware: str | None = None
    dtype: str | None = None
    threads: int | None = None
    sampling_sha256: str | None = None

    def differences(self, other: Setting) -> dict[str, tuple[object, object]]:
        """What is known here and different there: {attribute: (here, there)}."""
        pairs = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        return {name: pair for name, pair in pairs.items() if pair[0] not in (None, pair[1])}


class TunedElsewhereWarning(UserWarning):
    """A policy is used where it was not tuned for: the text is right, the speed may not be.

    On other hardware, in another dtype, or beside other factors for sampled text.
    """


def check_fits(made_for: Setting, here: Setting) -> None:
    """Compares what a policy was made for with where it is to be used; what is unknown in the policy always fits.

    So does another beam width, as the draft takes the policy's.

    Another hardware or dtype costs no more than speed, but may cost much of it, as a policy has learned one machine's
    costs: it warns with `TunedElsewhereWarning`. So do other factors for sampled text, see `warn_of_factors`.

    Raises:
        InputError: another target or draft head.
    """
    differences = made_for.differences(here)
    for name, what in (
        ("vocab_size", "a target with a vocabulary"),
        ("hidden_size", "a target with hidden states"),
        ("layers", "a target with a number of layers"),
        ("head_sha256", "a draft head with a hash"),
    ):
        if name in differences:
            made, used = differences[name]
            raise InputError(
                f"the policy was trained for {what} of {made}, but here it is {used}; use one for this model and head, "
                "as ltd tune makes it"
            )
    for name, unit in (("hardware", ""), ("dtype", ""), ("threads", " threads")):
        made, used = getattr(made_for, name), getattr(here, name)
        if used is not None and made != used:
            warnings.warn(
                f"the policy was tuned on {f'unknown {name}' if made is None else f'{made}{unit}'}, but runs on "
                f"{used}{unit}: the text stays the same, but it may well be slower than without a policy; ltd tune "
                "makes one for this machine",
                TunedElsewhereWarning,
                stacklevel=2,
            )
    warn_of_factors(made_for, here)


def warn_of_factors(made_for: Setting, here: Setting) -> None:
    """Warns with `TunedElsewhereWarning` where the factors for sampled text are others than a policy learned with."""
    if here.sampling_sha256 is not None and "sampling_sha256" in made_for.differences(here):
        warnings.warn(
            "the policy was tuned with other factors for sampled text than those beside the draft head now: the text "
            "stays the same, but sampled text may be slower; ltd tune makes one for these",
            TunedElsewhereWarning,
            stacklevel=3,
        )
