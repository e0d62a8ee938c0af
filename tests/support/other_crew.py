"""A crew as if on other machines, in this process: what goes to workers and comes back is pickled."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import torch


class OtherCrew:
    """Does the last unit first, and gives the results of a unit together.

    Args:
        size: how many workers it says that there are.

    Attributes:
        units: all that it was given, job by job.
    """

    is_remote = True

    def __init__(self, size: int = 4) -> None:
        self.size = size
        self.units: list[list[Any]] = []

    def machine_facts(self, device: torch.device | None = None) -> dict[str, str | int]:
        return {"processor": "some processor", "threads": 3, "torch": "2.0"}

    def do(self, job: Any, units: Sequence[Any]) -> Iterator[Any]:
        self.units.append(list(units))
        work = pickle.loads(pickle.dumps(job)).open()
        done = [pickle.dumps(list(work(pickle.loads(pickle.dumps(unit))))) for unit in reversed(units)]
        for results in reversed(done):
            yield from pickle.loads(results)
