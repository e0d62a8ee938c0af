"""Times the engine's forward of the target on several instruction sets of this processor, in turns.

    python bench/instruction_sets.py [--isas baseline,avx2] [--dtypes bfloat16,float16] [--tokens 1,8,61]
                                     [--prefix 500] [--threads 2] [--repeats 15] [--no-floors] [--cpu-time]
                                     [--target …] [--out DIR]

Beside the times stand two floors: reading the weights once, as fast as this machine reads memory, and the arithmetic,
as fast as the best large product of matrices on that instruction set, PyTorch's or the engine's own; in bfloat16 and
float16 the product may be float32's. Measuring the floors takes longer than the forwards: `--no-floors` leaves them
out. `--out` writes `instruction-sets.json` and `table.md`. Of baseline, which is left out where nothing else is said,
a processor of x86-64 is asked for SSE2 alone.

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
from floor import Floor, Work, engine_rate, limited_torch_rates, read_seconds
from forward import forward_of, some_prompt
from ltd import _C
from ltd.common.files import write_text
from ltd.common.table import Table
from ltd.common.threads import set_threads
from ltd.engine.cpu import Engine
from ltd.ops.library import build_info
from ltd.target.target import Target
from timing import Timing, circumstances, write_json
from torch_products import TYPES

TOKENS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 64)

Results = dict[str, dict[str, dict[str, Any]]]  # type, instruction set, number of tokens


def seconds_of(function: Callable[[], object], clock: Callable[[], float]) -> float:
    """How long it takes by that clock."""
    start = clock()
    function()
    return clock() - start


def measure(target: Target, isas: list[str], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Forwards of all sizes on all instruction sets, round by round; the first round does not count. Microseconds."""
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


def find_rates(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Operations per second of the best large product, by instruction set and type; a short type's may be float32's."""
    rates: dict[str, dict[str, float]] = {}
    names = sorted({"float32", *options.dtypes})
    for isa in options.isas:
        _C.use_cpu_isa(isa)
        of_torch = limited_torch_rates(isa, names, options.threads, options.repeats)
        found = {name: max(of_torch.get(name, 0.0), engine_rate(TYPES[name], options.repeats)) for name in names}
        rates[isa] = {name: max(rate, found["float32"]) for name, rate in found.items()}
    return rates


def add_floors(found: dict[str, dict[str, Any]], floors: dict[str, Floor], prefix: int) -> None:
    """Writes both floors beside every time, in microseconds."""
    for isa, timings in found.items():
        for count, timing in timings.items():
            timing["bytes_floor"] = floors[isa].read_seconds * 1e6
            timing["arithmetic_floor"] = floors[isa].arithmetic_seconds(int(count), prefix) * 1e6


def make_table(dtype: str, found: dict[str, dict[str, Any]], options: argparse.Namespace) -> Table:
    """One row per number of tokens; with floors, where they were measured."""
    with_floors = "bytes_floor" in next(iter(next(iter(found.values())).values()))
    columns, rows = ["tokens"], [[str(count)] for count in options.tokens]
    if with_floors:
        columns.append("bytes floor")
    for isa in found:
        columns += [isa, f"{isa}: arithmetic floor"] if with_floors else [isa]
    for row in rows:
        sizes = [timings[row[0]] for timings in found.values()]
        if with_floors:
            row.append(milliseconds(sizes[0]["bytes_floor"]))
        for size in sizes:
            row += [milliseconds(size[name]) for name in ("median", "arithmetic_floor") if name in size]
    return Table(f"{dtype}, prefix {options.prefix}, threads: {options.threads}; ms", columns, rows)


def milliseconds(microseconds: float) -> str:
    """For people."""
    return f"{microseconds / 1e3:.2f}"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options, checked."""
    available = [str(isa) for isa in build_info()["cpu_isas"]]  # type: ignore[attr-defined]
    names = partial(str.split, sep=",")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default=None, help="a model folder or hub name; default: the default target")
    parser.add_argument("--isas", type=names, default=[isa for isa in available if isa != "baseline"])
    parser.add_argument("--dtypes", type=names, default=["bfloat16", "float32"])
    parser.add_argument("--tokens", type=lambda text: tuple(map(int, text.split(","))), default=TOKENS)
    parser.add_argument("--prefix", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--floors", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--out", type=Path, default=None, metavar="DIR", help="also write the numbers and the tables")
    options = parser.parse_args(arguments)
    if unknown := [isa for isa in options.isas if isa not in available]:
        parser.error(f"--isas: there is no {unknown[0]} here; there are {', '.join(available)}")
    if unknown := [name for name in options.dtypes if name not in TYPES]:
        parser.error(f"--dtypes: the engine does not run {unknown[0]}; it runs {', '.join(TYPES)}")
    if options.repeats < 2 or options.prefix < 2 or min(options.tokens) < 1:
        parser.error("--repeats and --prefix must be at least 2, --tokens at least 1")
    if options.cpu_time and options.threads != 1:
        parser.error("--cpu-time needs --threads 1")
    return options


@torch.inference_mode()
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    kernels = str(build_info()["cpu_kernels"])
    set_threads(options.threads)
    results: Results = {}
    tables = []
    try:
        # A floor is a time on the wall.
        rates = find_rates(options) if options.floors and not options.cpu_time else {}
        for dtype in options.dtypes:
            decoder = ltd.load(options.target, "none", dtype=dtype, device="cpu", threads=options.threads)
            assert isinstance(decoder.target.forward, Engine)
            results[dtype] = measure(decoder.target, options.isas, options)
            if rates:
                work = Work.of(decoder.target.forward)
                reading = read_seconds(work.weight_bytes, TYPES[dtype], options.repeats)
                floors = {isa: Floor(work, reading, rate[dtype]) for isa, rate in rates.items()}
                add_floors(results[dtype], floors, options.prefix)
            tables.append(make_table(dtype, results[dtype], options))
            wide_console().print(tables[-1].rich())
    finally:
        _C.use_cpu_isa(kernels)
    if options.out is not None:
        settings = {"unit": "microseconds", "clock": "cpu" if options.cpu_time else "wall", "prefix": options.prefix}
        write_json(options.out / "instruction-sets.json", {**circumstances(), **settings, "instruction_sets": results})
        write_text(options.out / "table.md", "\n".join(table.markdown() for table in tables))


if __name__ == "__main__":
    main()
