"""The evaluation with the official option names: what it takes, what it compares, and what it says about mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("stable_baselines3")

from official_zips import official_zip

from ltd.errors import InputError
from ltd.policies import Learned
from ltd.policies.learned.allowance import Costs
from ltd.policies.learned.bundle import Bundle, load_bundle, save_bundle
from ltd.policies.learned.setting import Setting
from ltd_rl.scripts.evaluation import EvaluationOptions, main, policies_of

OFFICIAL = (
    "bench_name base_model_path ea_model_path depth total_token use_dyn_depth depth_model use_dyn_token token_model "
    "temperature num_choices max_new_token"
)
MADE_FOR = Setting(10, hidden_size=32)


@pytest.fixture(scope="module")
def zips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of a depth and of a size policy."""
    folder = tmp_path_factory.mktemp("zips")
    return official_zip(folder / "depth.zip", 128, 2), official_zip(folder / "size.zip", 1268, 24)


@pytest.fixture
def bundle(zips: tuple[Path, Path], tmp_path: Path) -> Callable[..., str]:
    """bundle(name, setting, …) → a folder with both policies, made for a setting, after changes."""

    def make(name: str, made_for: Setting = MADE_FOR, **changes: Any) -> str:
        policy = replace(policies_of(options(zips, both=True)), made_for=made_for, **changes)
        save_bundle(Bundle(policy), tmp_path / name)
        return str(tmp_path / name)

    return make


def options(zips: tuple[Any, Any], *, both: bool = False, **changes: Any) -> EvaluationOptions:
    models = {"depth_model": str(zips[0]), "token_model": str(zips[1])}
    flags = {"use_dyn_depth": both, "use_dyn_token": both}
    return EvaluationOptions(Path("data"), Path("out"), **{**models, **flags, **changes})


def test_it_takes_the_official_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"--{option} " in shown for option in OFFICIAL.split())


@pytest.mark.filterwarnings("ignore::ltd.TunedElsewhereWarning")  # zips do not say what they were tuned on
def test_an_official_command_line_compares_three_methods(
    zips: tuple[Path, Path], data: Path, tiny_target: Callable[[str], Path], tiny_head: Callable[[str], Path],
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    models = ["--base-model-path", str(tiny_target("llama")), "--ea-model-path", str(tiny_head("llama"))]
    where = ["--data_dir", str(data), "--save_path", str(tmp_path), "--bench-name", "first, second", "--limit", "1"]
    trees = ["--depth", "3", "--total-token", "9", "--use_dyn_depth", "--use_dyn_token", "--depth_model", str(zips[0]),
             "--token_model", str(zips[1]), "--temperature", "0", "--num-choices", "1"]  # fmt: skip
    assert main([*models, *where, *trees, "--max-new-token", "6", "--dtype", "float32"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["settings"]["methods"] == ["none", "eagle3=static:3:9", f"ltd=bundle:{tmp_path / 'policy'}"]
    assert {sample["task"] for sample in results["samples"]} == {"first", "second"}
    drafted = [sample for sample in results["samples"] if sample["method"] != "none"]
    assert drafted and all(sample["identical_to_none"] for sample in drafted)
    assert "eagle3" in (tmp_path / "table.md").read_text() and "eagle3" in capsys.readouterr().out
    policy = load_bundle(tmp_path / "policy").policy
    assert (policy.depth_limit, policy.min_depth, policy.sizes) == (12, 1, tuple(range(10, 241, 10)))


@pytest.mark.filterwarnings("ignore::ltd.TunedElsewhereWarning")
def test_a_folder_of_another_run_keeps_its_policies(
    zips: tuple[Path, Path], data: Path, tiny_target: Callable[[str], Path], tiny_head: Callable[[str], Path],
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    models = ["--base-model-path", str(tiny_target("llama")), "--ea-model-path", str(tiny_head("llama"))]
    where = ["--data_dir", str(data), "--bench-name", "first", "--limit", "1", "--max-new-token", "2", "--depth", "3"]
    size = ["--use_dyn_token", "--token_model", str(zips[1])]
    both = [*size, "--use_dyn_depth", "--depth_model", str(zips[0])]

    def run(folder: Path, *policies: str) -> int:
        return main([*models, *where, "--dtype", "float32", "--save_path", str(folder), *policies])

    assert run(tmp_path / "sized", *size) == 0
    kept = contents(tmp_path / "sized")
    assert run(tmp_path / "sized", *both) == 2
    assert "with other policies or networks behind its methods than this one's" in capsys.readouterr().err
    assert contents(tmp_path / "sized") == kept
    assert run(tmp_path / "sized", *size, "--temperature", "1") == 2
    assert contents(tmp_path / "sized") == kept
    assert run(tmp_path / "sized", *size) == 0  # it goes on with its own
    assert run(tmp_path / "static") == 0 and run(tmp_path / "static", *size) == 2
    assert not (tmp_path / "static" / "policy").exists()


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_constants_stand_where_no_policy_is_asked(zips: tuple[Path, Path]) -> None:
    depth = policies_of(options(zips, use_dyn_depth=True, total_token=33))
    assert (depth.sizes, depth.size_network, depth.depth_limit) == ((33,), None, 12)
    size = policies_of(options(zips, use_dyn_token=True, depth=5))
    assert (size.depth_limit, size.depth_network, size.min_depth, len(size.sizes)) == (5, None, 0, 24)
    alone = EvaluationOptions(Path("data"), Path("out"), use_dyn_depth=True, depth_model=str(zips[0]))
    assert weights(policies_of(alone)) == weights(depth)


def weights(policy: Learned) -> list[list[Any]]:
    return [
        [tensor.tolist() for tensor in network.weights] if network is not None else []
        for network in (policy.depth_network, policy.size_network)
    ]


def test_each_policy_is_of_the_file_that_was_named(zips: tuple[Path, Path], bundle: Callable[..., str]) -> None:
    costs = Costs(0.1, 0.2, tuple(range(24)))
    first, both = bundle("first", costs=costs), policies_of(options(zips, both=True))
    for models in ((first, zips[1]), (zips[0], first), (first, bundle("second"))):
        policy = policies_of(options(models, both=True))
        assert weights(policy) == weights(both) and (policy.made_for, policy.costs) == (MADE_FOR, None)
    whole = policies_of(options((first, first), both=True))
    assert weights(whole) == weights(both) and whole.costs == costs  # one bundle is taken as it is


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--use_dyn_depth"], "--use_dyn_depth needs a depth policy; name its file or folder with --depth_model"),
        (["--use_dyn_token"], "--use_dyn_token needs a size policy; name its file or folder with --token_model"),
        (["--use_dyn_token", "--token_model", "nowhere.zip"], "nowhere.zip is not a zip file"),
        (["--num-choices", "5"], "num_choices is 5"),
        (["--depth", "13"], "13"),
        (["--bench-name=no-such-task"], "no-such-task"),
        (["--total-token", "-1"], "-1"),
        (["--bench-name", "nothing"], "nothing"),
    ],
)
def test_one_sentence_about_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert main(["--data_dir", str(tmp_path), "--save_path", str(tmp_path / "out"), *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and complaint in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_not_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--data_dir", "x", "--save_path", "", "--base_model_path", ""]) == 2
    assert capsys.readouterr().err == "error: --save_path is empty; give it a value\n"
    assert main(["--data_dir", "", "--save_path", "x", "--bench_name", "mine"]) == 2  # as if it were not given
    assert "no task 'mine' to fetch by name" in capsys.readouterr().err
    assert main(["--data_dir", "x", "--save_path"]) == 2
    assert capsys.readouterr().err.endswith("; see evaluate.py --help\n")
    assert list(tmp_path.iterdir()) == []


def test_policies_that_do_not_go_together_are_refused(
    zips: tuple[Path, Path], bundle: Callable[..., str], tmp_path: Path
) -> None:
    first, other = bundle("first"), bundle("other", Setting(10, hidden_size=64))
    with pytest.raises(InputError, match="not made for the same hidden_size: 32 and 64"):
        policies_of(options((first, other), both=True))
    with pytest.raises(InputError, match="has no size network; name one that has"):
        policies_of(options((first, bundle("constant", size_network=None, sizes=(60,))), both=True))
    run = tmp_path / "ppo"
    run.mkdir()
    (run / "run.jsonl").touch()
    with pytest.raises(InputError, match="is of a training here, whose zip does not say which sizes it knows"):
        policies_of(options((zips[0], official_zip(run / "best.zip", 1268, 12)), both=True))
