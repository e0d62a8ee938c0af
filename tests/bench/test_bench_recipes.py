"""The comparison of ways to train, from end to end on tiny made-up traces, and its bookkeeping."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

from made_traces import made_generations, made_latency
from toy_outcomes import SIZES, TINY, toy

import recipes
from ltd.common.shards import shard_file
from ltd.errors import InputError
from ltd.tree import NOT_ASKED
from ltd_rl.traces.format import save_shard
from ltd_rl.traces.observations import Role
from ltd_rl.traces.optimum import best_static, optimum
from ltd_rl.traces.outcomes import plain_total, total
from ltd_rl.trainers.exact import ExactConfig
from ltd_rl.trainers.ppo_config import PPOConfig
from recipes_results import constant, interval, spend
from recipes_training import RECIPES, Ground, alone, exactly, in_turns, limited, on_the_clock

WIDTH, DEPTH = 3, 3
FEW = (
    exactly("exact, summary, renewal"),
    exactly("exact, -size", fixed="size"),
    exactly("exact, -depth", fixed="depth"),
    alone("PPO, paper, ratio, -size", "depth"),
    in_turns("paper", "ratio", 1),
    alone("PPO, paper, time, -depth", "size", "time"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Traces, others, and costs with which sizes and depths differ."""
    for name, seed in (("traces", 10), ("chat", 90)):
        (tmp_path / name).mkdir()
        save_shard(shard_file(tmp_path / name, 0), made_generations(seed, [40, 25, 30, 35, 20, 30]), WIDTH, DEPTH)
    made_latency().save(tmp_path / "latency.json")
    return tmp_path


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of a moment."""

    def ppo(ground: Ground, role: Role, observation: str) -> PPOConfig:
        return PPOConfig.paper(role, **{**TINY, "total_timesteps": 256})

    monkeypatch.setattr(Ground, "ppo", ppo)
    monkeypatch.setattr("recipes_training.ExactConfig", lambda reward: ExactConfig(reward, epochs=2))


def arguments(folder: Path) -> list[str]:
    names = {"--traces": "traces", "--latency": "latency.json", "--also": "chat", "--out": "out"}
    return [word for name, path in names.items() for word in (name, str(folder / path))]


@pytest.mark.usefixtures("tiny")
def test_recipes_are_compared_and_not_trained_twice(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert recipes.main(arguments(folder), FEW) == 0
    printed, out = capsys.readouterr().out, folder / "out"
    results = json.loads((out / "recipes.json").read_text())
    rows: dict[str, Any] = {row["name"]: row for row in results["rows"]}
    names = [name for recipe in FEW for name in recipe.rows]
    # The made-up traces are not as deep as EAGLE-3's tree.
    assert [*rows][1:] == ["controller, calibrated", "optimum, knows the future", *names]
    static = next(iter(rows))
    for test in ("held out", "chat"):
        found = {name: row["figures"][test] for name, row in rows.items()}
        assert found[static]["to_static"] == found[static]["low"] == found[static]["high"] == 1
        best = found["optimum, knows the future"]["tokens_per_second"]
        assert all(figures["tokens_per_second"] <= best * (1 + 1e-6) for figures in found.values())
        # What is fixed is fixed, at the best static setting; a tree may have fewer candidates than that size.
        for row, figures in found.items():
            assert not row.endswith("-size") or figures["mean_size"] <= found[static]["mean_size"]
            assert not row.endswith("-depth") or figures["mean_depth"] == found[static]["mean_depth"]
    assert "1 x 0.256k depth, 2 x 0.256k size" in (out / "table.md").read_text()
    assert rows["PPO, paper, ratio, Iter0"]["training"]["cpu_seconds"] > 0
    assert "95 %" in printed
    monkeypatch.setattr("recipes_training.train_exact", None)
    monkeypatch.setattr("recipes_training.Clocked", None)
    assert recipes.main(arguments(folder), FEW) == 0
    assert json.loads((out / "recipes.json").read_text())["rows"][3:] == results["rows"][3:]
    assert recipes.main([*arguments(folder), "--scale", "0.2"], FEW) == 2
    assert "scale" in capsys.readouterr().err


def test_what_is_wrong_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, complaint in (
        (["--scale", "0"], "must be above 0"),
        (["--also", str(folder / "traces" / ".." / "chat")], "different names"),
        (["--traces", str(folder / "none")], "no traces"),
    ):
        assert recipes.main([*arguments(folder), *wrong], ()) == 2
        assert complaint in capsys.readouterr().err


def test_every_row_has_a_name_of_its_own() -> None:
    names = [name for recipe in RECIPES for name in recipe.rows]
    assert len({recipes.bundle_folder(Path(), name) for name in names}) == len(names)


def test_spending_is_what_the_tables_say() -> None:
    outcomes = toy(0)
    depth, step, found = best_static(outcomes)
    static, plain = spend(outcomes, constant(outcomes, depth, step)), spend(outcomes, constant(outcomes, NOT_ASKED, 0))
    assert (static.tokens.sum(), static.cycles.sum()) == (found.tokens, found.cycles)
    assert static.throughput == pytest.approx(found.throughput)
    assert (static.mean(static.depths), static.mean(static.sizes)) == (depth, SIZES[step])
    assert plain.throughput == pytest.approx(plain_total(outcomes).throughput)
    assert plain.mean(plain.depths) == plain.mean(plain.sizes) == 0
    best = optimum(outcomes)
    spent = spend(outcomes, (best.depths, best.steps))
    assert spent.throughput == pytest.approx(best.total.throughput)
    low, high = interval(spent, static)
    assert low < spent.throughput / static.throughput < high


def test_a_decision_can_be_fixed() -> None:
    outcomes = toy(0)
    one_size, one_depth = (limited(outcomes, (1, 2), fixed) for fixed in ("size", "depth"))
    assert one_size.sizes == SIZES[2:] and (one_size.gains[:, :, 0] == outcomes.gains[:, :, 2]).all()
    assert (one_depth.depth, one_depth.sizes) == (1, SIZES)
    np.testing.assert_array_equal(one_depth.seconds[:, 1], outcomes.seconds[:, 1])
    assert total(one_depth, 0, 0).throughput < total(outcomes, 0, 0).throughput / 5
    assert limited(outcomes, (1, 2), "") is outcomes


def test_the_clock_goes_on_after_an_interruption_and_stops_in_the_end(tmp_path: Path) -> None:
    for error in (KeyboardInterrupt, None, InputError):
        before = json.loads((tmp_path / "seconds.json").read_text()) if (tmp_path / "seconds.json").exists() else None
        try:
            with on_the_clock(tmp_path):
                if error is not None:
                    raise error
        except (KeyboardInterrupt, InputError):
            pass
        after = json.loads((tmp_path / "seconds.json").read_text())
        if before is None:
            assert not after["finished"]
        elif not before["finished"]:
            assert after["finished"] and after["wall_seconds"] > before["wall_seconds"]
        else:
            assert after == before
    (tmp_path / "seconds.json").write_text('{"wall_seconds": 1}')
    with pytest.raises(InputError, match=r"seconds\.json lacks"), on_the_clock(tmp_path):
        pass


def test_steps_are_a_share_of_the_papers() -> None:
    ground = Ground(toy(0), toy(1), (0, 0), scale=0.1, small_scale=0.5)
    assert [ground.ppo(role, "paper").total_timesteps for role in ("depth", "size")] == [100_000, 10_000]
    small = ground.ppo("size", "summary")
    assert (small.total_timesteps, small.pi_arch, small.eval_freq) == (50_000, (64, 64), 2048)
    assert replace(small, total_timesteps=1) != ground.ppo("size", "paper")
