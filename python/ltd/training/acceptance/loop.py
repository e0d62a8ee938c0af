"""Training and measuring an acceptance head on cached samples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from ltd.common.tensor_files import restore
from ltd.policies.baselines.acceptance_head import ACCEPTED, REJECTED, AcceptanceHead
from ltd.training.acceptance.config import AcceptanceConfig
from ltd.training.acceptance.samples import AcceptanceSamples
from ltd.training.loop import rate_share, save_state

BINS = 10
MEASURED_ROWS = 4096


def weighted_loss(logits: Tensor, labels: Tensor, weight: float) -> Tensor:
    """Weighted binary cross-entropy (SpecDec++, section 4.2), over the weighted label mass.

    Σ(-weight (1 - a) log(1 - ĉ) - a log ĉ) / Σ(weight (1 - a) + a), ĉ the softmax's chance of acceptance.

    Args:
        logits: (n, 2) of rejection, of acceptance.
        labels: (n,) float, a in 0 … 1.
        weight: of rejection.
    """
    logs = functional.log_softmax(logits.float(), -1)
    rejected = weight * (1 - labels)
    return -(rejected * logs[:, REJECTED] + labels * logs[:, ACCEPTED]).sum() / (rejected + labels).sum()


def train_head(
    head: AcceptanceHead, samples: AcceptanceSamples, config: AcceptanceConfig, checkpoint: Path
) -> list[float]:
    """Trains the head to the end, from the last finished epoch in `checkpoint` if there is one.

    Returns:
        the mean loss of each epoch.
    """
    per_epoch = math.ceil(len(samples.labels) / config.batch)
    updates = config.epochs * per_epoch
    optimiser = torch.optim.AdamW(head.parameters(), lr=config.lr)
    losses: list[float] = []

    def go_on(state: dict[str, Any]) -> None:
        head.load_state_dict(state["head"])
        optimiser.load_state_dict(state["optimiser"])
        losses.extend(state["losses"])

    if checkpoint.exists():
        restore(checkpoint, go_on)
    with tqdm(total=updates, initial=len(losses) * per_epoch, unit="update", desc="training", mininterval=1) as bar:
        for epoch in range(len(losses), config.epochs):
            total = 0.0
            for number, rows in enumerate(_batches(len(samples.labels), config, epoch)):
                for group in optimiser.param_groups:
                    group["lr"] = config.lr * rate_share(epoch * per_epoch + number, updates, config.warmup)
                loss = weighted_loss(head(samples.states[rows].float()), samples.labels[rows], config.weight)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                total += float(loss.detach())
                bar.update()
            losses.append(total / per_epoch)
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
            save_state({"head": head.state_dict(), "optimiser": optimiser.state_dict(), "losses": losses}, checkpoint)
    return losses


def _batches(count: int, config: AcceptanceConfig, epoch: int) -> Iterator[Tensor]:
    # Ordered by the epoch alone, so that a run that was stopped goes on as if it had not been.
    order = torch.randperm(count, generator=torch.Generator().manual_seed(config.seed * 1_000_003 + epoch))
    yield from order.split(config.batch)


@torch.no_grad()
def measure(head: AcceptanceHead, samples: AcceptanceSamples, weight: float) -> dict[str, Any]:
    """Held-out numbers, ready for JSON.

    Returns:
        tokens: how many; accepted: mean label; loss: `weighted_loss`; auc: see `soft_auc`; calibration: for each of ten
        bins of equal width that is not empty, the tokens, mean prediction and mean label in it. A head trained with a
        weight on rejection predicts below the labels, by the weight's design.
    """
    logits = torch.cat([head(part.float()) for part in samples.states.split(MEASURED_ROWS)])
    chances, labels = logits.float().softmax(-1)[:, ACCEPTED], samples.labels
    return {
        "tokens": len(labels),
        "accepted": round(float(labels.mean()), 4),
        "loss": round(float(weighted_loss(logits, labels, weight)), 4),
        "auc": round(soft_auc(chances, labels), 4),
        "calibration": calibration(chances, labels),
    }


def calibration(chances: Tensor, labels: Tensor) -> list[dict[str, float]]:
    """Tokens, mean prediction and mean label of every bin that is not empty; chances and labels are (n,) in 0 … 1."""
    bins = (chances * BINS).long().clamp_max(BINS - 1)
    found = []
    for number in range(BINS):
        inside = bins == number
        if inside.any():
            predicted, label = float(chances[inside].mean()), float(labels[inside].mean())
            found.append({"tokens": int(inside.sum()), "predicted": round(predicted, 4), "label": round(label, 4)})
    return found


def soft_auc(chances: Tensor, labels: Tensor) -> float:
    """How often an accepted token is given the higher chance of an accepted and a rejected one.

    Every token counts as accepted with its label's weight and as rejected with the rest, ties as one half; 0.5 where
    all are accepted or all rejected. chances and labels are (n,).
    """
    _, groups = chances.unique(return_inverse=True)  # numbered from the lowest chance up
    zeros = torch.zeros(int(groups.max()) + 1, dtype=torch.float64)
    accepted = zeros.index_add(0, groups, labels.double())
    rejected = zeros.index_add(0, groups, 1 - labels.double())
    below = rejected.cumsum(0) - rejected
    pairs = float(accepted.sum() * rejected.sum())
    return float((accepted * (below + 0.5 * rejected)).sum()) / pairs if pairs > 0 else 0.5
