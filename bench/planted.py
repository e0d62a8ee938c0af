"""Decodes with planted models of real shapes: is the text the known one, how fast is it, and what does a cycle cost?

    python bench/planted.py --shape llama-8b --depth 8 --size 60 --tau 5.5 --device cuda --out FILE.json

Target and draft are made in place (`planted_models.py`), so there is nothing to download; the number of tokens that a
cycle gains is dialled, all else takes as long as with trained models of the shape. Plain decoding and draft trees take
turns, after a round that does not count. Ends with exit code 1 if a text is not the known one, and on a GPU if the
cycles were not recorded as CUDA graphs and replayed. The parts of a cycle are timed as `ltd` always times them. The
floor of a plain token is reading all weights but the embedding once, at the speed at which this device copies memory.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.table import Table

from console import wide_console
from ltd.common.threads import set_threads
from ltd.decoding.statistics import Statistics
from ltd.errors import InputError
from ltd.loading import check_kernels
from ltd.policies import Static
from ltd.target.device import resolve_device, resolve_dtype
from planted_models import SHAPES, Planted, plant
from timing import circumstances, write_json
from watched_captures import WatchedCaptures

COPIED_BYTES = {"cuda": 2 << 30, "cpu": 256 << 20}
COPIES = 10


@dataclass
class Way:
    """One way of decoding, measured.

    Attributes:
        tokens_per_second: of every round, prefill left out.
        acceptance_length: tokens per cycle, over all rounds.
        parts: milliseconds per cycle, by part, over all rounds.
        wrong: rounds whose text was not the known one, and the first place of each at which it was not.
    """

    tokens_per_second: list[float] = field(default_factory=list)
    acceptance_length: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    wrong: dict[int, int] = field(default_factory=dict)
    cycles: int = 0

    def add(self, statistics: Statistics) -> None:
        """Counts a round."""
        self.tokens_per_second.append(statistics.tokens_per_second)
        cycles = self.cycles + statistics.cycles
        self.acceptance_length = (self.acceptance_length * self.cycles + sum(statistics.gains)) / cycles
        for part, seconds in statistics.seconds.items():
            if part != "prefill" and seconds > 0:
                self.parts[part] = (self.parts.get(part, 0.0) * self.cycles + 1e3 * seconds) / cycles
        self.cycles = cycles

    @property
    def rate(self) -> float:
        """Tokens per second of the median round."""
        return median(self.tokens_per_second)

    @property
    def cycle(self) -> float:
        """Milliseconds of a cycle, all parts together."""
        return sum(self.parts.values())


# --- measuring ---


def copy_rate(device: torch.device) -> float:
    """Bytes per second, read and written, of this device's best large copy."""
    source = torch.ones(COPIED_BYTES[device.type] // 8, dtype=torch.int64, device=device)
    target = torch.empty_like(source)
    wait = waiting_for(device)
    best = math.inf
    for _ in range(COPIES):
        wait()
        start = time.perf_counter()
        target.copy_(source)
        wait()
        best = min(best, time.perf_counter() - start)
    return 2 * source.nbytes / best


def waiting_for(device: torch.device) -> Callable[[], None]:
    """What waits until a device has done all that it was told."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def weight_bytes(shape: str, dtype: torch.dtype) -> int:
    """What a forward of the target reads: all weights but the embedding."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(SHAPES[shape].config, dtype=dtype)
    embedding = model.get_input_embeddings().weight
    return sum(weight.nbytes for weight in model.parameters() if weight is not embedding)


def run_round(planted: Planted, options: argparse.Namespace, number: int, ways: dict[str, Way]) -> None:
    """Both ways once, from a prompt of this round's own; the round before the first does not count."""
    prompt = planted.plan.prompt(options.prompt, number)
    known = planted.plan.text(prompt[-1], options.tokens)
    for name, policy in (("plain", "none"), ("trees", Static(options.depth, options.size))):
        answer = planted.decoder.generate(prompt, max_new_tokens=options.tokens, policy=policy)
        if number > 0:
            ways[name].add(answer.statistics)
        if answer.token_ids != known:
            pairs = enumerate(zip(answer.token_ids, known, strict=False))
            ways[name].wrong[number] = next((i for i, (one, other) in pairs if one != other), len(answer.token_ids))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, for JSON."""
    device = resolve_device(options.device)
    if device.type == "cuda":
        check_kernels(device)
    set_threads(options.threads)
    dtype = resolve_dtype(options.dtype, device)
    wait = waiting_for(device)
    start = time.perf_counter()
    planted = plant(options.shape, options.depth, options.tau, dtype, device)
    wait()
    made = time.perf_counter() - start
    captures = WatchedCaptures(planted.decoder.target)
    ways = {"plain": Way(), "trees": Way()}
    for number in range(options.rounds + 1):
        run_round(planted, options, number, ways)
    rate, read = copy_rate(device), weight_bytes(options.shape, dtype)
    asked = {name: getattr(options, name) for name in ("shape", "depth", "size", "tau", "prompt", "tokens", "rounds")}
    return {
        **circumstances(device),
        **asked,
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
        "making_seconds": made,
        "weight_gigabytes": read / 1e9,
        "copy_gb_per_s": rate / 1e9,
        "floor_ms_per_token": 1e3 * read / rate,
        "ways": {name: {**asdict(way), "ms_per_cycle": way.cycle, "rate": way.rate} for name, way in ways.items()},
        "speedup": ways["trees"].rate / ways["plain"].rate,
        "lossless": not any(way.wrong for way in ways.values()),
        "captures": captures.reports(),
        "capture_fault": captures.fault() if device.type == "cuda" else None,
    }


# --- showing ---


def show(results: dict[str, Any]) -> None:
    """The table, and a verdict below it."""
    title = (
        f"{results['shape']} in {results['dtype']} on {results.get('gpu', results['processor'])}, "
        f"depth {results['depth']}, size {results['size']}, prompt {results['prompt']}; milliseconds per cycle"
    )
    ways = results["ways"]
    parts = list(dict.fromkeys(part for way in ways.values() for part in way["parts"]))
    table = Table(title=title)
    for column in ("", "tokens/s", "tokens per cycle", "cycle", *parts):
        table.add_column(column, justify="right" if column else "left")
    for name, way in ways.items():
        numbers = [f"{way['parts'][part]:.3f}" if part in way["parts"] else "" for part in parts]
        rates = [f"{way['rate']:.1f}", f"{way['acceptance_length']:.2f}", f"{way['ms_per_cycle']:.3f}"]
        table.add_row(name, *rates, *numbers)
    console = wide_console()
    console.print(table)
    share = results["floor_ms_per_token"] / ways["plain"]["ms_per_cycle"]
    lines = [
        f"floor of a plain token: {results['weight_gigabytes']:.2f} GB at {results['copy_gb_per_s']:.0f} GB/s, "
        f"{results['floor_ms_per_token']:.3f} ms; plain decoding is at {share:.0%} of that speed",
        f"trees are {results['speedup']:.2f}x as fast as plain decoding",
    ]
    wrong = [f"{name}, from token {place}" for name, way in ways.items() for place in way["wrong"].values()]
    lines.append("all texts are the known one" if not wrong else f"NOT the known text: {'; '.join(wrong)}")
    if results["capture_fault"] is not None:
        lines.append(f"NOT recorded: {results['capture_fault']}")
    for line in lines:
        console.print(line, highlight=False)


# --- the command ---


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama-8b")
    parser.add_argument("--depth", type=int, default=8, help="of the static tree (default: 8)")
    parser.add_argument("--size", type=int, default=60, help="candidates that are verified (default: 60)")
    parser.add_argument("--tau", type=float, default=5.5, help="tokens gained per cycle (default: 5.5)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--dtype", default="auto", help="as in ltd generate (default: auto)")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: torch's own number)")
    parser.add_argument("--prompt", type=int, default=1024, help="tokens of the prompt (default: 1024)")
    parser.add_argument("--tokens", type=int, default=256, help="new tokens of a round (default: 256)")
    parser.add_argument("--rounds", type=int, default=3, help="that count (default: 3)")
    parser.add_argument("--out", type=Path, default=None, metavar="FILE", help="also write the results there, as JSON")
    options = parser.parse_args(arguments)
    for name in ("prompt", "tokens", "rounds"):
        if getattr(options, name) < 1 + (name == "tokens"):
            parser.error(f"--{name} is {getattr(options, name)}, which is too few")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        results = measure(options)
    except InputError as error:
        print(f"planted.py: {error}", file=sys.stderr)
        return 2
    show(results)
    if options.out is not None:
        write_json(options.out, results)
    return 0 if results["lossless"] and results["capture_fault"] is None else 1


if __name__ == "__main__":
    sys.exit(main())
