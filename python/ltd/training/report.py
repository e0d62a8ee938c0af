"""The training report: facts and curves, and a plot of the curves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ltd.common.files import write_bytes, write_text
from ltd.common.table import png
from ltd.training.config import RUN_ONLY, TrainDraftConfig
from ltd.training.data.conversation import ANSWER, Conversation
from ltd.training.data.mix import KINDS
from ltd.training.loop import Training
from ltd.training.vocabulary import DraftVocabulary


def make_report(
    config: TrainDraftConfig, target: str, data: dict[str, Any], training: Training, held_out: dict[str, Any]
) -> dict[str, Any]:
    """Everything worth knowing about a trained head, with nothing about the machine but what was fast on it.

    held_out: what was measured of the finished draft, of all conversations and by kind of text.
    """
    return {
        "target": target,
        "choices": _choices(config),
        "data": data,
        **held_out,
        "updates": training.update,
        "learned_tokens": training.tokens,
        "training_seconds": round(training.seconds),
        "curves": _curves(training),
    }


def _choices(config: TrainDraftConfig) -> dict[str, Any]:
    places = {"target", "start_from"}  # folders of this machine
    return {name: value for name, value in config.to_dict().items() if name not in RUN_ONLY | places}


def _curves(training: Training) -> dict[str, Any]:
    return {"losses": training.losses, "held_out": training.measurements}


class Curves:
    """The curves of a training on its way, in its folder: `training.json` and, drawn, `training.png`."""

    def __init__(self, folder: Path, config: TrainDraftConfig, draw: Callable[[dict[str, Any], Path], None]) -> None:
        self.folder, self.config, self.draw = folder, config, draw

    def write(self, training: Training) -> None:
        """Replaces the files."""
        report = {"choices": _choices(self.config), "updates": training.updates, "curves": _curves(training)}
        write_text(self.folder / "training.json", json.dumps(report, indent=1) + "\n")
        self.draw(report, self.folder / "training.png")


class CurveWatch:
    """See `ltd.training.loop.TrainingWatch`: measures nothing more."""

    def __init__(self, curves: Curves) -> None:
        self.curves = curves

    def look(self, training: Training) -> dict[str, Any]:
        """Nothing."""
        return {}

    def show(self, training: Training) -> None:
        """Writes and draws the curves."""
        self.curves.write(training)


def data_facts(
    learned: list[Conversation], held_out: list[Conversation], vocabulary: DraftVocabulary
) -> dict[str, Any]:
    """Sizes of the data and what the draft vocabulary covers of it."""

    def count(conversations: list[Conversation]) -> dict[str, int]:
        return {
            "conversations": len(conversations),
            "tokens": sum(len(each.tokens) for each in conversations),
            "answer_tokens": sum(each.roles.count(ANSWER) for each in conversations),
        }

    every = [*learned, *held_out]
    kinds = {KINDS[number].name: [each for each in every if each.kind == number] for number in
             sorted({each.kind for each in every})}  # fmt: skip
    return {
        "training": count(learned),
        "held_out": count(held_out),
        "kinds": {name: count(conversations) for name, conversations in kinds.items()},
        "draft_vocabulary_coverage": round(vocabulary.coverage, 5),
    }


def draw_chain_curves(report: dict[str, Any], file: Path) -> None:
    """Losses and held-out KL, agreement and acceptance over the updates."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses, measured = report["curves"]["losses"], report["curves"]["held_out"]
    updates = [point["update"] for point in measured]
    left.plot([point["update"] for point in losses], [point["losses"][0] for point in losses], linewidth=1,
              label="training loss (soft cross-entropy)")  # fmt: skip
    left.plot(updates, [point["kl"] for point in measured], marker=".", label="held-out KL")
    left.set(title="loss", xlabel="update", ylabel="nats")
    for name in ("agreement", "acceptance"):
        right.plot(updates, [100 * point[name] for point in measured], marker=".", label=name)
    right.set(title="held-out answers", xlabel="update", ylabel="%")
    for axes in (left, right):
        _finish(axes)
        axes.legend(fontsize="small", frameon=False)
    write_bytes(file, png(figure, dpi=110))


def draw_head_curves(report: dict[str, Any], file: Path) -> None:
    """Losses over the updates; over tokens seen held-out accuracy, a line per step of training-time test, and speed."""
    from matplotlib.figure import Figure  # only the plot needs it, and it is slow to import

    measured = report["curves"]["held_out"]
    decoded = [point for point in measured if "tau" in point]
    figure = Figure(figsize=(13 if decoded else 9, 3.6), layout="constrained")
    left, middle, *rest = figure.subplots(1, 3 if decoded else 2)
    _draw_steps(left, middle, report)
    if decoded:
        _draw_speeds(rest[0], decoded)
    write_bytes(file, png(figure, dpi=110))


def _draw_steps(left: Any, right: Any, report: dict[str, Any]) -> None:
    losses, measured = report["curves"]["losses"], report["curves"]["held_out"]
    for step in range(report["choices"]["ttt_steps"]):
        colour = (0.1 + 0.1 * step, 0.35, 0.8 - 0.08 * step) if step < 8 else "grey"
        left.plot([point["update"] for point in losses], [point["losses"][step] for point in losses],
                  color=colour, linewidth=1)  # fmt: skip
        right.plot([_seen(point) for point in measured], [100 * point["accuracy"][step] for point in measured],
                   color=colour, marker=".", label=f"step {step}")  # fmt: skip
    left.set(title="training loss", xlabel="update", ylabel="soft cross-entropy")
    right.set(title="held-out accuracy", xlabel=_seen_label(measured), ylabel="draft's best = target's best (%)")
    for axes in (left, right):
        _finish(axes)
    right.legend(fontsize="small", frameon=False)


def _draw_speeds(axes: Any, measured: list[dict[str, Any]]) -> None:
    """Tokens per cycle in a large tree on the left, tokens per second on the right."""
    seen, other = [_seen(point) for point in measured], axes.twinx()
    axes.plot(seen, [point["tau"] for point in measured], color="tab:blue", marker=".")
    other.plot(seen, [point["tokens_per_second"] for point in measured], color="tab:orange", marker=".")
    axes.set(title="decoding held-out questions", xlabel=_seen_label(measured))
    axes.set_ylabel("tokens per cycle, depth 8, size 60", color="tab:blue")
    other.set_ylabel("tokens per second here", color="tab:orange")
    _finish(axes)
    other.spines["top"].set_visible(False)


def _seen(point: dict[str, Any]) -> float:
    """Millions of answer tokens seen until then; reports of before they were kept have updates."""
    return point["seen_tokens"] / 1e6 if "seen_tokens" in point else float(point["update"])


def _seen_label(measured: list[dict[str, Any]]) -> str:
    return "answer tokens seen, millions" if measured and "seen_tokens" in measured[0] else "update"


def _finish(axes: Any) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
