"""One pair of networks for many machines: machines, tables and the trainer, and the comparison from end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_lookups import even_scores
from made_texts import made_copies
from made_traces import made_latency

import cost_machines
import one_network
import one_network_report
from cost_machines import COST_FEATURES, GPU, Machine, Shares, around, curve, drawn, made, measured, shown_costs
from cost_networks import LADDER, Ground, ManyMachines, with_costs, within
from ltd.common.shards import shard_file
from ltd.latency.cycle_bench import LOOKED_UP
from ltd.lookup import TEXT_FEATURES
from ltd.policies.learned.bundle import Bundle, save_bundle
from ltd.policies.learned.network import Network
from ltd.policies.learned.observation import Summary
from ltd.policies.learned.policy import Learned
from ltd.policies.learned.setting import Setting
from ltd_rl.baselines.both_search import Grid
from ltd_rl.traces.format import RecordedGeneration, save_shard
from ltd_rl.traces.observations import decided, outputs
from ltd_rl.traces.outcomes import Outcomes, outcomes_of, reading_after
from ltd_rl.trainers.exact import ExactConfig

WIDTH, DEPTH, TEXT = 3, 3, even_scores(0.7)
STEEP, FLAT = made(Shares(rows=2.0), curve(Shares(rows=2.0))), made(GPU, curve(GPU))


@pytest.fixture(scope="module")
def generations() -> list[RecordedGeneration]:
    return [made_copies(seed, 60) for seed in range(4)]


@pytest.fixture(scope="module")
def ground(generations: list[RecordedGeneration]) -> Ground:
    return Ground.of(generations, FLAT, TEXT)


def costs_of(machines: list[Machine], outcomes: Outcomes) -> np.ndarray:
    return np.stack([shown_costs(machine, outcomes.lengths) for machine in machines])


# --- machines ---


def test_tables_say_what_the_model_does() -> None:
    model, sizes, lengths = made_latency(), np.arange(70)[:, None], np.arange(300)
    machine = measured(model)
    for part in ("begin", "verify", "other"):
        assert np.array_equal(getattr(machine, part)(sizes, lengths), getattr(model, part)(sizes, lengths))
    assert np.array_equal(machine.draft(2, lengths, 3), model.draft(2, lengths, 3))


def test_a_made_machine_has_its_shares() -> None:
    lengths = np.array([64, 512])
    plain = GPU.begin, GPU.expand, GPU.lookup
    machine = made(replace(GPU, growth=0.0), curve(GPU))
    found = np.exp(shown_costs(machine, lengths))
    assert found.shape == (2, COST_FEATURES) and found[0] == pytest.approx(found[1])
    begin, expand, lookup = found[0][[0, 1, -1]]
    assert (begin, expand, lookup) == pytest.approx((plain[0] * 1.01, plain[1], plain[2]), rel=1e-3)
    assert found[0][3] == pytest.approx(1.0, abs=1e-3)  # a root alone is a plain step
    assert 1.15 < found[0][-2] < 1.25  # 60 candidates


def test_a_measured_forward_is_kept() -> None:
    machine = around({1: 2.0, 9: 3.0, 64: 11.0}, Shares(other=0.0, growth=0.0))
    verify = machine.verify(np.array([0, 8, 63]), 64)
    assert verify / verify[0] == pytest.approx([1.0, 1.5, 5.5])


def test_drawn_machines_differ_and_are_drawn_again() -> None:
    lengths = np.array([100])
    first, again = (np.concatenate([shown_costs(machine, lengths) for machine in drawn(5, 1)]) for _ in range(2))
    assert np.array_equal(first, again) and len(np.unique(first[:, 0])) == 5


# --- tables and the trainer ---


def test_tables_on_another_machine_are_those_of_its_own(generations: list[RecordedGeneration], ground: Ground) -> None:
    found, own = ground.on(STEEP), outcomes_of(generations, STEEP, LADDER, DEPTH, TEXT, LOOKED_UP)
    for name in ("gains", "seconds", "plain_seconds", "scores", "text"):
        assert np.array_equal(getattr(found, name), getattr(own, name)), name
    small, own = within(found, (0, 1, 2, 3), 1), outcomes_of(generations, STEEP, (0, 1, 2, 3), 1, TEXT, LOOKED_UP)
    for name in ("gains", "seconds", "scores"):
        assert np.array_equal(getattr(small, name), getattr(own, name)), name


def trainer_of(ground: Ground, machines: list[Machine], **config: object) -> ManyMachines:
    tables = [ground.on(machine) for machine in machines]
    return ManyMachines(tables, costs_of(machines, tables[0]), ExactConfig(hidden=(16,), batch=32, **config))  # type: ignore[arg-type]


def test_every_position_has_the_seconds_and_the_costs_of_one_machine(ground: Ground) -> None:
    trainer = trainer_of(ground, [STEEP, FLAT])
    trainer.epoch()
    rows, dealt = np.arange(trainer.outcomes.positions), trainer.dealt
    assert set(dealt) == {0, 1}
    tables = [ground.on(STEEP), ground.on(FLAT)]
    for number, table in enumerate(tables):
        mine = rows[dealt == number]
        rate = trainer.rates[number]
        assert trainer.outcomes.seconds[mine] == pytest.approx(table.seconds[mine] * rate)
        assert trainer.reading[mine] == pytest.approx(reading_after(table)[mine] * rate)
        shown = trainer.observers[0].at(mine, 1)[:, -COST_FEATURES:].numpy()
        assert np.array_equal(shown, shown_costs((STEEP, FLAT)[number], table.lengths)[mine])


def test_one_pair_learns_to_decide_otherwise_on_another_machine(ground: Ground) -> None:
    policy = trainer_of(ground, [STEEP, FLAT], epochs=25, learning_rate=1e-2).train(Setting(WIDTH))
    for machine, other in ((STEEP, FLAT), (FLAT, STEEP)):
        own = ground.on(machine)
        lengths = own.lengths
        right = decided(policy, with_costs(own, shown_costs(machine, lengths))).throughput
        wrong = decided(policy, with_costs(own, shown_costs(other, lengths))).throughput
        assert right > 1.05 * wrong


def test_costs_at_one_length_are_a_bias(ground: Ground) -> None:
    """So a pair for many machines becomes one for a machine, of the usual kind, without another operator."""
    network = trainer_of(ground, [STEEP, FLAT], epochs=1).train(Setting(WIDTH)).depth_network
    assert network is not None
    costs = torch.from_numpy(shown_costs(STEEP, np.array([50])))
    first, bias, *rest = network.weights
    summary = Summary(network.layout.best, network.layout.newest, text=TEXT_FEATURES)  # type: ignore[union-attr]
    folded = Network(
        summary, (first[:, :-COST_FEATURES].contiguous(), bias + first[:, -COST_FEATURES:] @ costs[0], *rest)
    )
    seen = torch.randn(5, summary.width, generator=torch.Generator().manual_seed(0))
    beside = torch.cat([seen, costs.expand(5, -1)], dim=1)
    assert torch.allclose(outputs(network, beside), outputs(folded, seen), atol=1e-4)


# --- the comparison ---


def test_ratios_are_of_all_questions_and_machines() -> None:
    slow, fast = np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0])
    assert one_network_report.ratio([fast, slow], [slow, slow]) == {
        "ratio": pytest.approx(2**0.5, abs=1e-4),
        "interval": [pytest.approx(2**0.5, abs=1e-4)] * 2,
    }
    low, high = one_network_report.ratio([np.array([1.0, 4.0, 3.0])], [slow])["interval"]
    assert low < 12 / 8 < high


def test_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traces, latency, tuned = tmp_path / "traces", tmp_path / "latency.json", tmp_path / "tuned"
    traces.mkdir()
    save_shard(shard_file(traces, 0), [made_copies(seed, 40) for seed in range(8)], WIDTH, DEPTH)
    made_latency().save(latency)
    layout, generator = Summary(12, 6, text=TEXT_FEATURES), torch.Generator().manual_seed(0)
    networks = (
        Network(
            layout,
            (torch.randn(48, layout.width, generator=generator), torch.zeros(48),
             torch.randn(count, 48, generator=generator), torch.zeros(count)),
        )
        for count in (2, 4)
    )  # fmt: skip
    save_bundle(
        Bundle(Learned(Setting(WIDTH), 2, (0, 1, 2, 3), *networks, max_text=32, text_scores=TEXT), "renewal", {}), tuned
    )
    monkeypatch.setattr(one_network, "RULES", Grid((4,), (0, 2, 3), (0.5,)))
    monkeypatch.setattr(one_network, "EDGES", {"beyond it": Shares(rows=2.0)})
    monkeypatch.setattr(one_network_report, "EDGES", {"beyond it": Shares(rows=2.0)})
    places = [
        "--traces",
        str(traces),
        "--latency",
        f"here={latency}",
        "--policy",
        str(tuned),
        "--out",
        str(tmp_path / "out"),
    ]
    few = ["--seeds", "1", "--jobs", "1", "--machines", "2", "--epochs", "1", "--depth", "2"]
    assert one_network.main([*places, *few]) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    names = list(found["tokens_per_second"])
    assert names[0] == "here, measured" and names[-1] == "beyond it" and found["machines"]["held out"] == len(names)
    ways = {"plain", "as it is", "tree", "rule", "fixed", "near", "quick", "own", "long", "one", "wide", "best"}
    for rates in found["tokens_per_second"].values():
        assert set(rates) == ways and max(rates, key=rates.__getitem__) == "best"
    assert set(found["one_over"]["all"]) == ways - {"one"} and found["one_over"]["all"]["best"]["ratio"] < 1
    tasks = sorted((tmp_path / "out" / "tasks").iterdir())
    before = [file.stat().st_mtime_ns for file in tasks]
    assert one_network.main([*places, *few]) == 0  # goes on where it was: with nothing
    assert [file.stat().st_mtime_ns for file in tasks] == before


def test_what_the_machines_are_drawn_from_is_what_they_are_made_of() -> None:
    assert cost_machines.TRAINED.keys() == Shares.__dataclass_fields__.keys()
