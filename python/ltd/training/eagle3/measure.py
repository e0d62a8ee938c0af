"""How well the head predicts conversations it has not learned from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ltd.drafts.eagle3.head import Eagle3Head
from ltd.training.config import TrainDraftConfig
from ltd.training.data.batches import Batch
from ltd.training.distillation import ROWS_PER_CHUNK, TargetParts
from ltd.training.eagle3.unroll import learned_slots, loss_of_batch, step_masks, unroll


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Accuracy on held-out conversations.

    accuracy: per step, the share of slots where the draft's best token is the target's (words outside the draft
    vocabulary count as wrong). chain: the expected tokens gained per cycle by a draft of one token per step, the
    target's own included, over the slots where the text is the target's greedy choice. slots: how many step 0 had.
    """

    accuracy: list[float]
    chain: float
    slots: int

    def to_dict(self) -> dict[str, Any]:
        """Rounded plain values, ready for JSON."""
        accuracy = [round(value, 4) for value in self.accuracy]
        return {"accuracy": accuracy, "chain": round(self.chain, 4), "slots": self.slots}

    def __str__(self) -> str:
        return "accuracy per step " + " ".join(f"{100 * share:.1f}" for share in self.accuracy) + " %"


class HeadObjective:
    """The training of an EAGLE-3 head, see `ltd.training.loop.Objective`."""

    def __init__(self, head: Eagle3Head, parts: TargetParts, config: TrainDraftConfig) -> None:
        self.module, self.parts, self.config = head, parts, config

    def slots(self, batch: Batch) -> Tensor:
        """The slots that step 0 learns from."""
        return learned_slots(batch)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The loss of training-time test and the mean losses of its steps."""
        config, weighed = self.config, self.config.loss == "weighed"
        return loss_of_batch(
            self.module, self.parts, batch, config.ttt_steps, config.ttt_decay, generator, weighed=weighed
        )

    def measure(self, batches: Iterable[Batch]) -> HeldOut:
        """The accuracy of the steps."""
        return measure(self.module, self.parts, batches, self.config.ttt_steps)


@torch.no_grad()
def measure(head: Eagle3Head, parts: TargetParts, batches: Iterable[Batch], steps: int) -> HeldOut:
    """Measure all `steps` steps of training-time test on the batches."""
    device = head.d2t.device
    right, slots = torch.zeros(steps, device=device), torch.zeros(steps, device=device)
    gained, cycles = torch.zeros((), device=device), torch.zeros((), device=device)
    for batch in batches:
        masks = list(step_masks(batch, steps))
        wanted = [batch.ahead(batch.best, step + 1) for step in range(steps)]
        hits = torch.zeros(steps, len(batch.tokens), dtype=torch.bool, device=device)
        for step, (chosen, states) in enumerate(unroll(head, parts, batch, masks)):
            hits[step, chosen] = _guesses(head, states)[: len(chosen)] == wanted[step][chosen]
        right += hits.sum(1)
        slots += torch.stack(masks).sum(1)
        followed = [batch.ahead(batch.tokens, step + 2) == wanted[step] for step in range(steps)]
        greedy = masks[-1] & torch.stack(followed).all(0)
        gained += (hits.long().cumprod(0).sum(0) + 1)[greedy].sum()
        cycles += greedy.sum()
    accuracy = (right / slots.clamp_min(1)).tolist()
    return HeldOut(accuracy, float(gained / cycles.clamp_min(1)), int(slots[0]))


def _guesses(head: Eagle3Head, states: Tensor) -> Tensor:
    """states (m,H) -> the draft's best tokens (m,) as target ids, some rows at a time to hold few logits."""
    parts = [head.logits(part[None])[0].max(-1).indices for part in states.split(ROWS_PER_CHUNK)]
    best = torch.cat(parts)
    return best + head.d2t[best]
