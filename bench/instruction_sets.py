"""Times the engine's forward of the target on several instruction sets of this processor, in turns.

    python bench/instruction_sets.py [--isas avx2,amx_bf16] [--dtypes bfloat16,float32] [--tokens 1,8,61]
                                     [--prefix 500] [--threads 2] [--repeats 15] [--cpu-time] [--json FILE]

`--cpu-time` counts the processor time of one thread instead of the time on the wall: on a machine that others use too
it leaves out when the thread waited for its turn, though not what others did to caches and memory meanwhile.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

import ltd
from console import wide_console
from floor import Floor, Work
from forward import forward_of, some_prompt
from ltd import _C
from ltd.common.table import Table
from ltd.engine.cpu import Engine
from ltd.ops.library import build_info
from ltd.target.target import Target
from timing import Timing, circumstances, write_json

TOKENS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64)

Results = dict[str, dict[str, dict[str, Any]]]  # type, instruction set, number of tokens


def seconds_of(function: Callable[[], object], clock: Callable[[], float]) -> float:
    """How long it takes by that clock."""
    start = clock()
    function()
    return clock() - start


def measure(target: Target, isas: list[str], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Forwards of all sizes on all instruction sets, round by round; the first round does not count."""
    clock = time.thread_time if options.cpu_time else time.perf_counter
    taken: dict[tuple[str, int], list[float]] = {(isa, count): [] for isa in isas for count in options.tokens}
    with target.session(1, options.prefix + max(options.tokens), tap=False) as session:
        session.prefill(0, some_prompt(target, options.prefix))
        forwards = {count: forward_of(session, count) for count in options.tokens}
        for repeat in range(options.repeats + 1):
            for (isa, count), seconds in taken.items():
                _C.use_cpu_isa(isa)
                passed = seconds_of(forwards[count], clock)
                if repeat > 0:
                    seconds.append(passed)
    return {
        isa: {
            str(count): {**asdict(Timing.of(taken[isa, count])), "least": min(taken[isa, count]) * 1e6}
            for count in options.tokens
        }
        for isa in isas
    }


def table(dtype: str, found: dict[str, dict[str, Any]], options: argparse.Namespace) -> Table:
    """One row per number of tokens."""
    rows = [
        [str(count), *(f"{sizes[str(count)]['median'] / 1e3:.2f}" for sizes in found.values())]
        for count in options.tokens
    ]
    return Table(f"{dtype}, prefix {options.prefix}, threads: {options.threads}; ms", ["tokens", *found], rows)


def parse() -> argparse.Namespace:
    """The options, checked."""
    available = [str(isa) for isa in build_info()["cpu_isas"]]  # type: ignore[attr-defined]
    names = partial(str.split, sep=",")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isas", type=names, default=[isa for isa in available if isa != "baseline"])
    parser.add_argument("--dtypes", type=names, default=["bfloat16"])
    parser.add_argument("--tokens", type=lambda text: tuple(map(int, text.split(","))), default=TOKENS)
    parser.add_argument("--prefix", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE")
    options = parser.parse_args()
    if unknown := [isa for isa in options.isas if isa not in available]:
        parser.error(f"--isas: there is no {unknown[0]} here; there are {', '.join(available)}")
    if options.repeats < 2 or options.prefix < 2 or min(options.tokens) < 1:
        parser.error("--repeats and --prefix must be at least 2, --tokens at least 1")
    if options.cpu_time and options.threads != 1:
        parser.error("--cpu-time needs --threads 1")
    return options


@torch.inference_mode()
def main() -> None:
    options = parse()
    results: Results = {}
    floors: dict[str, Floor] = {}
    for dtype in options.dtypes:
        decoder = ltd.load(dtype=dtype, device="cpu", threads=options.threads)
        assert isinstance(decoder.target.forward, Engine)
        if not options.cpu_time:  # a floor is a time on the wall
            floors[dtype] = Floor.measure(Work.of(decoder.target.forward), decoder.target.dtype, options.repeats)
        results[dtype] = measure(decoder.target, options.isas, options)
        wide_console().print(table(dtype, results[dtype], options).rich())
        if dtype in floors:
            wide_console().print(str(floors[dtype]), highlight=False)
    if options.json is not None:
        settings = {"unit": "microseconds", "clock": "cpu" if options.cpu_time else "wall", "prefix": options.prefix}
        measured = {"floors": {dtype: asdict(floor) for dtype, floor in floors.items()}, "instruction_sets": results}
        write_json(options.json, {**circumstances(), **settings, **measured})


if __name__ == "__main__":
    main()
