"""Times the target's forward on the CPU: the engine against `transformers` with packed linear layers, in turns.

    python bench/forward.py [--target FOLDER] [--dtype bfloat16] [--prefix 500] [--threads 2] [--repeats 15] [--out DIR]

The floor is what this machine cannot do faster: reading the weights once, at the speed at which it reads as much
memory, or the forward's arithmetic at the speed of its best large product of matrices, whichever takes longer. Also
timed: loading, and what drafting costs beside a forward of one token. `--out` writes `forward.json` and `forward.png`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

import ltd
from console import wide_console
from floor import Floor, Work
from ltd.common.files import write_bytes
from ltd.common.table import Table, png
from ltd.decoding.decoder import Decoder
from ltd.engine.cpu import Engine
from ltd.engine.forward import TreeBlock
from ltd.engine.packed_linear import pack_linears
from ltd.errors import InputError
from ltd.target.locate import DEFAULT_TARGET
from ltd.target.model import load_model
from ltd.target.target import Target, TargetSession
from ltd.tree import DraftTree
from timing import Timing, circumstances, time_in_turns, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 240)
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class ForwardResult:
    """Forwards of so many tokens; the floor in microseconds, as the timings are."""

    tokens: int
    engine: Timing
    transformers: Timing
    floor: float


@dataclass(frozen=True, slots=True)
class DraftResult:
    """What drafting costs.

    Attributes:
        forward: the target's forward of one token, for comparison.
        begin: reading one accepted token and expanding the root.
        expand: one more level.
    """

    forward: Timing
    begin: Timing
    expand: Timing


@dataclass(frozen=True, slots=True)
class Results:
    """Everything measured, and with what.

    Attributes:
        target: where the model came from.
        dtype: of weights and activations.
        threads: CPU threads.
        prefix: tokens in the cache before every forward.
        load_seconds: until `ltd.load()` was ready.
    """

    target: str
    dtype: str
    threads: int
    prefix: int
    load_seconds: float
    floor: Floor
    forwards: list[ForwardResult]
    draft: DraftResult | None

    @property
    def title(self) -> str:
        """What the numbers hold for."""
        return f"a forward behind a prefix of {self.prefix} tokens, {self.dtype}, threads: {self.threads}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"unit": "microseconds, but where a name says seconds", **asdict(self)}


# --- measuring ---


def load_both(options: argparse.Namespace) -> tuple[Decoder, float, Target]:
    """The decoder, the seconds until it was ready, and the same model as it ran before there was an engine."""
    start = time.perf_counter()
    decoder = ltd.load(options.target, options.draft, dtype=options.dtype, device="cpu", threads=options.threads)
    seconds = time.perf_counter() - start
    if not isinstance(decoder.target.forward, Engine):
        raise InputError(f"the engine does not run this model in {options.dtype}")
    model = load_model(options.target, decoder.target.dtype, CPU).model
    pack_linears(model)
    return decoder, seconds, Target(model)


def some_prompt(target: Target, prefix: int) -> torch.Tensor:
    """int64 (prefix,): the same random tokens at every call."""
    return torch.randint(3, target.vocab_size, (prefix,), generator=torch.Generator().manual_seed(0))


def forward_of(session: TargetSession, count: int) -> Callable[[], object]:
    """A forward of `count` tokens in a chain behind the prefix; the cache does not grow."""
    target = session.target
    tokens = torch.randint(3, target.vocab_size, (1, count), generator=torch.Generator().manual_seed(count))
    block = TreeBlock.chain(session.lengths, count)
    return lambda: target.forward(tokens, block, session.cache, taps=session.taps)


def warm_and_time(calls: Sequence[Callable[[], object]], repeats: int) -> list[Timing]:
    """One round that does not count, then so many that do."""
    time_in_turns(calls, range(1))
    return [Timing.of(seconds) for seconds in time_in_turns(calls, range(repeats))]


def measure_forwards(engine: Target, before: Target, floor: Floor, prefix: int, repeats: int) -> list[ForwardResult]:
    """Both targets' forwards of all sizes, in turns."""
    capacity = prefix + max(SIZES)
    results = []
    with engine.session(1, capacity, tap=False) as ours, before.session(1, capacity, tap=False) as theirs:
        for session in (ours, theirs):
            session.prefill(0, some_prompt(session.target, prefix))
        for count in SIZES:
            timings = warm_and_time([forward_of(session, count) for session in (ours, theirs)], repeats)
            results.append(ForwardResult(count, *timings, floor=floor.seconds(count, prefix) * 1e6))
    return results


def measure_draft(decoder: Decoder, prefix: int, repeats: int) -> DraftResult | None:
    """The draft's steps and a forward of one token, in turns; None without a draft."""
    target, draft = decoder.target, decoder.draft
    if draft is None:
        return None
    tree = DraftTree(1, draft.width, 1, draft.width, CPU)
    capacity = prefix + repeats + 1 + draft.width  # every beginning adds a row to the draft's cache
    prompt = some_prompt(target, prefix)
    with target.session(1, capacity) as session, closing(draft.start(1, capacity)) as drafting:
        features = session.prefill(0, prompt).features
        assert features is not None
        drafting.read_prompt(0, features, prompt)

        def begin() -> None:
            tree.begin(prompt[-1:], session.lengths)
            tree.expand(drafting.begin(features[:, -1:], prompt[None, -1:], None), draft.d2t)

        def expand() -> None:
            tree.levels = 1
            tree.expand(drafting.expand(tree), draft.d2t)

        return DraftResult(*warm_and_time([forward_of(session, 1), begin, expand], repeats))


@torch.inference_mode()
def measure(options: argparse.Namespace) -> Results:
    """Everything, with the numbers of threads and repeats that were asked for."""
    decoder, load_seconds, before = load_both(options)
    target = decoder.target
    assert isinstance(target.forward, Engine)
    floor = Floor.measure(Work.of(target.forward), target.dtype, options.repeats)
    return Results(
        target=options.target or DEFAULT_TARGET,
        dtype=str(target.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        prefix=options.prefix,
        load_seconds=load_seconds,
        floor=floor,
        forwards=measure_forwards(target, before, floor, options.prefix, options.repeats),
        draft=measure_draft(decoder, options.prefix, options.repeats),
    )


# --- showing ---


def forward_table(results: Results) -> Table:
    """One row per number of tokens."""
    columns = ["tokens", "engine, ms", "transformers, ms", "speedup", "x one token", "floor, ms", "floor / engine"]
    first = results.forwards[0].engine.median
    rows = [
        [
            str(forward.tokens),
            forward.engine.milliseconds(),
            forward.transformers.milliseconds(),
            f"{forward.transformers.median / forward.engine.median:.2f}",
            f"{forward.engine.median / first:.2f}",
            f"{forward.floor / 1e3:.2f}",
            f"{forward.floor / forward.engine.median:.2f}",
        ]
        for forward in results.forwards
    ]
    return Table(f"{results.title}; median (quartiles)", columns, rows)


def draft_line(draft: DraftResult) -> str:
    """What drafting costs, in one line."""
    begin, expand = (f"{timing.median / draft.forward.median:.0%}" for timing in (draft.begin, draft.expand))
    return (
        f"draft: begin {draft.begin.milliseconds()} ms, one expansion {draft.expand.milliseconds()} ms: "
        f"{begin} and {expand} of a forward of one token ({draft.forward.milliseconds()} ms)"
    )


def show(results: Results, console: Console) -> None:
    """The table and the lines below it."""
    console.print(forward_table(results).rich())
    lines = [str(results.floor), f"loading: {results.load_seconds:.1f} s until ltd.load() is ready"]
    lines += [draft_line(results.draft)] if results.draft is not None else []
    for line in lines:
        console.print(line, highlight=False)


def draw(results: Results) -> Figure:
    """Milliseconds against tokens, both logarithmic: what memory bounds is flat, what arithmetic bounds is a slope."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    tokens = [forward.tokens for forward in results.forwards]
    for label, timings in (
        ("transformers, packed linear layers", [forward.transformers for forward in results.forwards]),
        ("ltd's engine", [forward.engine for forward in results.forwards]),
    ):
        low, median, high = ([getattr(t, name) / 1e3 for t in timings] for name in ("low", "median", "high"))
        (line,) = axes.plot(tokens, median, marker="o", markersize=4, label=label)
        axes.fill_between(tokens, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    counts = range(1, max(tokens) + 1)
    floors = [results.floor.seconds(count, results.prefix) * 1e3 for count in counts]
    axes.plot(counts, floors, color="black", linestyle="--", linewidth=1, label="floor: memory, then arithmetic")
    axes.set(xlabel="tokens in the forward", ylabel="milliseconds (median, quartiles)")
    axes.set_title(results.title, fontsize=10)
    axes.set(xscale="log", yscale="log", xticks=tokens)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


# --- the command ---


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options, checked; a target of one's own has no draft unless one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default=None, help="a model folder or hub name; default: the default target")
    parser.add_argument("--draft", default=None, help="its head; default: the shipped one for the default target")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--prefix", type=int, default=500)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=None, metavar="DIR", help="also write forward.json and forward.png")
    options = parser.parse_args(arguments)
    if options.repeats < 2 or options.prefix < 2:
        parser.error("--repeats and --prefix must be at least 2")
    if options.draft is None and options.target is not None:
        options.draft = "none"
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    try:
        results = measure(options)
    except InputError as error:
        sys.exit(f"error: {error}")
    show(results, wide_console())
    if options.out is not None:
        write_json(options.out / "forward.json", {**circumstances(), **results.to_dict()})
        write_bytes(options.out / "forward.png", png(draw(results)))


if __name__ == "__main__":
    main()
