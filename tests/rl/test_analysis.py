"""`ltd analyze`: what it adds up is what replays and tables say."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_lookups import even_scores
from made_texts import made_copies, made_text
from made_traces import made_generations, made_latency

from ltd.cli.main import main
from ltd.common.shards import shard_file
from ltd.errors import InputError
from ltd.latency.cycle_costs import cycle_costs
from ltd.latency.model import LatencyModel
from ltd.lookup import TEXT_FEATURES
from ltd.policies import Both, Learned, Lookup, Static
from ltd.policies.cost_aware import CostAware
from ltd.policies.cycle_costs_file import COSTS, save_costs
from ltd.policies.learned.bundle import Bundle, save_bundle
from ltd.policies.learned.network import Network
from ltd.policies.learned.observation import Layout, Summary
from ltd.policies.learned.setting import Setting
from ltd.policies.rule_file import load_rule, write_rule
from ltd.tree import NOT_ASKED
from ltd_rl.analysis import knowable
from ltd_rl.analysis.analyse import AnalysisConfig, analyse, told_apart
from ltd_rl.analysis.choices import SIZES
from ltd_rl.analysis.predictors import PREDICTORS, BigNetwork, Boosting
from ltd_rl.analysis.report import plot, summarise
from ltd_rl.analysis.totals import PARTS, Analysis, ReplayedTotal, spend
from ltd_rl.analysis.ways import TaskGround, fixed, learned, ruled, weighed
from ltd_rl.baselines import both_search
from ltd_rl.traces.arrays import NO_RANK
from ltd_rl.traces.format import save_shard, shallow
from ltd_rl.traces.optimum import hindsight, optimum
from ltd_rl.traces.outcomes import outcomes_of, plain_total, total
from ltd_rl.traces.replay import replay
from ltd_rl.traces.text import propose_everywhere

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


@pytest.fixture(autouse=True)
def few_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for the best of both takes seconds, and is tested elsewhere."""
    monkeypatch.setattr(both_search, "FINE", both_search.Grid((2, 8), (0, 2), (0.5, 1.0)))


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
    save_bundle(Bundle(reading_policy()), root / "reading")
    return {name: root / name for name in ("traces", "fit", "latency.json", "tuned", "reading")}


def test_parts_add_up_to_the_tables() -> None:
    ground = TaskGround(made_generations(5, [40, 25]), made_latency(), None, 0)
    for depth, step in ((0, 0), (1, 3), (3, 17)):
        found = spend(ground, ground.cycles(*fixed(depth, SIZES[step])(ground)))
        expected = total(ground.outcomes, depth, step)
        assert (found.tokens, found.cycles) == (expected.tokens, expected.cycles)
        assert found.throughput == pytest.approx(expected.throughput, rel=1e-6)
        assert found.acceptance_length == expected.acceptance_length
        assert found.mean_depth == depth and found.seconds["lookup"] == 0.0
    plain = spend(ground, ground.cycles(*fixed(NOT_ASKED, 0)(ground)))
    assert plain.throughput == pytest.approx(plain_total(ground.outcomes).throughput, rel=1e-6)
    assert (plain.depths, plain.sizes, plain.mean_size) == ({}, {}, 0)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31))
def test_parts_add_up_with_text(seed: int) -> None:
    generations = [made_text(seed, 30)[0], made_text(seed + 1, 14)[0]]
    ground = TaskGround(generations, made_latency(), even_scores(0.6), 12)
    generator, outcomes = np.random.default_rng(seed), ground.outcomes
    depths = generator.integers(-1, 3, outcomes.positions)
    steps = generator.integers(0, 8, outcomes.positions)
    found = spend(ground, ground.cycles(depths, np.array(outcomes.sizes)[steps]))
    expected = total(outcomes, depths, steps)
    assert (found.tokens, found.cycles) == (expected.tokens, expected.cycles)
    assert found.throughput == pytest.approx(expected.throughput, rel=1e-6)
    assert found.seconds["lookup"] == pytest.approx(found.cycles * 5e-5, rel=3)
    assert min(found.seconds.values()) >= 0
    silent = sum(count for depth, count in found.depths.items() if depth < 0)
    assert 0 < silent < found.cycles and found.mean_depth <= 2


def test_learned_policies_at_once_are_learned_policies_one_by_one() -> None:
    ground = TaskGround(made_generations(5, [40, 25]), made_latency(), None, 0)
    for seed in range(4):
        policy = made_policy(seed)
        at_once = spend(ground, ground.cycles(*learned(policy)(ground)))
        assert at_once == spend(ground, [replay(generation, policy) for generation in ground.generations])
    static = spend(ground, [replay(generation, Static(2, 6)) for generation in ground.generations])
    assert static == spend(ground, ground.cycles(*fixed(2, 6)(ground)))


def reading_policy(seed: int = 0) -> Learned:
    """Random networks that read what the text proposes."""
    layout, generator = Summary(3, 2, text=TEXT_FEATURES), torch.Generator().manual_seed(seed)
    networks = [
        Network(layout, (torch.randn(outputs, layout.width, generator=generator) / 4, torch.zeros(outputs)))
        for outputs in (2, 4)
    ]
    return Learned(Setting(WIDTH), 2, (0, 2, 5, 9), *networks, max_text=8, text_scores=even_scores(0.7))


def test_policies_that_read_the_text_at_once_are_they_one_by_one() -> None:
    generations, seen = [made_text(3, 40)[0], made_text(4, 30)[0]], set()
    for seed in range(6):
        policy = reading_policy(seed)
        assert policy.text_scores is not None
        ground = TaskGround(generations, made_latency(), policy.text_scores, 8)
        at_once = spend(ground, ground.cycles(*learned(policy)(ground)))
        proposals = [propose_everywhere(generation, policy.text_scores, 8) for generation in generations]
        one_by_one = [replay(g, policy, text=text) for g, text in zip(generations, proposals, strict=True)]
        assert at_once == spend(ground, one_by_one)
        seen |= set(at_once.depths)
    assert NOT_ASKED in seen and len(seen) > 1
    for rule in (Both(1, 3, 8, 0.6), Lookup(8)):
        one_by_one = [replay(g, rule, text=text) for g, text in zip(generations, proposals, strict=True)]
        assert spend(ground, ground.cycles(*ruled(rule)(ground))) == spend(ground, one_by_one)


@pytest.fixture(scope="module")
def texts(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same with traces in which there is something to look up."""
    root = tmp_path_factory.mktemp("texts")
    for name, tasks, seed in (("traces", ("one", "two"), 10), ("fit", ("one",), 90)):
        (root / name).mkdir()
        for number, task in enumerate(tasks):
            generations = [made_copies(seed + 30 * number + each, 40, task=task) for each in range(4)]
            save_shard(shard_file(root / name, number), generations, WIDTH, DEPTH)
    return folders | {name: root / name for name in ("traces", "fit")}


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
    names = ["plain", "best static", "controller", "bundle tuned", "hindsight", "optimum"]  # the bundle knows no text
    assert [list(rows) for rows in content["summary"].values()] == [names] * 3
    assert list(content["summary"]) == ["one", "two", "mean"]
    assert (out / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "table.md").read_text().count("| optimum |") == 3
    again = tmp_path / "again"  # with the controller from its file
    assert main([*command, "--controller", str(out / "controller.json"), "--out", str(again)]) == 0
    both = [json.loads((folder / "analysis.json").read_text())["spent"]["two"] for folder in (out, again)]
    assert both[0]["controller"] == both[1]["controller"]
    assert "these traces, all tasks together" in capsys.readouterr().out


def test_the_whole_command_with_text(
    texts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["analyze", "--traces", str(texts["traces"]), "--latency", str(texts["latency.json"])]
    policies = ["--policy", str(texts["tuned"]), "--policy", str(texts["reading"]), "--fit", str(texts["fit"])]
    assert main([*command, *policies, "--static-from", str(texts["fit"]), "--out", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Best both: both, depth" in shown and "Best lookup: the text alone, lookup, size" in shown
    assert "the candidates of both sources" in shown
    found = re.search(r"than the (best \w+), which", shown)
    assert found is not None
    fixed = found[1]
    content = json.loads((out / "analysis.json").read_text())
    ways = ["plain", "best static", "best lookup", "best both", "controller", "bundle tuned", "bundle reading"]
    assert [list(rows) for rows in content["summary"].values()] == [[*ways, "hindsight", "optimum"]] * 3
    for rows in content["summary"].values():
        assert rows[fixed]["share_of_gap"] == 0.0 and rows[fixed]["to_static"] == 1.0
        assert rows["optimum"]["share_of_gap"] == 1.0
        assert rows["optimum"]["tokens_per_second"] >= max(
            rows[name]["tokens_per_second"] for name in (*ways[:4], "controller", "hindsight")
        )
    for spent in content["spent"].values():
        looked_up = {name for name, row in spent.items() if row["seconds"]["lookup"] > 0}
        assert looked_up == {"best lookup", "best both", "controller", "bundle reading", "hindsight", "optimum"}
        assert set(spent["best lookup"]["depths"]) == {"-1"}
    again = tmp_path / "again"  # with the controller from its file, which says how likely the text is
    assert main([*command, "--controller", str(out / "controller.json"), "--out", str(again)]) == 0
    both = [json.loads((folder / "analysis.json").read_text())["spent"]["two"] for folder in (out, again)]
    for name in ("controller", "optimum"):
        assert both[0][name] == both[1][name]


@pytest.fixture
def small_predictors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knowable, "FOLDS", 2)
    monkeypatch.setitem(PREDICTORS, "boosting", lambda: Boosting(trees=3, patience=1))
    monkeypatch.setitem(PREDICTORS, "network", lambda: BigNetwork(hidden=(8,), epochs=2))


def saved_rules(folder: Path) -> dict[str, Path]:
    """Files of rules as `ltd train-baseline rules` writes them."""
    save_costs(cycle_costs(made_latency()), folder / COSTS)
    texts = {"smart": "discount=0.9:max_depth=3:size=9", "budget": "max_depth=2:size=20"}
    for name, options in texts.items():
        write_rule(f"{name}:costs={folder / COSTS}:{options}", {}, folder / f"{name}.json")
    write_rule("ddd:size=6", {}, folder / "ddd.json")
    write_rule(f"caddtree:costs={folder / COSTS}:max_depth=4", {}, folder / "deep.json")
    return {name: folder / f"{name}.json" for name in (*texts, "ddd", "deep")}


def test_rules_and_the_knowable_stand_before_what_knows_the_future(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], small_predictors: None
) -> None:
    rules, out = saved_rules(tmp_path), tmp_path / "out"
    command = ["analyze", "--traces", str(folders["traces"]), "--latency", str(folders["latency.json"])]
    given = ["--rule", str(rules["smart"]), "--rule", str(rules["budget"]), "--knowable"]
    assert main([*command, *given, "--out", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Knowable, boosting: predicts" in shown and "a lower bound on what can be known" in shown
    content = json.loads((out / "analysis.json").read_text())
    bounds = ["knowable, boosting", "knowable, network"]
    names = ["plain", "best static", "rule smart", "rule budget", *bounds, "hindsight", "optimum"]
    assert [list(rows) for rows in content["summary"].values()] == [names] * 3
    for rows in content["summary"].values():
        assert all(rows[name]["tokens_per_second"] <= rows["optimum"]["tokens_per_second"] for name in names)
        assert all(rows[name]["share_of_gap"] <= 1.0 for name in bounds)
    assert (out / "table.md").read_text().count("| knowable, network |") == 3
    ground = TaskGround(made_generations(40, [40, 25], "two")[:1], made_latency(), None, 0)
    for name in ("smart", "budget"):
        rule = load_rule(rules[name])
        assert isinstance(rule, CostAware)
        one_by_one = spend(ground, [replay(generation, rule) for generation in ground.generations])
        assert one_by_one == spend(ground, ground.cycles(*weighed(rule)(ground)))


def test_the_knowable_of_both_sources(texts: dict[str, Path], tmp_path: Path, small_predictors: None) -> None:
    results, notes = run(texts, tmp_path, knowable=True)
    for row in results.values():
        assert list(row)[-4:] == ["knowable, boosting", "knowable, network", "hindsight", "optimum"]
        for name in ("knowable, boosting", "knowable, network"):
            assert row[name].seconds["lookup"] > 0
            assert row[name].throughput <= row["optimum"].throughput
    assert sum(note.startswith("Knowable") for note in notes) == 2


def test_whether_the_text_counts(texts: dict[str, Path], tmp_path: Path) -> None:
    for changes, expected in (
        ({}, True),
        ({"text": False}, False),
        ({"fit": texts["fit"]}, True),
        ({"policies": (texts["tuned"],)}, False),
        ({"policies": (texts["tuned"], texts["reading"])}, True),
        ({"policies": (texts["tuned"],), "text": True}, True),
        ({"fit": texts["fit"], "text": False}, False),
    ):
        results, notes = run(texts, tmp_path, **changes)
        names = results["two"]
        assert ("best both" in names) == ("best lookup" in names) == expected
        assert any(note.startswith("Best both") for note in notes) == expected
        known = [name for name in ("best static", "best lookup", "best both") if name in names]
        fixed = max(known, key=lambda name: fmean(row[name].throughput for row in results.values()))
        assert f"than the {fixed}, which" in " ".join(notes)
        controller = names.get("controller")
        assert controller is None or (controller.seconds["lookup"] > 0) == expected


def test_what_is_named_alike_is_told_apart(tmp_path: Path) -> None:
    places = [tmp_path / place for place in ("one/bundle", "two/bundle", "rule.json", "rule.txt")]
    for folder in places[:2]:
        folder.mkdir(parents=True)
    for file in places[2:]:
        file.touch()
    assert told_apart(places[:1]) == {"bundle": places[0]} and told_apart([]) == {}
    assert told_apart(places[:2]) == {"one/bundle": places[0], "two/bundle": places[1]}
    assert told_apart(places[2:3]) == {"rule": places[2]}
    assert told_apart(places[2:]) == {str(place): place for place in places[2:]}
    with pytest.raises(InputError, match="bundle is named twice"):
        told_apart([places[0], places[1], places[0]])


def test_without_a_draft_there_is_the_text_alone(texts: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "undrafted"
    folder.mkdir()
    save_shard(shard_file(folder, 0), [shallow(made_copies(seed, 30), -1) for seed in range(3)], WIDTH, -1)
    results, notes = run(texts, tmp_path, traces=folder)
    assert list(results["made"]) == ["plain", "best lookup", "hindsight", "optimum"]
    assert "than the best lookup" in " ".join(notes)
    for changes, complaint in (
        ({"text": False}, "all candidates are the text's"),
        ({"fit": folder}, "weighs a draft"),
        ({"static_from": texts["fit"]}, "one is without a draft"),
        ({"policies": (texts["tuned"],)}, "recorded without a draft"),
    ):
        with pytest.raises(InputError, match=complaint):
            run(texts, tmp_path, traces=folder, **changes)


def test_optimum_and_hindsight_are_those_of_the_tables(folders: dict[str, Path], tmp_path: Path) -> None:
    results, _ = run(folders, tmp_path, text=False)
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

    for name in ("choose_fixed", "fit_text_scores", "fitted_controller", "knowable_ways", "compare"):
        monkeypatch.setattr(f"ltd_rl.analysis.analyse.{name}", must_not_run)
    wide = tmp_path / "wide"
    wide.mkdir()
    other = made_generations(1, [9])[0]
    scores = np.zeros((9, 5 + 25), dtype=np.float32)
    parts = {"candidates": scores.astype(np.int32), "ranks": np.full_like(other.ranks[:, :2, :2], NO_RANK),
             "path": np.full_like(other.path[:, :2], -1)}  # fmt: skip
    widened = replace(other, scores=scores, width=5, **parts)
    save_shard(shard_file(wide, 0), [widened], 5, 1)
    save_bundle(Bundle(Learned(Setting(WIDTH), DEPTH + 1, (4,))), tmp_path / "deep")
    rules, alone = saved_rules(tmp_path), tmp_path / "alone"
    alone.mkdir()
    save_shard(shard_file(alone, 0), made_generations(1, [9, 0]), WIDTH, DEPTH)
    for changes, complaint in (
        ({"traces": tmp_path / "none"}, "there are no traces"),
        ({"latency": tmp_path / "none"}, "cannot read"),
        ({"controller": tmp_path / "none"}, "cannot be used"),
        ({"controller": tmp_path / "none", "fit": folders["fit"]}, "not both"),
        ({"policies": (tmp_path / "none",)}, "cannot be used"),
        ({"policies": (tmp_path / "deep",)}, "drafts to depth 4"),
        ({"fit": wide}, "beam width 5"),
        ({"static_from": wide}, "beam width 5"),
        ({"policies": (folders["reading"],), "text": False}, "bundle reading looks tokens up"),
        ({"rules": (rules["ddd"],)}, "does not decide by the scores in traces and by costs alone"),
        ({"rules": (rules["deep"],)}, "rule deep drafts to depth 4"),
        ({"rules": (tmp_path / "none",)}, "the rule .*none cannot be used"),
        ({"traces": alone, "knowable": True}, "record at least 2"),
    ):
        with pytest.raises(InputError, match=complaint):
            run(folders, tmp_path, **changes)
