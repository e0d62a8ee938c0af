"""The training scripts: their options, a run from models to a bundle, and what they say about mistakes."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ltd.latency.model import LatencyModel
from ltd.policies.learned.bundle import load_bundle
from ltd.policies.learned.observation import SIZE_REPEATS, Layout
from ltd.tree import candidate_count

pytest.importorskip("stable_baselines3")

from ltd_rl.scripts.main import main
from ltd_rl.scripts.options import DepthOptions, Options, SizeOptions, whole_numbers
from ltd_rl.traces.format import load_traces
from ltd_rl.traces.splits import split_generations

OFFICIAL = (
    "base_model_path ea_model_path rl_checkpoint_path data_dir dataset_train save_path total_timesteps lr "
    "warmup_timesteps n_steps batch_size n_epochs gamma ent_coef eval_freq pi_arch vf_arch"
)
OURS = "traces latency reward observation sizes depth_limit live seed"
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("script", ["train_depth", "train_size"])
@pytest.mark.parametrize("as_module", [False, True])
@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_the_scripts_say_what_they_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], script: str, as_module: bool
) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.syspath_prepend(ROOT)
    run, where = (runpy.run_module, "rl") if as_module else (runpy.run_path, str(ROOT / "rl"))
    name = f"{where}.{script}" if as_module else f"{where}/{script}.py"
    with pytest.raises(SystemExit) as ended:
        run(name, run_name="__main__")
    assert ended.value.code == 0
    shown, partner = capsys.readouterr().out, "token" if script == "train_depth" else "depth"
    for option in (f"rl_{partner}_model_path", *OFFICIAL.split(), *OURS.split()):
        assert f"--{option} " in shown


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "humaneval").mkdir()
    lines = [json.dumps({"question_id": n, "turns": [f"Say {n}"]}) for n in range(5)]
    (folder / "humaneval" / "question.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def small(tiny_target: Callable[[str], Path], tiny_head: Callable[[str], Path]) -> list[str]:
    """Options of a small training, for both scripts."""
    return ["--base_model_path", str(tiny_target("llama")), "--ea_model_path", str(tiny_head("llama")),
            "--sizes", "4,12", "--depth_limit", "2", "--batch_size", "64", "--n_epochs", "1"]  # fmt: skip


def test_both_scripts_from_models_to_a_bundle(
    data: Path, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [*small, "--dtype", "float32", "--total_timesteps", "256", "--n_steps", "128", "--eval_freq", "128",
              "--pi_arch", "8", "--vf_arch", "8", "8"]  # fmt: skip
    depth = ["--save_path", str(tmp_path / "depth"), "--data_dir", str(data), "--dataset_train", "humaneval",
             "--max_new_tokens", "12", "--calibration_seconds", "0.01"]  # fmt: skip
    assert main("depth", DepthOptions, [*common, *depth]) == 0
    first = load_bundle(tmp_path / "depth" / "bundle").policy
    assert first.sizes in ((4,), (12,)) and first.size_network is None and first.depth_network is not None
    assert first.made_for.width == 10 and first.made_for.head_sha256 is not None
    assert (tmp_path / "depth" / "traces").is_dir() and (tmp_path / "depth" / "latency.json").is_file()
    generations, _ = split_generations(load_traces(tmp_path / "depth" / "traces").generations)
    lengths = [g.prompt_length + position for g in generations for position in range(g.positions)]
    known = min(lengths), max(lengths)
    assert known[0] < known[1] and first.depth_network.layout.length_range == known
    size = ["--save_path", str(tmp_path / "size"), "--traces", str(tmp_path / "depth" / "traces"), "--latency",
            str(tmp_path / "depth" / "latency.json")]  # fmt: skip
    zipped = str(tmp_path / "depth" / "ppo" / "best.zip")
    for partner in (str(tmp_path / "depth" / "bundle"), zipped):  # the same policy: a rerun goes on, or is done
        assert main("size", SizeOptions, [*common, *size, "--rl_depth_model_path", partner]) == 0
    both = load_bundle(tmp_path / "size" / "bundle").policy
    assert both.sizes == (4, 12) and both.size_network is not None and both.depth_network is not None
    assert both.size_network.layout == Layout(candidate_count(10, 2), SIZE_REPEATS, known)
    assert "tokens/s on the held-out questions" in capsys.readouterr().err
    live = ["--save_path", str(tmp_path / "live"), *size[2:], "--live", "--max_new_tokens", "12"]
    assert main("size", SizeOptions, [*common, *live]) == 0
    lively = load_bundle(tmp_path / "live" / "bundle").policy.size_network
    assert lively is not None and lively.layout.length_range == known
    assert main("size", SizeOptions, [*common, *size, "--lr", "0.5"]) == 2
    assert "use the same settings" in capsys.readouterr().err
    beside = ["--save_path", str(tmp_path / "again"), "--rl_token_model_path", str(tmp_path / "size" / "bundle")]
    assert main("depth", DepthOptions, [*common, *size[2:], *beside, "--sizes", "4,8"]) == 2
    assert "the size policy beside it chooses among 4, 12; leave --sizes out" in capsys.readouterr().err


def test_latencies_that_a_run_goes_by_are_not_replaced(
    data: Path, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*small, "--total_timesteps", "64", "--n_steps", "64", "--pi_arch", "8", "--vf_arch", "8",
               "--max_new_tokens", "8",
               "--calibration_seconds", "0.01", "--data_dir", str(data), "--dataset_train", "humaneval"]  # fmt: skip
    first, begun = tmp_path / "first", tmp_path / "begun"
    kept = begun / "latency.json"
    assert main("size", SizeOptions, [*command, "--save_path", str(first), "--dtype", "float32"]) == 0
    given = [*command, "--save_path", str(begun), "--traces", str(first / "traces")]
    begun.mkdir()
    other = LatencyModel.load(first / "latency.json")
    replace(other, setup={**other.setup, "threads": 99}).save(kept)
    before = kept.read_bytes()
    assert main("size", SizeOptions, [*given, "--dtype", "float32"]) == 0  # nothing goes by them
    measured = kept.read_bytes()
    assert measured != before
    capsys.readouterr()
    assert main("size", SizeOptions, [*given, "--dtype", "bfloat16"]) == 2
    said = capsys.readouterr().err
    assert f"measured with dtype 'float32', and here it is 'bfloat16'; the run in {begun / 'ppo'} goes by" in said
    assert kept.read_bytes() == measured
    assert main("size", SizeOptions, [*given, "--dtype", "float32"]) == 0  # it goes on, or is done


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "there is nothing to record; give --traces"),
        (["--pi_arch", "many"], "'many' is no list of whole numbers"),
        (["--reward", "fame"], "no reward 'fame'"),
        (["--observation", "all"], "there is no observation 'all'"),
        (["--gamma", "2"], "gamma is 2.0"),
        (["--lr", "inf"], "lr is inf"),
        (["--seed", "-1"], "seed is -1"),
        (["--calibration_seconds", "-1"], "seconds -1.0 is out of range"),
        (["--max_new_tokens", "0"], "max_new_tokens is 0"),
        (["--threads", "100000"], "threads is 100000"),
        (["--depth_limit", "0"], "the depth limit is 0"),
        (["--rl_checkpoint_path", "nowhere.zip"], "no nowhere.zip"),
        (["--rl_token_model_path", "nowhere"], "policy bundle nowhere"),
        (["--traces", "nowhere"], "no traces in nowhere"),
        (["--latency", "nowhere"], "cannot read nowhere"),
        (["--sizes", "9,3"], "no ladder"),
        (["--live", "--count", "2"], "count is 2"),
        (["--traces", "nowhere", "--limit", "3"], "--limit is of recording, and --traces names what is recorded"),
        (["--latency", "nowhere", "--calibration_seconds", "3"], "--calibration_seconds is of calibrating"),
    ],
)
def test_one_sentence_about_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert main("depth", DepthOptions, ["--save_path", str(tmp_path), *arguments]) == 2
    said = capsys.readouterr().err
    assert complaint in said and said.count("\n") == 1


def test_lists_of_numbers() -> None:
    assert whole_numbers("1024,256") == whole_numbers("[1024, 256]") == whole_numbers("1024 256") == (1024, 256)
    assert whole_numbers("") == ()
    with pytest.raises(NotImplementedError):
        _ = Options(save_path=Path()).partner
