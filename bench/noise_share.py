"""What sampling takes of a cycle on the CPU: making noise and accepting, beside greedy cycles and recursive rejection.

    python bench/noise_share.py --out DIR [--trees 1:4,2:8] [--temperature 1] [--tokens 96] [--repeats 5]
                                [--target …] [--draft …] [--dtype auto] [--threads N]

A few prompts are answered in turns: plainly and with every static tree, greedily and sampled with the noise of the
place, and with every tree by recursive rejection. The noise of a place is made once, where it is first asked for: by
drafting where there is a tree, and else by accepting. What one place's noise takes is measured by itself, in the same
turns, and the places of an answer are counted: from the prompt's last token to where its last tree reached.

Writes `results.json`, and prints the table.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import torch

import ltd
from ltd import ops
from ltd.common.program import run_program
from ltd.common.table import Table
from ltd.decoding.decoder import Decoder
from ltd.decoding.statistics import PARTS, Statistics
from ltd.errors import InputError
from ltd.evaluation.answerers import Answerer, Models, find_chain
from ltd.evaluation.method_table import BASELINE
from ltd.evaluation.methods import Method
from timing import circumstances, write_json

PROMPTS = (
    "Why does bread rise, and why does it go stale again?",
    "A shop sells pens at 3 for 2 euros. What do 21 pens cost? Explain every step.",
    "Write a short letter to a neighbour who is loud at night.",
)


@dataclass(slots=True)
class Way:
    """A way to answer, and what its answers came to.

    Attributes:
        method, temperature: of the answers. answerer: gives them.
        runs: the statistics of each.
    """

    method: str
    temperature: float
    answerer: Answerer
    runs: list[Statistics] = field(default_factory=list)

    @property
    def seconds(self) -> dict[str, float]:
        """Of all answers, by part, without the prefill."""
        return {part: sum(run.seconds[part] for run in self.runs) for part in PARTS if part != "prefill"}

    @property
    def cycles(self) -> int:
        """Of all answers."""
        return sum(run.cycles for run in self.runs)

    def to_dict(self, place: float) -> dict[str, Any]:
        """For JSON: milliseconds per cycle, and shares of these.

        Args:
            place: seconds that the noise of one place takes.
        """
        seconds = self.seconds
        whole, made = sum(seconds.values()), 0.0
        if self.temperature:
            made = place * sum(map(places, self.runs))
        apart = made if self.is_drafted else 0.0  # in plain decoding it is made while accepting
        return {
            "method": self.method,
            "temperature": self.temperature,
            "cycles": self.cycles,
            "tau": round(sum(sum(run.gains) for run in self.runs) / self.cycles, 4),
            "milliseconds": {part: round(1e3 * each / self.cycles, 4) for part, each in seconds.items()},
            "cycle_milliseconds": round(1e3 * whole / self.cycles, 4),
            "noise_share": round(made / whole, 5),
            "noise_and_accept_share": round((seconds["accept"] + apart) / whole, 5),
        }

    @property
    def is_drafted(self) -> bool:
        """Whether there are trees."""
        return self.method != BASELINE


def places(run: Statistics) -> int:
    """How many places the noise of an answer with fixed trees was made for."""
    return run.new_tokens - run.gains[-1] + max(run.depths[-1], 0) + 1


def ways_of(decoder: Decoder, options: argparse.Namespace) -> list[Way]:
    """All ways to answer, opened; raises InputError if a tree cannot be."""
    models, trees = Models(decoder, options.target, find_chain(None)), [f"static:{tree}" for tree in options.trees]
    named = [(method, heat) for method in (BASELINE, *trees) for heat in (0.0, options.temperature)]
    named += [(f"{tree}:sampler=rejection", options.temperature) for tree in trees]
    device = decoder.target.device
    return [Way(method, heat, Method.parse(method).choose(lambda: None, device).open(models)) for method, heat in named]


def measure(decoder: Decoder, ways: Sequence[Way], options: argparse.Namespace) -> list[float]:
    """Answers all prompts in all ways, in turns that begin with another one each time; seconds of one place's noise."""
    taken: list[float] = []
    prompts = [decoder.encode(prompt) for prompt in PROMPTS]
    fresh = noise_of_places(decoder.target.vocab_size)
    for turn in range(-1, options.repeats):  # the first warms up
        for number, prompt in enumerate(prompts):
            for step in range(len(ways)):
                way = ways[(turn + number + step) % len(ways)]
                _, run = way.answerer.answer(
                    prompt, max_new_tokens=options.tokens, temperature=way.temperature, seed=number
                )
                if turn >= 0 and run.cycles:
                    way.runs.append(run)
            for _ in range(10):
                start = time.perf_counter()
                next(fresh)
                taken.append(time.perf_counter() - start)
    if any(way.cycles == 0 for way in ways):
        raise InputError("these answers are too short to have a cycle; use more --tokens")
    return taken


def noise_of_places(vocabulary: int) -> Iterator[torch.Tensor]:
    """The noise of one place after the other."""
    seed = torch.tensor([1])
    for position in count():
        yield ops.place_noise(seed, 0, position, vocabulary)


def table(results: dict[str, Any]) -> Table:
    """Milliseconds per cycle and shares."""
    rows = []
    for way in results["ways"]:
        parts = way["milliseconds"]
        cells = [way["cycle_milliseconds"], parts["draft"], parts["verify"], parts["accept"]]
        shares = [f"{100 * way[name]:.1f} %" for name in ("noise_share", "noise_and_accept_share")]
        name = f"{way['method']}, temperature {way['temperature']:g}"
        rows.append([name, f"{way['tau']:.2f}", *(f"{cell:.2f}" for cell in cells), *shares])
    title = f"Milliseconds per cycle; the noise of one place takes {results['place_noise_microseconds']:.0f} µs"
    return Table(title, ["way", "τ", "cycle", "draft", "verify", "accept", "noise", "noise and accepting"], rows)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; raises InputError if one is out of range."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--trees", type=lambda text: text.split(","), default=["1:4", "2:8"], metavar="D:V,D:V")
    parser.add_argument("--temperature", type=float, default=1.0, help="above 0")
    parser.add_argument("--tokens", type=int, default=96, help="of an answer, at most")
    parser.add_argument("--repeats", type=int, default=5, help="of all answers")
    parser.add_argument("--target", default=None, help="a model folder or hub name; default: the default target")
    parser.add_argument("--draft", default=None, help="its head; default: the shipped one for the default target")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=None, help="default: torch's own choice")
    options = parser.parse_args(arguments)
    if not options.temperature > 0:
        raise InputError(f"--temperature is {options.temperature:g}; sampling needs one above 0")
    for name in ("tokens", "repeats"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} is {getattr(options, name)}; it must be at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and writes the results."""
    return run_program(lambda: run(arguments))


def run(arguments: Sequence[str] | None) -> None:
    """`main` without what the system may say."""
    options = parse(arguments)
    decoder = ltd.load(
        options.target, options.draft, policy="static", device="cpu", dtype=options.dtype, threads=options.threads
    )
    ways = ways_of(decoder, options)
    place = median(measure(decoder, ways, options))
    results = {
        **circumstances(),
        "threads": torch.get_num_threads(),
        "dtype": str(decoder.target.dtype).removeprefix("torch."),
        "vocabulary": decoder.target.vocab_size,
        "tokens": options.tokens,
        "repeats": options.repeats,
        "place_noise_microseconds": round(1e6 * place, 2),
        "ways": [way.to_dict(place) for way in ways],
    }
    write_json(options.out / "results.json", results)
    print(table(results).markdown())


if __name__ == "__main__":
    sys.exit(main())
