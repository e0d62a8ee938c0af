"""`ltd analyze`: what it adds up is what replays and tables say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_traces import made_generations, made_latency

from ltd.cli.main import main
from ltd.common.shards import shard_file
from ltd.errors import InputError
from ltd.latency.model import LatencyModel
from ltd.policies import Learned, Static
from ltd.policies.learned.bundle import Bundle, save_bundle
from ltd.policies.learned.network import Network
from ltd.policies.learned.observation import Layout
from ltd.policies.learned.setting import Setting
from ltd_rl.analysis import PARTS, SIZES, Analysis, AnalysisConfig, ReplayedTotal, analyse, fixed, learned, spend
from ltd_rl.analysis_report import plot, summarise
from ltd_rl.traces.format import save_shard
from ltd_rl.traces.optimum import hindsight, optimum
from ltd_rl.traces.outcomes import PLAIN, outcomes_of, plain_total, total
from ltd_rl.traces.replay import replay

WIDTH, DEPTH = 3, 3


def made_policy(seed: int = 0) -> Learned:
    """Random networks with the paper's layout, for small trees."""
    generator = torch.Generator().manual_seed(seed)
    layouts = {"depth": Layout(9, 1), "size": Layout(30, 1)}
    weights = {
        name: (
            torch.randn(outputs, layouts[name].width, generator=generator),
            torch.zeros(outputs),
        )
        for name, outputs in (("depth", 2), ("size", 3))
    }
    networks = {name: Network(layouts[name], weights[name]) for name in weights}
    return Learned(Setting(WIDTH), DEPTH, (2, 5, 9), networks["depth"], networks["size"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Traces of two tasks, others to fit to, latencies and a bundle."""
    root = tmp_path_factory.mktemp("analysis")
    for name, tasks, seed in (("traces", ("one", "two"), 10), ("fit", ("one",), 90)):
        (root / name).mkdir()
        for number, task in enumerate(tasks):
            generations = made_generations(seed + 30 * number, [40, 0, 25], task)
            save_shard(shard_file(root / name, number), generations, WIDTH, DEPTH)
    made_latency().save(root / "latency.json")
    save_bundle(Bundle(made_policy()), root / "tuned")
    return {name: root / name for name in ("traces", "fit", "latency.json", "tuned")}


def test_parts_add_up_to_the_tables() -> None:
    generations, latency = made_generations(5, [40, 25]), made_latency()
    outcomes = outcomes_of(generations, latency, SIZES)
    for depth, step in ((0, 0), (1, 3), (3, 17)):
        found = spend(generations, fixed(depth, SIZES[step])(generations, outcomes), latency)
        expected = total(outcomes, depth, step)
        assert (found.tokens, found.cycles) == (expected.tokens, expected.cycles)
        assert found.throughput == pytest.approx(expected.throughput, rel=1e-6)
        assert found.acceptance_length == expected.acceptance_length
        assert found.mean_depth == depth
    plain = spend(generations, fixed(PLAIN, 0)(generations, outcomes), latency)
    assert plain.throughput == pytest.approx(plain_total(outcomes).throughput, rel=1e-6)
    assert (plain.depths, plain.sizes, plain.mean_size) == ({}, {}, 0)


def test_learned_policies_at_once_are_learned_policies_one_by_one() -> None:
    generations, latency = made_generations(5, [40, 25]), made_latency()
    outcomes = outcomes_of(generations, latency, SIZES)
    for seed in range(4):
        policy = made_policy(seed)
        at_once = spend(generations, learned(policy)(generations, outcomes), latency)
        assert at_once == spend(generations, [replay(generation, policy) for generation in generations], latency)
    static = spend(generations, [replay(generation, Static(2, 6)) for generation in generations], latency)
    assert static == spend(generations, fixed(2, 6)(generations, outcomes), latency)


def run(folders: dict[str, Path], out: Path, **changes: object) -> tuple[Analysis, list[str]]:
    given = {"traces": folders["traces"], "latency": folders["latency.json"], "out": out, **changes}
    return analyse(AnalysisConfig(**given))  # type: ignore[arg-type]


def test_the_whole_command(folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["analyze", "--traces", str(folders["traces"]), "--latency", str(folders["latency.json"])]
    policy = ["--policy", str(folders["tuned"]), "--fit", str(folders["fit"]), "--static-from", str(folders["fit"])]
    assert main([*command, *policy, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "chosen on other traces" in shown and "fitted to other traces" in shown
    content = json.loads((out / "analysis.json").read_text())
    names = ["plain", "best static", "controller", "bundle tuned", "hindsight", "optimum"]
    assert [list(rows) for rows in content["summary"].values()] == [names] * 3
    assert list(content["summary"]) == ["one", "two", "mean"]
    assert (out / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "table.md").read_text().count("| optimum |") == 3
    again = tmp_path / "again"  # with the controller from its file
    assert main([*command, "--controller", str(out / "controller.json"), "--out", str(again)]) == 0
    both = [json.loads((folder / "analysis.json").read_text())["spent"]["two"] for folder in (out, again)]
    assert both[0]["controller"] == both[1]["controller"]
    assert "these traces, all tasks together" in capsys.readouterr().out


def test_optimum_and_hindsight_are_those_of_the_tables(folders: dict[str, Path], tmp_path: Path) -> None:
    results, _ = run(folders, tmp_path)
    latency = LatencyModel.load(folders["latency.json"])
    outcomes = outcomes_of(made_generations(40, [40, 0, 25], "two"), latency, SIZES)
    for name, find in (("optimum", optimum), ("hindsight", hindsight)):
        assert results["two"][name].throughput == pytest.approx(find(outcomes).total.throughput, rel=1e-6)


def test_ratios_and_shares() -> None:
    def spent(seconds: float) -> ReplayedTotal:
        return ReplayedTotal(100, 50, {**dict.fromkeys(PARTS, 0.0), "plain": seconds}, {}, {})

    row = {"plain": spent(10), "best static": spent(5), "optimum": spent(2.5), "other": spent(4)}
    slow = {name: spent(2 * found.seconds["plain"]) for name, found in row.items()}
    summary = summarise({"a": row, "b": slow})
    assert summary["a"]["other"]["share_of_gap"] == pytest.approx((25 - 20) / (40 - 20))
    assert summary["a"]["other"]["to_plain"] == pytest.approx(2.5)
    assert summary["b"]["other"]["to_static"] == pytest.approx(1.25)
    assert summary["mean"]["other"]["tokens_per_second"] == pytest.approx((25 + 12.5) / 2)
    assert "mean" not in summarise({"a": row})
    no_gap = summarise({"a": {"plain": spent(5), "best static": spent(5), "optimum": spent(5)}})
    assert no_gap["a"]["plain"]["share_of_gap"] == 0.0
    assert plot({"a": row}).startswith(b"\x89PNG")


def test_bad_inputs_are_refused_first(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def must_not_run(*arguments: object) -> None:
        raise AssertionError("long work has begun")

    for name in ("choose_static", "fitted_controller", "compare"):
        monkeypatch.setattr(f"ltd_rl.analysis.{name}", must_not_run)
    wide = tmp_path / "wide"
    wide.mkdir()
    other = made_generations(1, [9])[0]
    scores = np.zeros((9, 5 + 25), dtype=np.float32)
    parts = {"candidates": scores.astype(np.int32), "ranks": other.ranks[:, :2, :2], "path": other.path[:, :2]}
    widened = replace(other, scores=scores, width=5, **parts)
    save_shard(shard_file(wide, 0), [widened], 5, 1)
    save_bundle(Bundle(Learned(Setting(WIDTH), DEPTH + 1, (4,))), tmp_path / "deep")
    for changes, complaint in (
        ({"traces": tmp_path / "none"}, "there are no traces"),
        ({"latency": tmp_path / "none"}, "cannot read"),
        ({"controller": tmp_path / "none"}, "cannot be used"),
        ({"controller": tmp_path / "none", "fit": folders["fit"]}, "not both"),
        ({"policies": (tmp_path / "none",)}, "cannot be used"),
        ({"policies": (tmp_path / "deep",)}, "drafts to depth 4"),
        ({"fit": wide}, "beam width 5"),
        ({"static_from": wide}, "beam width 5"),
    ):
        with pytest.raises(InputError, match=complaint):
            run(folders, tmp_path, **changes)
