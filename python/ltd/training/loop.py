"""The training loop: updates, measurements on the way, and checkpoints to go on from."""

from __future__ import annotations

import contextlib
import io
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ltd.common.files import write_bytes
from ltd.common.tensor_files import restore
from ltd.training.config import TrainDraftConfig
from ltd.training.data.batches import Batch, epoch_order
from ltd.training.weight_average import AVERAGE_EVERY, WeightAverage

CLIP = 0.5  # gradient norm, as in EAGLE-3's settings
MEASUREMENTS = 10  # on the way to the end
CURVE_POINTS = 100


def rate_at(update: int, updates: int, config: TrainDraftConfig) -> float:
    """Learning rate of an update."""
    return config.learning_rate * rate_share(update, updates, config.warmup_share)


def rate_share(update: int, updates: int, warmup: float) -> float:
    """Learning rate of an update as a share of its peak: linear warm-up, then a cosine down to zero."""
    first = max(1, round(warmup * updates))
    if update < first:
        return (update + 1) / first
    return 0.5 * (1 + math.cos(math.pi * (update - first) / max(1, updates - first)))


class Measured(Protocol):
    """What a measurement found; its text is one line for people."""

    def to_dict(self) -> dict[str, Any]:
        """Rounded plain values, ready for JSON."""


class Objective(Protocol):
    """What is trained and what for."""

    @property
    def module(self) -> nn.Module:
        """Holds the weights, and in its state all that a checkpoint needs of them."""

    def slots(self, batch: Batch) -> Tensor:
        """What the batch's loss is divided by (scalar int64, at least 1): its weight beside other batches."""

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The loss (scalar) and its parts for the curves (parts,), both float32; may run in several threads."""

    def measure(self, batches: Iterable[Batch]) -> Measured:
        """How good the draft is on held-out batches."""


class Training:
    """One training run; everything that a checkpoint must hold is a field.

    Args:
        objective: what is trained.
        work: how much there is to compute of every conversation to learn from; those of a batch are alike.
        dtype: of the arithmetic.
    """

    def __init__(self, objective: Objective, config: TrainDraftConfig, work: Sequence[int], dtype: torch.dtype) -> None:
        self.objective, self.config, self.work, self.dtype = objective, config, work, dtype
        self.updates_per_epoch = math.ceil(len(work) / config.batch)
        self.updates = config.epochs * self.updates_per_epoch
        self.weights = [weight for weight in objective.module.parameters() if weight.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.weights, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )
        # The operations on one conversation are too small for many threads, so each conversation gets one.
        self.workers = ThreadPoolExecutor(
            max(1, min(config.batch, torch.get_num_threads())), initializer=torch.set_num_threads, initargs=(1,)
        )
        share = config.average_share if config.kind == "eagle3" else 0.0
        self.average = WeightAverage(self.weights, share * self.updates) if share else None
        self._order: tuple[int, list[list[int]]] = (-1, [])  # an epoch, and its batches
        self.update = 0
        self.tokens = 0
        self.seconds = 0.0
        self.timed_seconds, self.timed_tokens = 0.0, 0  # of `seconds` and `tokens`, what updates took and learned
        self.recent: list[list[float]] = []  # losses of the updates since the last point of the curve
        self.losses: list[dict[str, Any]] = []
        self.measurements: list[dict[str, Any]] = []

    def state(self) -> dict[str, Any]:
        """All that is needed to go on, readable with weights_only."""
        return {
            "head": self.objective.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": None if self.average is None else self.average.state(),
            "update": self.update,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "timed": (self.timed_seconds, self.timed_tokens),
            "recent": self.recent,
            "losses": self.losses,
            "measurements": self.measurements,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.objective.module.load_state_dict(state["head"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.average is not None:
            self.average.load_state(state["average"])
        for name in ("update", "tokens", "seconds", "recent", "losses", "measurements"):
            setattr(self, name, state[name])
        self.timed_seconds, self.timed_tokens = state.get("timed", (0.0, 0))  # older checkpoints have none

    def batch_indices(self, update: int) -> list[int]:
        """The conversations of an update."""
        epoch, position = divmod(update, self.updates_per_epoch)
        if self._order[0] != epoch:
            order = epoch_order(self.work, self.config.batch, self.config.seed, epoch)
            self._order = (epoch, order)
        return self._order[1][position]

    def step(self, batch: Batch) -> Tensor:
        """One update; returns the parts of the loss (parts,)."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate_at(self.update, self.updates, self.config)
        parts = batch.conversations() if batch.tokens.device.type == "cpu" else [batch]
        found = list(self.workers.map(self.gradients, parts, range(len(parts))))
        slots = torch.stack([self.objective.slots(part) for part in parts])
        shares = (slots / slots.sum().clamp_min(1)).tolist()
        for weight, *gradients in zip(self.weights, *(gradients for gradients, _ in found), strict=True):
            weight.grad = weighted_sum(gradients, shares)
        losses = weighted_sum([losses for _, losses in found], shares)
        nn.utils.clip_grad_norm_(self.weights, CLIP)
        self.optimiser.step()
        self.update += 1
        if self.average is not None and self.update % AVERAGE_EVERY == 0:
            self.average.add()
        self.tokens += int(batch.learned.sum())
        return losses

    def gradients(self, part: Batch, number: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """Of a part's loss by all weights; and the parts of the loss."""
        # Seeded by the update, so that a run that was stopped goes on as if it had not been.
        seed = (self.config.seed * 1_000_003 + self.update) * self.config.batch + number
        generator = torch.Generator().manual_seed(seed)
        with self.autocast():
            loss, losses = self.objective.loss(part, generator)
        return torch.autograd.grad(loss, self.weights), losses

    def record(self, losses: Tensor) -> None:
        """Add an update's losses (parts,) to the curve, whose points are means over some updates."""
        self.recent.append(losses.tolist())
        if self.update == self.updates or len(self.recent) >= self.updates / CURVE_POINTS:
            means = torch.tensor(self.recent).mean(0)
            self.losses.append({"update": self.update, "losses": [round(mean, 4) for mean in means.tolist()]})
            self.recent = []

    def measure(self, batches: Iterable[Batch]) -> Measured:
        """How good the draft is as it is."""
        with self.autocast():
            return self.objective.measure(batches)

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """The draft with its averaged weights in place, where there are such."""
        return contextlib.nullcontext() if self.average is None else self.average.in_place()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weights[0].device

    def autocast(self) -> torch.autocast:
        """Mixed precision, if it is wanted."""
        device = self.device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)


def weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ weight · tensor, in order."""
    total = tensors[0] * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total.add_(tensor, alpha=weight)
    return total


class TrainingWatch(Protocol):
    """Looks at a training on its way."""

    def look(self, training: Training) -> dict[str, Any]:
        """More to measure of the draft as it is; plain values, ready for JSON."""

    def show(self, training: Training) -> None:
        """Shows the curves so far."""


def run_training(
    training: Training, load: Callable[[list[int]], Batch], held_out: Callable[[], Iterable[Batch]], checkpoint: Path,
    watch: TrainingWatch,
) -> None:  # fmt: skip
    """Train to the end, from `checkpoint` if there is one.

    `load` gives the batch of some conversations' indices, `held_out` the batches to measure on. Measured on the way are
    the averaged weights, where there are such: they are nearer to what a training that ended here would come to.
    """
    if checkpoint.exists():
        restore(checkpoint, training.load_state)
    measure_every = math.ceil(training.updates / MEASUREMENTS)
    started, saved, batches = time.monotonic() - training.seconds, time.monotonic(), _coming(training, load)
    with tqdm(total=training.updates, initial=training.update, unit="update", desc="training", mininterval=1) as bar:
        while training.update < training.updates:
            began, before = time.monotonic(), training.tokens
            losses = training.step(next(batches))
            training.timed_seconds += time.monotonic() - began
            training.timed_tokens += training.tokens - before
            training.record(losses)
            bar.update()
            bar.set_postfix(loss=f"{losses[0]:.3f}", refresh=False)
            last = training.update == training.updates
            if last or training.update % measure_every == 0:
                with training.averaged():
                    found = training.measure(held_out())
                    more = watch.look(training)
                reached = {"update": training.update, "seen_tokens": training.tokens}
                training.measurements.append({**reached, **found.to_dict(), **more})
                bar.write(
                    f"update {training.update}: held-out {found}" + "".join(f", {k} {v}" for k, v in more.items())
                )
                watch.show(training)
            if last or time.monotonic() - saved >= training.config.checkpoint_seconds:
                training.seconds = time.monotonic() - started
                save_checkpoint(training, checkpoint)
                saved = time.monotonic()


def _coming(training: Training, load: Callable[[list[int]], Batch]) -> Iterator[Batch]:
    """The batches of all updates to come; what is on disk is read while the batch before is learned from."""
    coming = (training.batch_indices(update) for update in range(training.update, training.updates))
    if not training.config.caches_features:  # the target, which computes them, and the draft would only share a device
        yield from map(load, coming)
        return
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as reader:
        batch = None
        for indices in coming:
            batch, before = reader.submit(load, indices), batch
            if before is not None:
                yield before.result()
        if batch is not None:
            yield batch.result()


def save_checkpoint(training: Training, file: Path) -> None:
    """Write what the training can go on from."""
    save_state(training.state(), file)


def save_state(state: dict[str, Any], file: Path) -> None:
    """Write by rename, so that a kill leaves the old or the new one."""
    content = io.BytesIO()  # torch.save hides why a file could not be written
    torch.save(state, content)
    write_bytes(file, content.getbuffer())
