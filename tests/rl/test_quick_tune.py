"""`ltd tune --quick` from a model and traces that are there to policies that are used by default."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from made_texts import made_copies

from ltd.cli import main
from ltd.common import trained_folder
from ltd.errors import InputError
from ltd.lookup.scores import default_text_scores
from ltd.policies import Both, Learned, Lookup
from ltd.policies.learned.setting import Setting
from ltd.policies.learned.store import bundle_folder, quick_folder
from ltd.policy_choice import ChosenPolicy, choose_policy, expected_setting
from ltd_rl.traces.compact import save_compact
from ltd_rl.tuning import quick
from ltd_rl.tuning.quick import FIXED, LEARNED, PLAIN, SHIPPED, QuickTuned, fastest, quick_tune

CPU = torch.device("cpu")


@pytest.fixture
def names(tiny_target: Callable[[str], Path], tiny_head: Callable[[str], Path]) -> dict[str, Any]:
    return {"target": str(tiny_target("llama")), "draft": str(tiny_head("llama"))}


@pytest.fixture(autouse=True)
def setting(names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    """The setting of the tiny model, whose traces are "shipped"."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = expected_setting(names["target"], names["draft"], torch.float32, CPU)
    assert found is not None
    generations = [made_copies(seed, 30) for seed in range(12)]
    save_compact(tmp_path / "traces", generations, default_text_scores(), 3, 20, found)
    for place in ("ltd.policy_choice", "ltd_rl.tuning.quick"):
        monkeypatch.setattr(f"{place}.shipped_traces", lambda: tmp_path / "traces")
    monkeypatch.setattr(quick, "LENGTHS", (16, 32))
    monkeypatch.setattr(quick, "SIZES", (0, 4, 16))
    return found


def run(names: dict[str, Any]) -> QuickTuned:
    return quick_tune(**names, dtype="float32", seconds=0.1)


def found(setting: Setting) -> ChosenPolicy:
    return choose_policy(None, lambda: setting, CPU)


def decide(monkeypatch: pytest.MonkeyPatch, best: str) -> None:
    """Replays are not asked: this is what came out best."""
    monkeypatch.setattr(quick, "compare", lambda *_: {name: 1.0 + (name == best) for name in (PLAIN, FIXED, LEARNED)})


def test_what_was_replayed_best_is_kept_and_used_by_default(
    names: dict[str, Any], setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = quick.compare
    told: list[dict[str, float]] = []
    monkeypatch.setattr(quick, "compare", lambda *given: told.append(compared(*given)) or told[-1])
    tuned = run(names)
    assert tuned.replayed == told[0] and set(told[0]) >= {PLAIN, FIXED, LEARNED} and min(told[0].values()) > 0
    assert tuned.folder == quick_folder(setting) and (tuned.folder / "latency.json").is_file()
    best = max(told[0], key=told[0].__getitem__)
    assert (found(setting).origin == "quick") == (best != PLAIN) == (tuned.kept is not None)
    decide(monkeypatch, LEARNED)
    tuned = run(names)
    assert isinstance(tuned.kept, Learned) and tuned.kept.costs is not None
    assert tuned.kept.sizes[-1] <= 20 and tuned.kept.made_for.hardware == setting.hardware
    chosen = found(setting)
    assert chosen.origin == "quick" and chosen.bundle is not None and chosen.bundle.folder == tuned.folder
    assert chosen.bundle.validation["replayed_tokens_per_second"][LEARNED] == 2.0
    decide(monkeypatch, FIXED)
    tuned = run(names)
    assert str(found(setting).policy) == str(tuned.kept) and found(setting).file == tuned.folder / "rule.json"
    decide(monkeypatch, PLAIN)
    assert run(names).kept is None
    assert found(setting).origin == "static"


def test_shipped_policies_that_are_fastest_stay_in_use() -> None:
    rule, policy = Both(1, 3, 8), cast(Learned, object())
    replayed = {PLAIN: 1.0, SHIPPED: 3.0, FIXED: 2.0, LEARNED: 2.5}
    assert fastest(replayed, rule, policy, with_shipped=True) is None
    assert fastest(replayed, rule, policy, with_shipped=False) is policy  # those of another type's traces
    assert fastest({**replayed, FIXED: 4.0}, rule, policy, with_shipped=True) is rule
    assert fastest({PLAIN: 1.0, FIXED: 0.5, LEARNED: 0.7}, rule, policy, with_shipped=True) is None


def test_without_a_draft_the_same_traces_serve_the_text_alone(
    names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for best, kind in ((LEARNED, Learned), (FIXED, Lookup)):
        decide(monkeypatch, best)
        tuned = run({**names, "draft": "lookup"})
        assert isinstance(tuned.kept, kind)
        here = expected_setting(names["target"], "lookup", torch.float32, CPU)
        assert here is not None and str(found(here).policy) == str(tuned.kept)


def test_another_target_and_no_draft_are_refused_before_a_model_is_loaded(
    names: dict[str, Any], tiny_target: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltd.loading.load_model", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(InputError, match="policies steer a draft"):
        run({**names, "draft": "none"})
    with pytest.raises(InputError, match="seconds 0"):
        quick_tune(**names, dtype="float32", seconds=0)
    monkeypatch.setattr("ltd.policy_choice.shipped_traces", lambda: Path("nowhere"))
    with pytest.raises(InputError, match=r"no shipped traces of this target and head .*; use ltd tune"):
        run(names)


def test_a_kill_in_the_middle_leaves_nothing_half(
    names: dict[str, Any], setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(monkeypatch, LEARNED)
    run(names)
    written = trained_folder.write_bytes

    def killed(path: Path, content: bytes) -> None:
        if path.name == "policy.json":
            raise KeyboardInterrupt
        written(path, content)

    monkeypatch.setattr(trained_folder, "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        run(names)
    assert found(setting).origin == "static"
    monkeypatch.setattr(trained_folder, "write_bytes", written)
    run(names)
    assert found(setting).origin == "quick"


def test_a_cache_that_cannot_be_written_is_said_before_anything_is_measured(
    names: dict[str, Any], setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick, "calibrate", lambda *_, **__: pytest.fail("something was measured"))
    bundle_folder(setting).parent.parent.mkdir(parents=True)
    bundle_folder(setting).parent.write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"cannot write .*; name a place that is writable"):
        run(names)


def test_the_command_says_what_came_out_and_refuses_what_it_makes_no_use_of(
    names: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decide(monkeypatch, LEARNED)
    monkeypatch.setattr(quick, "SECONDS", 0.1)
    arguments = ["tune", "--quick", "--target", names["target"], "--draft", names["draft"], "--dtype", "float32"]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "(greedy text), replayed with this machine's costs" in " ".join(shown.out.split())
    assert "of shipped traces, greedy text, and comparing" in shown.err
    assert LEARNED in shown.out and "2.00x" in shown.out and "here from now on" in shown.err
    assert main([*arguments, "--trainer", "ppo", "--questions", "4"]) == 2
    assert "makes no use of --trainer, --questions" in capsys.readouterr().err


def test_it_is_offered_once_where_nothing_was_made_here_yet(
    names: dict[str, Any], setting: Setting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", "Hello", "--raw", "--target", names["target"], "--draft", names["draft"]]
    arguments += ["--dtype", "float32", "--max-new-tokens", "4"]
    for asked, offered in ((["--policy", "static"], False), ([], True), ([], False)):
        assert main([*arguments, *asked]) == 0
        assert ("ltd tune --quick" in capsys.readouterr().err) == offered
    (bundle_folder(setting) / "offered").unlink()
    decide(monkeypatch, FIXED)
    run(names)
    capsys.readouterr()
    assert main(arguments) == 0
    assert "--quick" not in capsys.readouterr().err


def test_it_needs_neither_gymnasium_nor_stable_baselines() -> None:
    code = "import sys; sys.modules.update(gymnasium=None, stable_baselines3=None); import ltd_rl.tuning.quick"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
