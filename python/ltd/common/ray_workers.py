"""What runs in a worker of Ray, whose crew is `ltd.common.ray_crew`."""

from __future__ import annotations

import os
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ltd.common.threads import GIVEN_NUMBERS
from ltd.common.workers import fingerprint
from ltd.errors import InputError


class Worker:
    """An actor. A job and its units come pickled, so that nothing is imported before the threads are set.

    Args:
        threads: of its processors.
    """

    def __init__(self, threads: int) -> None:
        os.environ.update(dict.fromkeys(GIVEN_NUMBERS, str(threads)))
        if (torch := sys.modules.get("torch")) is not None:  # this process has told of its node before
            torch.set_num_threads(threads)
        self.number = -1
        self.work: Callable[[Any], Iterator[Any]] | None = None

    def open(self, number: int, job: bytes, files: dict[str, str | None]) -> list[str]:
        """Opens a job unless it is the open one, and returns the warnings that came of it.

        Raises:
            InputError: it cannot be done here, or a file is not what it is on the driver's machine.
        """
        if number == self.number:
            return []
        self.number, self.work = -1, None
        for name, expected in files.items():
            if (found := fingerprint(Path(name))) != expected:
                raise InputError(f"{name} is {'missing' if found is None else 'not the same as on the first machine'}")
        with warnings.catch_warnings(record=True) as caught:
            self.work = pickle.loads(job).open()
        self.number = number
        return [str(each.message) for each in caught if issubclass(each.category, UserWarning)]

    def do(self, unit: bytes) -> bytes:
        """The results of a unit, a list, pickled."""
        assert self.work is not None
        return pickle.dumps(list(self.work(pickle.loads(unit))))
