"""Which number of threads is fastest here: forwards of one token, with every number in turns."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch

from ltd.common.threads import find_processors
from ltd.engine.forward import TreeBlock
from ltd.target.target import Target

PREFIX = 128  # tokens in front of the one
ROUNDS = 25
CLEARLY = 1.03  # by so much another number must be faster to be worth a word


@dataclass(frozen=True, slots=True)
class ThreadCounts:
    """What a forward of one token takes, in seconds.

    Attributes:
        used: torch's threads.
        seconds: medians by number of threads.
    """

    used: int
    seconds: dict[int, float]

    @property
    def fastest(self) -> int:
        """The number that took least; the one in use unless another is clearly faster."""
        best = min(self.seconds, key=self.seconds.__getitem__)
        return best if self.seconds[best] * CLEARLY < self.seconds[self.used] else self.used

    def __str__(self) -> str:
        times = ", ".join(f"{seconds * 1e3:.2f} ms with {count}" for count, seconds in self.seconds.items())
        verdict = "which is fastest" if self.fastest == self.used else f"but --threads {self.fastest} is faster"
        return f"Threads: {self.used} in use, {verdict}; a forward of one token takes {times}."


def candidates(cores: int, usable: int, used: int) -> list[int]:
    """Numbers worth a try: 1, 2, 3, 4, 6, 8, 12, 16 … and those that mean something."""
    powers = [1 << power for power in range(usable.bit_length())]
    steps = {*powers, *(3 * power for power in powers)}
    return sorted({count for count in steps if count <= usable} | {cores, usable, used})


@torch.inference_mode()
def time_thread_counts(target: Target, rounds: int = ROUNDS) -> ThreadCounts:
    """Measures on the CPU; torch's number of threads is afterwards what it was."""
    used, processors = torch.get_num_threads(), find_processors()
    samples: dict[int, list[float]] = {n: [] for n in candidates(processors.cores, processors.usable, used)}
    prefix = min(PREFIX, target.context_limit - 1)
    prompt = torch.randint(target.vocab_size, (prefix,), generator=torch.Generator().manual_seed(0))
    with target.session(1, prefix + 1, tap=False) as session:
        session.prefill(0, prompt)
        block = TreeBlock.chain(session.lengths, 1)
        try:
            for round_ in range(rounds + 1):
                for count, taken in samples.items():
                    torch.set_num_threads(count)
                    begun = time.perf_counter()
                    target.forward(prompt[None, -1:], block, session.cache, taps=session.taps)
                    if round_ > 0:  # the first starts threads
                        taken.append(time.perf_counter() - begun)
        finally:
            torch.set_num_threads(used)
    return ThreadCounts(used, {count: median(taken) for count, taken in samples.items()})
