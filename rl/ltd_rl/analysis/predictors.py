"""Large predictors of what every decision would gain, from what is known when it is decided."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ltd.common.arrays import Doubles, Floats, Integers
from ltd.errors import InputError
from ltd_rl.analysis.known import Known
from ltd_rl.traces.outcomes import Outcomes

SPREAD = 1e-3  # least standard deviation that something is divided by: some never change
TRACE = 1e-3  # of the variance of gains, what the components left out may have together


class Predictor(Protocol):
    """Learns the gains of all decisions; what it says at a stage may follow from what is known there only."""

    @property
    def ticks(self) -> int:
        """How often `fit` reports, per stage."""
        ...

    def fit(self, known: Known, rows: Integers, checked: Integers, tick: Callable[[], object]) -> None:
        """Learns from the positions `rows`, until it gets no better at the positions `checked`, of other questions."""
        ...

    def predict(self, known: Known, rows: Integers, stage: int) -> Floats:
        """float32 (n, D + 2, S): the expected gains at positions (n,); arbitrary for what is past at the stage."""
        ...


def ahead(outcomes: Outcomes, stage: int) -> NDArray[np.bool_]:
    """bool (D + 2,): the decisions that can still be made at a stage, in the order of the tables' stages."""
    depths = np.append(np.arange(outcomes.depth + 1), -1)
    return depths >= stage


# --- gradient boosting ---


def check_boosting() -> None:
    """Raises InputError if there is no scikit-learn."""
    if importlib.util.find_spec("sklearn") is None:
        raise InputError("the knowable needs scikit-learn, which is not installed; pip install scikit-learn")


@dataclass(frozen=True, slots=True, eq=False)
class Component:
    """What boosting has learned of one component of the gains.

    Attributes:
        model: of scikit-learn. trees: how many of its trees are best on other questions; 0 is the mean.
    """

    model: Any
    trees: int

    def at(self, inputs: Floats) -> Doubles:
        """float64 (n,): the component."""
        if not self.trees:
            return np.zeros(len(inputs))
        found: Doubles = next(islice(self.model.staged_predict(inputs), self.trees - 1, None))
        return found


@dataclass(frozen=True, slots=True, eq=False)
class StageOfBoosting:
    """What boosting has learned for a stage, whose decisions ahead are m.

    Attributes:
        directions: float32 (H, k), by which states are shown. mean: float64 (m,). basis: float64 (c, m), orthonormal:
            gains are the mean and components along these.
    """

    directions: Floats
    mean: Doubles
    basis: Doubles
    components: list[Component]


@dataclass(slots=True)
class Boosting:
    """Gradient boosted trees of scikit-learn, histogram-based, for every stage by itself.

    The gains of a stage's decisions hang together, so trees learn the few components that make them up (principal
    components of the gains): what is expected of the gains follows from what is expected of these. States are shown by
    their own first components.

    Args:
        trees: at most, per component. rate: how much of its correction a tree makes. leaves: of a tree at most. least:
            positions in a leaf. patience: trees without any gain on other questions, after which it ends. states: how
            many numbers show the state.
    """

    trees: int = 400
    rate: float = 0.06
    leaves: int = 31
    least: int = 20
    patience: int = 20
    states: int = 32
    fitted: dict[int, StageOfBoosting] = field(default_factory=dict, init=False)

    @property
    def ticks(self) -> int:
        return 1

    def fit(self, known: Known, rows: Integers, checked: Integers, tick: Callable[[], object]) -> None:
        directions = principal(known.states[rows].astype(np.float64), self.states).T.astype(np.float32)
        for stage in known.stages:
            self.fitted[stage] = self._stage(known, rows, checked, stage, directions)
            tick()

    def _stage(
        self, known: Known, rows: Integers, checked: Integers, stage: int, directions: Floats
    ) -> StageOfBoosting:
        chosen = ahead(known.outcomes, stage)
        gains, others = (known.outcomes.gains[part][:, chosen].reshape(len(part), -1) for part in (rows, checked))
        mean = gains.mean(axis=0)
        basis = principal(gains - mean, gains.shape[1], TRACE)
        inputs, seen = (shown(known, part, stage, directions) for part in (rows, checked))
        wanted, there = (gains - mean) @ basis.T, (others - mean) @ basis.T
        components = [self._component(inputs, wanted[:, place], seen, there[:, place]) for place in range(len(basis))]
        return StageOfBoosting(directions, mean, basis, components)

    def _component(self, inputs: Floats, wanted: Doubles, seen: Floats, there: Doubles) -> Component:
        from sklearn.ensemble import HistGradientBoostingRegressor  # type: ignore[import-untyped]

        model = HistGradientBoostingRegressor(
            max_iter=self.trees,
            learning_rate=self.rate,
            max_leaf_nodes=self.leaves,
            min_samples_leaf=self.least,
            early_stopping=True,
            n_iter_no_change=self.patience,
            tol=0.0,
            random_state=0,
        )
        model.fit(inputs, wanted, X_val=seen, y_val=there)
        errors = [there @ there, *(((there - found) ** 2).sum() for found in model.staged_predict(seen))]
        return Component(model, int(np.argmin(errors)))

    def predict(self, known: Known, rows: Integers, stage: int) -> Floats:
        fitted, outcomes = self.fitted[stage], known.outcomes
        inputs = shown(known, rows, stage, fitted.directions)
        values = [component.at(inputs) for component in fitted.components]
        gains = fitted.mean + np.stack(values, axis=1) @ fitted.basis if values else fitted.mean
        found = np.ones((len(rows), outcomes.depth + 2, len(outcomes.sizes)), dtype=np.float32)
        chosen = ahead(outcomes, stage)
        found[:, chosen] = np.broadcast_to(gains, (len(rows), gains.shape[-1])).reshape(len(rows), chosen.sum(), -1)
        return found


def shown(known: Known, rows: Integers, stage: int, directions: Floats) -> Floats:
    """float32 (n, width + k): what is known, states by their components along directions (H, k)."""
    return np.concatenate([known.at(rows, stage), known.states_at(rows, stage) @ directions], axis=1)


def principal(values: Doubles, most: int, left: float = 0.0) -> Doubles:
    """float64 (c, m): the directions with the largest squares of values (n, m), as few as leave this share of them."""
    if not values.shape[1]:
        return np.zeros((0, 0))
    squares, directions = np.linalg.eigh(values.T @ values)
    squares, directions = np.maximum(squares[::-1], 0.0), directions[:, ::-1].T
    total = squares.sum()
    rest = total - np.cumsum(squares)  # without the first, the first two, …
    count = 0 if total <= 0 else 1 + int(np.count_nonzero(rest > max(left, 1e-12) * total))
    return np.ascontiguousarray(directions[: min(count, most)])


# --- a network ---


@dataclass(slots=True)
class BigNetwork:
    """A network with ReLU and wide layers, one for all stages, which reads the whole state.

    It begins at the mean of the gains, and is kept as it was after the epoch that was best on other questions; that may
    be before the first.

    Args:
        hidden: widths of its layers. epochs: at most. patience: epochs without any gain on other questions, after which
            it ends. batch: positions, of all stages, per update. learning_rate: the highest; it falls to 0 in a line.
            weight_decay: of AdamW. dropout: share of the inner values that are left out in training.
    """

    hidden: tuple[int, ...] = (512, 512)
    epochs: int = 30
    patience: int = 5
    batch: int = 1024
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    dropout: float = 0.1
    layers: nn.Sequential = field(init=False)
    inputs: tuple[Tensor, Tensor] = field(init=False)
    outputs: tuple[Tensor, Tensor] = field(init=False)

    @property
    def ticks(self) -> int:
        return self.epochs

    def fit(self, known: Known, rows: Integers, checked: Integers, tick: Callable[[], object]) -> None:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            self._begin(known, rows)
            order, optimiser = np.random.default_rng(0), self._optimiser()
            updates = max(1, len(rows) * len(known.stages) // self.batch)
            best, kept, since = self._error(known, checked), copy.deepcopy(self.layers.state_dict()), 0
            for epoch in range(self.epochs):
                pairs = order.permutation(len(rows) * len(known.stages))
                for number, part in enumerate(np.array_split(pairs, updates)):
                    rest = 1 - (epoch + number / updates) / self.epochs
                    self._update(known, rows[part % len(rows)], part // len(rows), optimiser, rest)
                error = self._error(known, checked)
                best, kept, since = (
                    (error, copy.deepcopy(self.layers.state_dict()), 0) if error < best else (best, kept, since + 1)
                )
                for _ in known.stages:
                    tick()
                if since == self.patience:
                    break
            self.layers.load_state_dict(kept)

    def _begin(self, known: Known, rows: Integers) -> None:
        """The layers, and by what inputs and outputs are brought to mean 0 and deviation 1."""
        gains = torch.from_numpy(known.outcomes.gains[rows]).float()
        self.outputs = gains.mean(dim=0), gains.std(dim=0, correction=0) + SPREAD
        sums = torch.zeros(2, known.width + known.states.shape[1], dtype=torch.float64)
        for stage in known.stages:
            seen = self._seen(known, rows, stage).double()
            sums += torch.stack([seen.mean(dim=0), seen.square().mean(dim=0)]) / len(known.stages)
        mean, square = sums
        self.inputs = mean.float(), (square - mean.square()).clamp(min=0).sqrt().float() + SPREAD
        widths = (known.width + known.states.shape[1], *self.hidden)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(self.dropout)]
        last = nn.Linear(widths[-1], gains[0].numel())
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)

    def _optimiser(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.layers.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)

    def _seen(self, known: Known, rows: Integers, stage: int) -> Tensor:
        """float32 (n, inputs)."""
        return torch.from_numpy(np.concatenate([known.at(rows, stage), known.states_at(rows, stage)], axis=1))

    def _loss(self, known: Known, rows: Integers, stage: int) -> Tensor:
        """The sum of the squared errors of what is ahead at a stage, in deviations."""
        mean, deviation = self.outputs
        wanted = (torch.from_numpy(known.outcomes.gains[rows]).float() - mean) / deviation
        found = self._forward(self._seen(known, rows, stage)).reshape(wanted.shape)
        chosen = torch.from_numpy(ahead(known.outcomes, stage))
        return (found - wanted)[:, chosen].square().mean(dim=(1, 2)).sum()

    def _forward(self, seen: Tensor) -> Tensor:
        mean, deviation = self.inputs
        found: Tensor = self.layers((seen - mean) / deviation)
        return found

    def _update(
        self, known: Known, rows: Integers, stages: Integers, optimiser: torch.optim.Optimizer, rest: float
    ) -> None:
        """One step, from positions (n,) at stages (n,), numbered from 0."""
        for group in optimiser.param_groups:
            group["lr"] = self.learning_rate * rest
        self.layers.train()
        parts = [self._loss(known, rows[stages == number], stage) for number, stage in enumerate(known.stages)]
        optimiser.zero_grad()
        (torch.stack(parts).sum() / max(len(rows), 1)).backward()
        optimiser.step()

    @torch.no_grad()
    def _error(self, known: Known, rows: Integers) -> float:
        """The mean of the losses at positions (n,), over the stages."""
        self.layers.eval()
        return sum(float(self._loss(known, rows, stage)) for stage in known.stages) / max(len(rows), 1)

    @torch.no_grad()
    def predict(self, known: Known, rows: Integers, stage: int) -> Floats:
        mean, deviation = self.outputs
        self.layers.eval()
        gains = mean + deviation * self._forward(self._seen(known, rows, stage)).reshape(len(rows), *mean.shape)
        found: Floats = gains.numpy()
        return found


PREDICTORS: dict[str, Callable[[], Predictor]] = {"boosting": Boosting, "network": BigNetwork}
