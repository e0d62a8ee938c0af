"""`ltd tune`: policies for this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ltd.cli.options import (
    DeviceOption,
    DraftOption,
    DtypeOption,
    LimitOption,
    TargetOption,
    ThreadsOption,
    TrainingDataOption,
    TrainingTasksOption,
    names,
    numbers,
    refuse_unused,
)
from ltd.common.terminal import terminal

if TYPE_CHECKING:
    from ltd.common.journal import Record
    from ltd.common.table import Table
    from ltd.evaluation.scores import Score
    from ltd_rl.tuning.keeping import Tuned

# What `--quick` makes no use of.
NOT_QUICK = (
    *("data_dir", "tasks", "limit", "max_new_tokens", "temperature", "trainer"),
    *("reward", "seconds", "questions", "width", "out", "device"),
)
# The table of rewards is in `ltd_rl.environments.rewards`; a help text must not import it, which takes seconds.
REWARD_HELP = "What training maximises: ratio or renewal; with ppo also length or time."


def tune(
    context: typer.Context,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="In half a minute: from shipped traces, and nothing is tried in real use."),
    ] = False,
    data_dir: TrainingDataOption = None,
    tasks: TrainingTasksOption = "own",
    limit: LimitOption = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most new tokens of a training answer.")] = 128,
    temperature: Annotated[
        str, typer.Option(help="Of the answers to learn from and to compare on, 0 being greedy; one, or several.")
    ] = "0,1",
    trainer: Annotated[str, typer.Option(help="exact, or ppo: the paper's method, which takes hours.")] = "exact",
    reward: Annotated[str, typer.Option(help=REWARD_HELP)] = "renewal",
    seconds: Annotated[float, typer.Option(help="About how long to measure costs.")] = 60.0,
    questions: Annotated[int, typer.Option(min=1, help="Other questions to compare on, at least 2 of a task.")] = 24,
    width: Annotated[
        int | None,
        typer.Option(min=1, help="Beam width of trees; that of the shipped policies for such a machine if not given."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Work folder; one in the user's cache if not given.")] = None,
    target: TargetOption = None,
    draft: DraftOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Make policies for this machine, and use them from then on: measure, record, train, compare, keep."""
    if quick:
        refuse_unused(context, NOT_QUICK, "--quick learns from shipped traces and")
        tune_quickly(target, draft, dtype, threads)
        return
    from ltd_rl.tuning.config import TuneConfig
    from ltd_rl.tuning.tune import tune as run

    config = TuneConfig(
        out=out,
        data_dir=data_dir,
        tasks=names(tasks),
        limit=limit,
        max_new_tokens=max_new_tokens,
        temperatures=numbers(temperature, "--temperature"),
        trainer=trainer,
        reward=reward,
        seconds=seconds,
        questions=questions,
        width=width,
        target=target,
        draft=draft,
        device=device,
        dtype=dtype,
        threads=threads,
    )
    tuned = run(config)
    for table in comparison(tuned):
        terminal().print(table.rich())
    print(verdict(tuned), file=sys.stderr)


def tune_quickly(target: str | None, draft: str | None, dtype: str, threads: int | None) -> None:
    """Measures costs and fits the shipped policies to them."""
    from ltd.common.table import Table
    from ltd_rl.traces.samplings import texts_at
    from ltd_rl.tuning.quick import PLAIN, SHIPPED, quick_tune

    tuned = quick_tune(target, draft, dtype=dtype, threads=threads)
    plain = tuned.replayed[PLAIN]
    rows = [[name, f"{speed:.1f}", f"{speed / plain:.2f}x"] for name, speed in tuned.replayed.items()]
    texts = texts_at(tuned.temperatures)
    title = f"Answers that nothing was learned with ({texts}), replayed with this machine's costs"
    terminal().print(Table(title, ["", "tokens/s", "speedup"], rows).rich())
    kept = "Nothing was faster than plain decoding, so no policy is kept; --policy none decodes plainly."
    if tuned.kept is None and tuned.replayed.get(SHIPPED, 0.0) > plain:
        kept = "The shipped policies were the fastest, and ltd goes on using them."
    elif tuned.kept is not None:
        kept = f"ltd uses {tuned.kept} here from now on; ltd tune takes minutes, and tests what it keeps."
    print(kept, file=sys.stderr)


def verdict(tuned: Tuned) -> str:
    """What is used here from now on, and why; see `ltd_rl.tuning.winner`."""
    if tuned.kept is None:
        return (
            "No policy is kept, as one is only if the 95 % intervals of its speed over the "
            f"{tuned.incumbent} policy, which is used without tuning, and over every simpler choice all lie above 1; "
            "more --questions make them narrower."
        )
    why = "" if tuned.learned else "The intervals of the learned policies over all simpler choices do not lie above 1. "
    return f"{why}ltd uses {tuned.kept} here from now on; --policy static does without."


def comparison(tuned: Tuned) -> list[Table]:
    """What each way of deciding came to on questions that nothing was learned with, and the learned one beside each: at
    every temperature, and where there are several, together."""
    from ltd_rl.traces.samplings import texts_at
    from ltd_rl.tuning.winner import together

    parts = [(texts_at([temperature]), results) for temperature, results in tuned.results.items()]
    if len(parts) > 1:
        parts.append(("all temperatures together", together(tuned.results)))
    return [table for texts, results in parts for table in compared(tuned, texts, results)]


def compared(tuned: Tuned, texts: str, results: Record) -> list[Table]:
    """The two tables of some results; `texts` says what of."""
    from ltd.common.table import Table
    from ltd.evaluation.scores import MEAN, scores
    from ltd_rl.tuning.winner import over
    from ltd_rl.tuning.work import LEARNED

    found, learned = scores(results), tuned.names[LEARNED]
    speeds, ratios = [], []
    for name, method in tuned.names.items():
        score = found[method][MEAN]
        speeds.append([name, f"{score.tokens_per_second:.1f}", *with_interval(score), f"{score.acceptance_length:.2f}"])
        if method != learned:
            ratios.append([name, *with_interval(over(results, learned, method))])
    interval = "95 % interval"
    return [
        Table(
            f"Questions that nothing was learned with, prefill left out: {texts}",
            ["", "tokens/s", "speedup", interval, "τ"],
            speeds,
        ),
        Table(f"Speed of the learned policies over each: {texts}", ["", "ratio", interval], ratios),
    ]


def with_interval(score: Score) -> list[str]:
    """A ratio and its interval, in two cells."""
    ratio = "-" if score.speedup is None else f"{score.speedup:.2f}x"
    interval = "-" if score.interval is None else f"{score.interval[0]:.2f} … {score.interval[1]:.2f}"
    return [ratio, interval]
