"""`ltd tune`: policies for this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ltd.cli.options import DraftOption, DtypeOption, LimitOption, TargetOption, ThreadsOption, names

if TYPE_CHECKING:
    from ltd.common.table import Table
    from ltd_rl.tune import Tuned

# The table of rewards is in `ltd_rl.environments.rewards`; a help text must not import it, which takes seconds.
REWARD_HELP = "What training maximises: ratio or renewal; with ppo also length or time."


def tune(
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with TASK/question.jsonl to train on; HumanEval if not given.")
    ] = None,
    tasks: Annotated[str, typer.Option(help="Training tasks in that folder, with commas between.")] = "humaneval",
    limit: LimitOption = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most new tokens of a training answer.")] = 128,
    trainer: Annotated[str, typer.Option(help="exact, or ppo: the paper's method, which takes hours.")] = "exact",
    reward: Annotated[str, typer.Option(help=REWARD_HELP)] = "renewal",
    seconds: Annotated[float, typer.Option(help="About how long to measure costs.")] = 60.0,
    questions: Annotated[int, typer.Option(min=1, help="Held-out questions to compare on.")] = 24,
    out: Annotated[Path | None, typer.Option(help="Work folder; one in the user's cache if not given.")] = None,
    target: TargetOption = None,
    draft: DraftOption = None,
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Make policies for this machine, and use them from then on: measure, record, train, compare, keep."""
    from ltd_rl.tune import TuneConfig
    from ltd_rl.tune import tune as run

    config = TuneConfig(
        out=out,
        data_dir=data_dir,
        tasks=names(tasks),
        limit=limit,
        max_new_tokens=max_new_tokens,
        trainer=trainer,
        reward=reward,
        seconds=seconds,
        questions=questions,
        target=target,
        draft=draft,
        dtype=dtype,
        threads=threads,
    )
    tuned = run(config)
    Console().print(comparison(tuned).rich())
    if not tuned.learned:
        print("A static setting was faster than the learned policies here, so it is kept.", file=sys.stderr)
    print(f"ltd uses {tuned.policy} here from now on; --policy static does without.", file=sys.stderr)


def comparison(tuned: Tuned) -> Table:
    """What each way of deciding came to on held-out questions."""
    from ltd.common.table import Table

    rows = []
    for name, method in tuned.names.items():
        score = tuned.scores[method]
        speedup = "-" if score.speedup is None else f"{score.speedup:.2f}x"
        rows.append([name, f"{score.tokens_per_second:.1f}", speedup, f"{score.acceptance_length:.2f}"])
    return Table("Held-out questions, prefill left out", ["", "tokens/s", "speedup", "τ"], rows)
