"""Costs for rules are those of the latencies that they were made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_traces import made_latency

from ltd.drafts.opening import LOOKUP
from ltd.errors import InputError
from ltd.latency.cycle_costs import TYPICAL_GAIN, cycle_costs
from ltd.policies.learned.setting import Setting


def test_costs_are_the_latencies_at_every_length() -> None:
    latency = made_latency()
    costs, lengths = cycle_costs(latency), np.array([3, 16, 50, 200, 256, 1000])
    drafting, verifying = (costs.at(table, lengths) for table in (costs.drafting, costs.verifying))
    for depth, size in ((0, 0), (2, 7), (12, 240)):
        expected = latency.cycle(depth, size, lengths, TYPICAL_GAIN)
        np.testing.assert_allclose(drafting[:, depth] + verifying[:, size], expected, rtol=1e-12)
    assert (costs.deepest, costs.most) == (12, 240)


def test_they_say_what_they_were_measured_on() -> None:
    setup = {"width": 5, "target": "t", "draft_sha256": "h", "processor": "p", "gpu": "g", "dtype": "d", "threads": 2}
    for device, hardware, threads in (("cpu", "p", 2), ("cuda", "g", None)):
        found = cycle_costs(replace(made_latency(), setup={**setup, "device": device})).made_for
        assert found == Setting(5, target="t", head_sha256="h", hardware=hardware, dtype="d", threads=threads)


@pytest.mark.parametrize("setup", [{"width": None}, {}, {"width": 3, "draft_sha256": LOOKUP}])
def test_without_a_draft_there_are_none(setup: dict[str, object]) -> None:
    with pytest.raises(InputError, match="without a draft head"):
        cycle_costs(replace(made_latency(), setup=setup))
