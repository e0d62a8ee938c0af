"""What a narrower beam saves and costs: how long an expansion takes, and tokens per cycle of fixed trees.

    python bench/beam_width.py --out DIR [--widths 10,8,6,5,4,3,2] [--trees 2:4,3:6,4:8,6:12] [--prefix 300]
                               [--tokens 96] [--repeats 60] [--target …] [--draft …] [--dtype auto] [--threads N]

Expansions of the level behind the root's children are timed in turns, behind random tokens. Tokens per cycle are of a
few built-in prompts, greedy; they do not depend on the machine's speed.

Writes `results.json`, and prints the table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import ltd
from forward import CPU, some_prompt, warm_and_time
from ltd.common.program import run_program
from ltd.common.table import Table
from ltd.decoding.decoder import Decoder, Generation
from ltd.drafts import Draft
from ltd.drafts.base import at_width
from ltd.errors import InputError
from ltd.tree import DraftTree
from timing import Timing, circumstances, write_json

PROMPTS = (
    "Explain how photosynthesis works.",
    "Write a short story about a lighthouse keeper who finds a letter.",
    "List ten healthy breakfasts, with a reason for each.",
    "What are the causes of inflation, and what can be done about it?",
    "Write a Python function that returns the n-th Fibonacci number, and explain it.",
    "Translate into French: The weather is nice today, and we are going to the park with our friends.",
)


def expansions(decoder: Decoder, drafts: Sequence[Draft], prefix: int, repeats: int) -> list[Timing]:
    """One expansion of the root's children by every draft, in turns."""
    target, prompt = decoder.target, some_prompt(decoder.target, prefix)
    with ExitStack() as stack:
        calls: list[Callable[[], object]] = []
        for draft in drafts:
            session = stack.enter_context(target.session(1, prefix + 1))
            drafting = stack.enter_context(closing(draft.start(1, prefix + 1 + 2 * draft.width)))
            features = session.prefill(0, prompt).features
            assert features is not None
            drafting.read_prompt(0, features, prompt)
            tree = DraftTree(1, draft.width, 1, draft.width, CPU)
            tree.begin(prompt[-1:], session.lengths)
            tree.expand(drafting.begin(features[:, -1:], prompt[None, -1:], None), draft.d2t)

            def expand(tree: DraftTree = tree, drafting: Any = drafting, draft: Draft = draft) -> None:
                tree.levels = 1
                tree.expand(drafting.expand(tree), draft.d2t)

            calls.append(expand)
        return warm_and_time(calls, repeats)


def tokens_per_cycle(decoder: Decoder, depth: int, size: int, width: int, tokens: int) -> float:
    """Of all prompts together, with one fixed tree."""
    gained = cycles = 0
    for prompt in PROMPTS:
        answer = decoder.generate(
            decoder.encode(prompt), max_new_tokens=tokens, policy=ltd.Static(depth, size, width=width)
        )
        assert isinstance(answer, Generation)
        gained, cycles = gained + sum(answer.statistics.gains), cycles + answer.statistics.cycles
    if cycles == 0:
        raise InputError("these answers are too short to have a cycle; use more --tokens")
    return gained / cycles


def table(results: dict[str, Any]) -> Table:
    """A width a line."""
    trees = list(results["widths"][0]["tau"])
    rows = [
        [
            str(found["width"]),
            Timing(**found["expansion"]).milliseconds(),
            *(f"{tau:.2f}" for tau in found["tau"].values()),
        ]
        for found in results["widths"]
    ]
    return Table("An expansion, ms, and τ of fixed trees", ["beam width", "expansion, ms", *trees], rows)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; raises InputError if one is out of range."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--widths", type=whole_numbers, default=[10, 8, 6, 5, 4, 3, 2], metavar="W,W")
    parser.add_argument("--trees", type=trees_of, default=[(2, 4), (3, 6), (4, 8), (6, 12)], metavar="D:V,D:V")
    parser.add_argument("--prefix", type=int, default=300, help="tokens before what is timed")
    parser.add_argument("--tokens", type=int, default=96, help="of an answer, at most")
    parser.add_argument("--repeats", type=int, default=60, help="of every expansion")
    parser.add_argument("--target", default=None, help="a model folder or hub name; default: the default target")
    parser.add_argument("--draft", default=None, help="its head; default: the shipped one for the default target")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=None, help="default: torch's own choice")
    options = parser.parse_args(arguments)
    for name, least in {"prefix": 2, "tokens": 1, "repeats": 2}.items():
        if getattr(options, name) < least:
            raise InputError(f"--{name} is {getattr(options, name)}; it must be at least {least}")
    return options


def whole_numbers(text: str) -> list[int]:
    """Whole numbers with commas between."""
    return [int(part) for part in text.split(",")]


def trees_of(text: str) -> list[tuple[int, int]]:
    """Depths and sizes: D:V with commas between."""
    pairs = [tuple(map(int, part.split(":"))) for part in text.split(",")]
    return [(depth, size) for depth, size in pairs]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and writes the results."""
    return run_program(lambda: run(arguments))


@torch.inference_mode()
def run(arguments: Sequence[str] | None) -> None:
    """`main` without what the system may say."""
    options = parse(arguments)
    decoder = ltd.load(
        options.target, options.draft, policy="static", device="cpu", dtype=options.dtype, threads=options.threads
    )
    if decoder.draft is None:
        raise InputError("there is no draft head for this target; name one with --draft")
    drafts = [at_width(decoder.draft, width) for width in options.widths]
    timings = expansions(decoder, drafts, options.prefix, options.repeats)
    widths = [
        {
            "width": draft.width,
            "expansion": asdict(timing),
            "tau": {
                f"({depth}, {size})": tokens_per_cycle(decoder, depth, size, draft.width, options.tokens)
                for depth, size in options.trees
            },
        }
        for draft, timing in zip(drafts, timings, strict=True)
    ]
    results = {
        **circumstances(),
        "threads": torch.get_num_threads(),
        "dtype": str(decoder.target.dtype).removeprefix("torch."),
        "unit": "microseconds",
        **{name: getattr(options, name) for name in ("prefix", "tokens", "repeats")},
        "widths": widths,
    }
    write_json(options.out / "results.json", results)
    print(table(results).markdown())


if __name__ == "__main__":
    sys.exit(main())
