"""The training report: facts and curves, and a plot of the curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ltd.common.files import write_bytes
from ltd.common.table import png
from ltd.training.config import RUN_ONLY, TrainDraftConfig
from ltd.training.data.conversations import ANSWER, Conversation
from ltd.training.loop import Training
from ltd.training.vocabulary import DraftVocabulary


def make_report(config: TrainDraftConfig, target: str, data: dict[str, Any], training: Training) -> dict[str, Any]:
    """Everything worth knowing about a trained head, with nothing about the machine but the time it took."""
    choices = {name: value for name, value in config.to_dict().items() if name not in RUN_ONLY | {"target"}}
    return {
        "target": target,
        "choices": choices,
        "data": data,
        "held_out": {name: value for name, value in training.measurements[-1].items() if name != "update"},
        "updates": training.update,
        "learned_tokens": training.tokens,
        "training_seconds": round(training.seconds),
        "curves": {"losses": training.losses, "held_out": training.measurements},
    }


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

    return {
        "training": count(learned),
        "held_out": count(held_out),
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
    """Losses and held-out accuracy over the updates, one line per step of training-time test."""
    from matplotlib.figure import Figure  # only the plot needs it, and it is slow to import

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses, measured = report["curves"]["losses"], report["curves"]["held_out"]
    for step in range(report["choices"]["ttt_steps"]):
        colour = (0.1 + 0.1 * step, 0.35, 0.8 - 0.08 * step) if step < 8 else "grey"
        left.plot([point["update"] for point in losses], [point["losses"][step] for point in losses],
                  color=colour, linewidth=1)  # fmt: skip
        right.plot([point["update"] for point in measured], [100 * point["accuracy"][step] for point in measured],
                   color=colour, marker=".", label=f"step {step}")  # fmt: skip
    left.set(title="training loss", xlabel="update", ylabel="soft cross-entropy")
    right.set(title="held-out accuracy", xlabel="update", ylabel="draft's best = target's best (%)")
    for axes in (left, right):
        _finish(axes)
    right.legend(fontsize="small", frameon=False)
    write_bytes(file, png(figure, dpi=110))


def _finish(axes: Any) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
