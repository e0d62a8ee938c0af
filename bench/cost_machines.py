"""Machines to replay on, measured and made up, and what networks read of them.

A made machine is a plain step and shares of it. Its verification of V candidates follows n = V + 1 tokens between two
limits, reading the weights and arithmetic,

    (1 + (n / rows)^bend)^(1 / bend),     over its value at n = 1,

so `rows` tokens are about what it reads the weights for anyway: 6 on a processor with AVX2, 100 and more on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from ltd.common.arrays import Doubles, Floats, Integers
from ltd.latency.model import LatencyModel, Measurements

SIZES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 63], dtype=np.float64)
LENGTHS = np.array([64, 256, 512, 1024], dtype=np.float64)
GAINS, LEVELS = np.array([1.0, 17.0]), np.arange(1.0, 13.0)
PLAIN_SECONDS = 0.01
READ_MORE = 0.01  # by so much of a draft's beginning each further token makes it longer
MOST, LONGEST = 320, 1024  # sizes, gains and context lengths that tables hold
SHOWN_SIZES, SHOWN_LEVELS, SHOWN_GAIN = (0, 1, 2, 4, 8, 16, 32, 60), (1, 4), 2
COST_FEATURES = len(SHOWN_SIZES) + len(SHOWN_LEVELS) + 2


@dataclass(frozen=True, eq=False)
class Machine(LatencyModel):
    """A latency model that is asked for whole numbers, which it looks up in tables: the same, many times faster."""

    def begin(self, gain: ArrayLike, length: ArrayLike) -> Doubles:
        return self.tables["begin"][np.asarray(gain), np.asarray(length)]

    def verify(self, size: ArrayLike, length: ArrayLike) -> Doubles:
        return self.tables["verify"][np.asarray(size), np.asarray(length)]

    def other(self, size: ArrayLike, length: ArrayLike) -> Doubles:
        return self.tables["other"][np.asarray(size), np.asarray(length)]

    @cached_property
    def tables(self) -> dict[str, Doubles]:
        """float64 (MOST, LONGEST) by part: seconds by size or gain, and context length."""
        sizes, lengths = np.arange(MOST)[:, None], np.arange(LONGEST)
        return {name: self.parts[name].fitted(sizes, lengths) for name in ("begin", "verify", "other")}


@dataclass(frozen=True, slots=True)
class Shares:
    """What a machine is made of; seconds are given as shares of a plain step, which is verification and `other`.

    Attributes:
        rows, bend: of verification, see this file's head.
        begin, expand, other, lookup: shares. growth: by how much of itself a plain step is longer per 1,000 tokens.
    """

    rows: float = 15.0
    bend: float = 2.5
    begin: float = 0.1
    expand: float = 0.05
    other: float = 0.03
    lookup: float = 0.005
    growth: float = 0.2


TRAINED = {  # what the machines to train on are drawn from: both ends, in logs but for the last two
    "rows": (5.0, 150.0), "begin": (0.05, 0.3), "expand": (0.02, 0.15), "other": (0.015, 0.06),
    "lookup": (0.002, 0.02), "bend": (1.2, 4.0), "growth": (0.0, 0.6),
}  # fmt: skip
LUMPS = 0.04  # deviation of the log of each verification from its curve
EDGES = {
    "steep verification": Shares(rows=2.5),
    "flat verification": Shares(rows=600.0, bend=1.5),
    "dear draft": Shares(begin=0.5, expand=0.3),
    "cheap draft": Shares(begin=0.025, expand=0.01),
    "dear rest": Shares(other=0.15, lookup=0.05),
    "steep in the length": Shares(growth=2.0),
}
GPU = Shares(rows=130.0, bend=1.5, begin=0.06, expand=0.05, other=0.03, lookup=0.01)


def curve(shares: Shares) -> Doubles:
    """float64 (S,): verification over that of the root alone, at `SIZES`."""
    times = (1 + ((SIZES + 1) / shares.rows) ** shares.bend) ** (1 / shares.bend)
    ratios: Doubles = times / times[0]
    return ratios


def made(shares: Shares, verification: Doubles) -> Machine:
    """A machine of these shares, with verification (S,) over that of the root alone at `SIZES`."""
    plain = PLAIN_SECONDS * (1 + shares.growth * LENGTHS / 1000)

    def part(sizes: Doubles, seconds: Doubles) -> Measurements:
        table = np.broadcast_to(seconds, (len(sizes), len(LENGTHS)))
        return Measurements(sizes, LENGTHS, table, table, table, np.zeros_like(table))

    at_zero = np.zeros(1)
    parts = {
        "begin": part(GAINS, shares.begin * PLAIN_SECONDS * (1 + READ_MORE * (GAINS[:, None] - 1))),
        "expand": part(LEVELS, np.array(shares.expand * PLAIN_SECONDS)),
        "verify": part(SIZES, (1 - shares.other) * plain * verification[:, None]),
        "other": part(SIZES, np.array(shares.other * PLAIN_SECONDS)),
        "lookup": part(at_zero, np.array(shares.lookup * PLAIN_SECONDS)),
        "plain": part(at_zero, plain),
        "prefill": part(at_zero, plain),
    }
    return Machine({}, parts, 1, 0.0)


def drawn(count: int, seed: int, stretch: float = 1.0) -> list[Machine]:
    """Made machines of shares drawn from `TRAINED`, with lumps in their verification.

    Args:
        stretch: the ranges that are drawn from in logs go beyond by this factor on both sides, `growth` above.
    """
    generator, machines = np.random.default_rng(seed), []
    for _ in range(count):
        values = {name: draw_share(generator, name, ends, stretch) for name, ends in TRAINED.items()}
        shares = Shares(**values)
        lumps = np.exp(LUMPS * generator.standard_normal(len(SIZES)))
        machines.append(made(shares, np.maximum(curve(shares) * lumps, 1.0)))
    return machines


def draw_share(generator: np.random.Generator, name: str, ends: tuple[float, float], stretch: float) -> float:
    """One number of a machine."""
    low, high = ends
    if name == "bend":
        return float(generator.uniform(low, high))
    if name == "growth":
        return float(generator.uniform(low, high * stretch))
    return float(np.exp(generator.uniform(np.log(low / stretch), np.log(high * stretch))))


def around(forward: dict[int, float], like: Shares) -> Machine:
    """A machine with the measured times of forwards, by tokens, and all else as shares say."""
    times = np.interp(SIZES + 1, list(forward), list(forward.values()))
    return made(like, times / times[0])


def measured(model: LatencyModel) -> Machine:
    """A measured machine, with tables."""
    return Machine(model.setup, model.parts, model.rounds, model.seconds)


def shown_costs(machine: LatencyModel, lengths: Integers) -> Floats:
    """float32 (P, COST_FEATURES): what networks read of a machine at context lengths (P,).

    Logs of shares of a plain step: the draft's beginning, two of its levels, verification of some sizes with what goes
    with it, looking up.
    """
    sizes, levels = np.array(SHOWN_SIZES), np.array(SHOWN_LEVELS)
    columns = [
        machine.begin(SHOWN_GAIN, lengths)[:, None],
        machine.expand(levels, lengths[:, None]),
        machine.verify(sizes, lengths[:, None]) + machine.other(sizes, lengths[:, None]),
        machine.lookup(lengths)[:, None],
    ]
    shares = np.concatenate(columns, axis=1) / machine.plain(lengths)[:, None]
    return np.log(shares).astype(np.float32)
