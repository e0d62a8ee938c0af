"""How fast a training learned, against the machine's floor."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ltd.training.data.floor import MachineRates
from ltd.training.learning_speed import learning_facts


class Learner:
    """Learned 100 tokens in two seconds; the gradients of a batch are one product of matrices."""

    def __init__(self, seconds: float = 2.0) -> None:
        self.timed_seconds, self.timed_tokens = seconds, 100
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def gradients(self, batch: Any, _: int) -> None:
        torch.ones(len(batch.learned), 4) @ torch.ones(4, 5)


def test_rates_say_how_near_the_floor_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("ltd.training.learning_speed.machine_rates", lambda *_: MachineRates(read=1.0, multiply=8e3))
    batches = [SimpleNamespace(learned=torch.arange(size) % 2 == 0) for size in (10, 30)]
    # 40 rows of 4 * 5 products, of two operations each, for 20 learned tokens; 50 of these a second.
    facts = learning_facts(Learner(), batches)  # type: ignore[arg-type]
    assert facts == {"answer_tokens_per_second": 50.0, "share_of_floor": 50 * 80 / 8e3}
    assert capsys.readouterr().err == "learned 50 answer tokens/s, 50 % of the machine's floor\n"


def test_what_has_not_learned_has_no_rate() -> None:
    assert learning_facts(Learner(seconds=0.0), []) == {}  # type: ignore[arg-type]
