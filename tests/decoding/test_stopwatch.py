"""Laps of a device: counted when it has passed them, without waiting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from ltd.decoding import statistics
from ltd.decoding.statistics import DeviceLaps, Statistics, Stopwatch


@dataclass
class FakeDevice:
    """Does what it was told one by one; `passed` says how far it has come."""

    told: int = 0
    passed: int = 0
    waits: int = 0
    made: int = 0

    def moment(self) -> FakeMoment:
        self.made += 1
        return FakeMoment(self)


@dataclass
class FakeMoment:
    """Number n is passed after n² milliseconds."""

    device: FakeDevice
    number: int = 0

    def record(self) -> None:
        self.device.told += 1
        self.number = self.device.told

    def query(self) -> bool:
        return self.device.passed >= self.number

    def synchronize(self) -> None:
        self.device.waits += 1
        self.device.passed = max(self.device.passed, self.number)

    def elapsed_time(self, later: FakeMoment) -> float:
        assert self.query() and later.query()
        return float(later.number**2 - self.number**2)


def test_laps_are_counted_when_they_are_over() -> None:
    device, seconds = FakeDevice(), {"draft": 0.0, "verify": 0.0}
    laps = DeviceLaps(seconds, device.moment)
    laps.lap("draft")
    laps.lap(None)
    assert seconds == {"draft": 0.0, "verify": 0.0}
    device.passed = 2
    laps.lap("verify")
    assert seconds["draft"] == 0.003 and seconds["verify"] == 0.0
    laps.settle(wait=True)
    assert seconds == {"draft": 0.003, "verify": 0.007} and device.waits == 1  # 4² - 3²; what lay between is nobody's


def test_moments_are_used_again() -> None:
    device, seconds = FakeDevice(passed=10**6), {"draft": 0.0}
    laps = DeviceLaps(seconds, device.moment)
    for _ in range(1000):
        laps.lap("draft")
    assert device.made < 5 and device.waits == 0
    laps.settle(wait=True)
    assert abs(seconds["draft"] - (1001**2 - 1) / 1000) < 1e-6


def test_a_stopwatch_is_of_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not of the thread's current one."""
    gpu, asked, fake = torch.device("cuda", 1), [], FakeDevice()

    def event(device: torch.device, timed: bool) -> Any:
        asked.append((device, timed))
        return fake.moment()

    monkeypatch.setattr(statistics, "DeviceEvent", event)
    watch = Stopwatch(Statistics(), gpu)
    watch.lap("draft")
    watch.settle()
    assert set(asked) == {(gpu, True)} and watch.seconds["draft"] == 0.003  # 2² - 1²
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: asked.append(device))
    Stopwatch(Statistics(), gpu, waits=True).lap("draft")
    assert asked[-1] == gpu
