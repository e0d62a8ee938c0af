"""The ways to sample with fixed trees by name, as users type them: `sampler=rejection` behind the tree."""

from __future__ import annotations

from ltd.common.named_options import split_option
from ltd.errors import InputError

SAMPLER = "sampler"
SHARED, REJECTION = "noise", "rejection"
SAMPLERS = (SHARED, REJECTION)


def split_tree_sampler(text: str) -> tuple[str, str]:
    """The name of a fixed tree, and its sampler, the noise of the place if none is given.

    Raises:
        InputError: no such sampler, or two of them.
    """
    tree, sampler = split_option(text, SAMPLER)
    if sampler is not None and sampler not in SAMPLERS:
        raise InputError(f"there is no sampler {sampler!r} of trees; there are {', '.join(SAMPLERS)}")
    return tree, SHARED if sampler is None else sampler
