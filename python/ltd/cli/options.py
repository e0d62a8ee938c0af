"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from ltd.common.named_options import numbers_of
from ltd.errors import InputError

TargetOption = Annotated[
    str | None, typer.Option(help="Local folder, GGUF file or hub name; SmolLM2-135M-Instruct if not given.")
]
DraftOption = Annotated[
    str | None,
    typer.Option(
        help='Folder with an EAGLE-3 head; "lookup", to look tokens up in the text so far instead; or "none". If not '
        "given, the shipped head where it fits the target, and else lookup."
    ),
]
WidthOption = Annotated[
    int | None,
    typer.Option(min=1, help="Beam width: nodes of a level that have children, and how many; 10 if not given."),
]
ChainOption = Annotated[str | None, typer.Option(help="Folder with a chain draft; the shipped one if not given.")]
DtypeOption = Annotated[str, typer.Option(help="auto (the fastest here), float32, bfloat16 or float16.")]
DeviceOption = Annotated[
    str,
    typer.Option(
        help="cpu, cuda or cuda:N; auto is the GPU once make gpu-check has passed on it with this build, else the CPU."
    ),
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads; ltd info says how many if not given.")]
MaxNewTokensOption = Annotated[int, typer.Option(min=1, help="Most new tokens.")]
TemperatureOption = Annotated[float, typer.Option(help="0 is greedy.")]
TopPOption = Annotated[float, typer.Option(help="Sample from the best tokens that hold this probability.")]
TopKOption = Annotated[int, typer.Option(help="Sample from so many best tokens; 0 is all.")]
TemperaturesOption = Annotated[
    str, typer.Option("--temperature", help="0 is greedy; with several, commas between, questions take them in turns.")
]
DataDirOption = Annotated[
    Path | None,
    typer.Option(help="Folder that holds TASK/question.jsonl for every task; well-known ones are fetched without it."),
]
TasksOption = Annotated[
    str,
    typer.Option(
        help="Names of tasks, with commas between; without --data-dir mt_bench, gsm8k, alpaca, qa, humaneval, "
        "spec_bench, mmlu, or mmlu:SUBJECT for one of its subjects."
    ),
]
TrainingDataOption = Annotated[
    Path | None,
    typer.Option(help="Folder with TASK/question.jsonl to train on; made or fetched by --tasks if not given."),
]
TrainingTasksOption = Annotated[
    str,
    typer.Option(
        help="Training tasks, with commas between; without --data-dir own, questions that the target writes itself, or "
        "humaneval, or what ltd eval fetches by name."
    ),
]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Only the first so many questions of every task.")]
RayOption = Annotated[
    str | None,
    typer.Option(
        metavar="[ADDRESS]",
        help="Share the work out among workers of Ray: a cluster's at HOST:6379, say, or, alone, of one started here. "
        "The results do not depend on how many there are.",
    ),
]
RayCpusOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Processors, and threads, of each worker of --ray; all of a node if not given, as for timing."
    ),
]

# What stands before `makes no use of`, see `refuse_unused`.
GREEDY = "decoding at temperature 0 is greedy and"


def names(text: str) -> tuple[str, ...]:
    """The names in a list with commas between."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def numbers(text: str, what: str) -> tuple[float, ...]:
    """The numbers in a list with commas between; raises InputError, which says what they are, if one is none."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{what} is {text}; give a number, or several with commas between") from None


def layer_numbers(text: str | None) -> tuple[int, ...] | None:
    """Numbers of layers as a user writes them; None where nothing is given.

    Raises:
        InputError: something else than whole numbers with commas between.
    """
    if text is None:
        return None
    layers = numbers_of(part.strip() for part in text.split(","))
    if layers is None:
        raise InputError(f"layers {text!r} are no whole numbers with commas between, such as 2,16,29")
    return layers


def refuse_unused(context: typer.Context, names: Iterable[str], what: str) -> None:
    """Refuses options that were given and would have no effect.

    Args:
        context: of the call.
        names: of the parameters without effect.
        what: makes no use of them; the message begins with it.

    Raises:
        InputError: at least one of them was given.
    """
    spelled = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    sources = {name: context.get_parameter_source(name) for name in names}
    unused = [spelled[name] for name, source in sources.items() if source is not None and source.name != "DEFAULT"]
    if unused:
        them = "it" if len(unused) == 1 else "them"
        raise InputError(f"{what} makes no use of {', '.join(unused)}; leave {them} out")
