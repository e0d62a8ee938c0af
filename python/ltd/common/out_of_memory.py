"""Errors that say there was too little memory, of a device or of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ltd.errors import InputError

FAILURES = (RuntimeError, MemoryError)
"""The types of such errors; `is_out_of_memory` tells those of them that are."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or the one that it came of, says that memory was lacking.

    A GPU's allocator has an error of its own for that; the processor's raises a plain RuntimeError.
    """
    kinds = (torch.OutOfMemoryError, MemoryError)
    errors = (error, error.__context__)
    return any(isinstance(each, kinds) or "DefaultCPUAllocator" in str(each) for each in errors)


@contextmanager
def room_for(batch: int, rows: int) -> Iterator[None]:
    """For making what holds so many sequences of so many tokens each.

    Raises:
        InputError: there is too little memory for them.
    """
    try:
        yield
    except FAILURES as error:
        if not is_out_of_memory(error):
            raise
        texts = f"{batch} sequence{'s' * (batch > 1)} of up to {rows} tokens, prompt, answer and tree together"
        raise InputError(
            f"there is too little memory for {texts}; ask for fewer new tokens, or fewer prompts at a time: "
            f"{str(error).splitlines()[0]}"
        ) from error
