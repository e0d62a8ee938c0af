"""Trains a network that tells accepted from rejected, and measures it on held-out samples."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ltd.common.number_ranges import check_least, check_positive
from ltd.common.tensor_files import DAMAGE, load_pickled
from ltd.errors import InputError
from ltd.training.acceptance.loop import soft_auc
from ltd.training.loop import save_state


@dataclass(frozen=True, slots=True)
class FitConfig:
    """How to train.

    Args:
        epochs: times that every sample is seen.
        batch: samples per update. The paper does not give it.
        learning_rate: of AdamW, constant.
        seed: of the order.

    Raises:
        InputError: a number out of range.
    """

    epochs: int
    batch: int = 64
    learning_rate: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(self, epochs=1, batch=1)
        check_positive(self, "learning_rate")


@dataclass(frozen=True, slots=True)
class Labelled:
    """Features (n, inputs) of any floating type, and bool (n,), accepted or not; both classes must be there."""

    features: Tensor
    accepted: Tensor

    def __post_init__(self) -> None:
        if self.accepted.all() or not self.accepted.any():
            raise InputError(
                f"of {len(self.accepted)} samples {int(self.accepted.sum())} are accepted, but there must be accepted "
                "and rejected ones in both the training and the held-out questions; record more questions"
            )

    @property
    def weight(self) -> Tensor:
        """Of the accepted samples, so that both classes count alike."""
        return (~self.accepted).sum() / self.accepted.sum()


@dataclass(frozen=True, slots=True)
class ClassifierScore:
    """How well a network does on held-out samples after an epoch.

    Attributes:
        loss: binary cross-entropy in nats, both classes counting alike.
        accuracy: mean over the classes of the share judged rightly at a chance of 0.5.
        auc: the chance that an accepted sample is given a higher one than a rejected one; ties count half.
    """

    loss: float
    accuracy: float
    auc: float


def fit(
    network: nn.Module,
    training: Labelled,
    held_out: Labelled,
    config: FitConfig,
    checkpoint: Path,
    told: Callable[[ClassifierScore], None] = lambda score: None,
) -> list[ClassifierScore]:
    """Trains a network, which ends with the weights of the epoch with the least held-out loss.

    Args:
        network: features (n, inputs) → logits of acceptance (n,), or of rejection and acceptance (n, 2).
        checkpoint: file of the run's state after every epoch; training goes on from it, if it is there.
        told: hears of every epoch, those before a resumption too.

    Returns:
        the scores of all epochs.

    Raises:
        InputError: the checkpoint is damaged or another network's.
    """
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate)
    scores: list[ClassifierScore] = []
    best = copy.deepcopy(network.state_dict())
    if checkpoint.exists():
        scores, best = resume(checkpoint, network, optimiser, config)
    for score in scores:
        told(score)
    for epoch in range(len(scores), config.epochs):
        order = torch.randperm(len(training.accepted), generator=torch.Generator().manual_seed(config.seed + epoch))
        for rows in order.split(config.batch):
            optimiser.zero_grad()
            loss_of(network, training.features[rows], training.accepted[rows], training.weight).backward()
            optimiser.step()
        scores.append(measure(network, held_out))
        if all(scores[-1].loss < score.loss for score in scores[:-1]):  # of equals the first
            best = copy.deepcopy(network.state_dict())
        state = {"settings": asdict(config), "scores": [asdict(score) for score in scores], "best": best}
        state |= {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
        save_state(state, checkpoint)
        told(scores[-1])
    network.load_state_dict(best)
    return scores


def resume(
    checkpoint: Path, network: nn.Module, optimiser: torch.optim.Optimizer, config: FitConfig
) -> tuple[list[ClassifierScore], dict[str, Any]]:
    """Puts network and optimiser into a saved state: the scores so far, and the best weights."""
    try:
        state = load_pickled(checkpoint.read_bytes())
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        settings, scores, best = (
            state["settings"],
            [ClassifierScore(**score) for score in state["scores"]],
            state["best"],
        )
    except (pickle.UnpicklingError, AttributeError, *DAMAGE) as error:
        raise InputError(f"{checkpoint} is damaged or of another network; delete it and train again") from error
    if settings != asdict(config):
        raise InputError(f"{checkpoint} is of a run with other settings; delete it, or name another --out")
    return scores, best


def logits_of(network: nn.Module, features: Tensor) -> Tensor:
    """float32 (n,): the logit of acceptance."""
    logits: Tensor = network(features.float())
    return logits if logits.ndim == 1 else logits[:, 1] - logits[:, 0]


def loss_of(network: nn.Module, features: Tensor, accepted: Tensor, weight: Tensor) -> Tensor:
    """The mean binary cross-entropy, with a weight on the accepted samples; divided by the sum of all weights."""
    weights = torch.where(accepted, weight, 1.0)
    losses = functional.binary_cross_entropy_with_logits(
        logits_of(network, features), accepted.float(), reduction="none"
    )
    return (losses * weights).sum() / weights.sum()


@torch.no_grad()
def measure(network: nn.Module, samples: Labelled) -> ClassifierScore:
    """How well a network does."""
    logits, accepted = logits_of(network, samples.features), samples.accepted
    right = (logits > 0) == accepted
    accuracy = (right[accepted].float().mean() + right[~accepted].float().mean()) / 2
    loss = loss_of(network, samples.features, accepted, samples.weight)
    return ClassifierScore(float(loss), float(accuracy), area_under_curve(logits, accepted))


def area_under_curve(logits: Tensor, accepted: Tensor) -> float:
    """The area under the ROC curve: `ltd.training.acceptance.loop.soft_auc` with labels that are certain."""
    return soft_auc(logits, accepted.float())
