"""Training with PPO: the paper's settings, learning where the best decision is plain, and going on after a kill."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ltd.errors import InputError
from ltd.policies.bundle import load_bundle
from ltd.policies.learned import Learned, Network, Setting
from ltd.policies.observation import Layout
from ltd.policies.sb3 import read_network
from ltd.tree import candidate_count

pytest.importorskip("stable_baselines3")

from ltd_rl import checkpoints, ppo
from ltd_rl.command import Options, main, whole_numbers
from ltd_rl.config import PPOConfig
from ltd_rl.iterate import Schedule, iterate, validated
from ltd_rl.judge import Judge
from ltd_rl.observations import Role, chosen_steps, stops
from ltd_rl.outcomes import Outcomes, Total, total
from ltd_rl.partners import RANDOM, depth_table, nearest_step, random_depths, size_table
from ltd_rl.ppo import Trained, make_model
from ltd_rl.replay_env import ReplayVecEnv
from ltd_rl.splits import held_out, split_generations
from ltd_rl.stage import Stage, constant_policy, layout_named, with_network
from ltd_rl.train_depth import DepthOptions
from ltd_rl.train_size import SizeOptions

WIDTH, DEPTH, SIZES = 2, 2, (1, 4, 8)
OFFICIAL = (
    "base_model_path ea_model_path rl_checkpoint_path data_dir dataset_train save_path total_timesteps lr "
    "warmup_timesteps n_steps batch_size n_epochs gamma ent_coef eval_freq pi_arch vf_arch"
)
OURS = "traces latency reward observation sizes depth_limit live seed"
ROOT = Path(__file__).parents[1]
QUICK: dict[str, Any] = {"lr": 3e-3, "n_steps": 256, "batch_size": 64, "n_epochs": 6, "count": 4, "eval_freq": 512}
TINY: dict[str, Any] = {**QUICK, "n_steps": 128, "n_epochs": 2, "eval_freq": 256, "pi_arch": (8,), "vf_arch": (8,)}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """What is to be the same bit by bit runs on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def toy(seed: int, generations: int = 20, length: int = 30) -> Outcomes:
    """Where the scores are high, the deepest and largest tree gains 5 tokens; else no tree gains more than 1."""
    generator, positions = np.random.default_rng(seed), generations * length
    easy = generator.random(positions) < 0.5
    depths, sizes = np.arange(DEPTH + 1)[:, None], np.array(SIZES)
    most = 1 + 2 * np.minimum(depths, np.arange(len(SIZES)))
    gains = np.where(easy[:, None, None], most, 1)
    ends = np.repeat(np.arange(1, generations + 1) * length, length)
    gains = np.minimum(gains, (ends - np.arange(positions))[:, None, None])
    seconds = np.broadcast_to(1 + depths + 0.2 * sizes, gains.shape).astype(np.float32)
    scores = np.where(easy, -0.5, -8.0)[:, None] + 0.1 * generator.standard_normal((positions, 10))
    return Outcomes(
        width=WIDTH,
        sizes=SIZES,
        starts=np.arange(generations + 1) * length,
        lengths=np.full(positions, 50),
        gains=gains,
        seconds=seconds,
        plain_seconds=np.ones(positions, dtype=np.float32),
        scores=scores.astype(np.float32),
        states=np.zeros((positions, 0), dtype=np.float32),
    )


@pytest.fixture(scope="module")
def training() -> Outcomes:
    return toy(0)


@pytest.fixture(scope="module")
def validation() -> Outcomes:
    return toy(1, 5)


def stage(role: Role, training: Outcomes, validation: Outcomes, **changes: Any) -> Stage:
    partner = len(SIZES) - 1 if role == "depth" else RANDOM
    made = Stage(role, layout_named("paper", role, training), "ratio", partner, training, validation)
    return replace(made, **changes)


# --- settings ---


def test_the_defaults_are_the_papers() -> None:
    depth, size = PPOConfig.paper("depth"), PPOConfig.paper("size")
    assert (depth.gamma, depth.total_timesteps, depth.pi_arch) == (0.999, 1_000_000, (1024,))
    assert (size.gamma, size.total_timesteps, size.pi_arch) == (0.9, 100_000, (1024, 256))
    for config in (depth, size):
        assert (config.vf_arch, config.n_steps, config.batch_size, config.n_epochs) == ((1024, 256), 2048, 256, 20)
        assert (config.ent_coef, config.lr, config.warmup) == (0.01, 1e-3, config.total_timesteps / 100)


def test_the_learning_rate_goes_up_and_then_down() -> None:
    config = PPOConfig.paper("size", total_timesteps=1000, lr=2.0)
    rates = [config.learning_rate(1 - step / 1000) for step in (0, 5, 10, 505, 1000, 1100)]
    np.testing.assert_allclose(rates, [0, 1, 2, 1, 0, 0], atol=1e-9)
    assert PPOConfig.paper("size", warmup_timesteps=0).learning_rate(1.0) == 1e-3


def test_the_model_is_built_as_it_says(training: Outcomes, validation: Outcomes) -> None:
    config = PPOConfig.paper("size")
    model = make_model(config, stage("size", training, validation).environment(config))
    assert (model.n_steps * model.n_envs, model.batch_size, model.n_epochs) == (2048, 256, 20)
    assert (model.gamma, model.ent_coef, model.gae_lambda) == (0.9, 0.01, 0.95)
    layers = [tuple(p.shape) for p in model.policy.mlp_extractor.parameters() if p.ndim == 2]
    assert layers == [(1024, 68), (256, 1024), (1024, 68), (256, 1024)]
    assert "ReLU" in str(model.policy.mlp_extractor) and "Tanh" not in str(model.policy.mlp_extractor)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"total_timesteps": 0}, "total_timesteps is 0"),
        ({"gamma": 1.1}, "gamma is 1.1"),
        ({"lr": -1.0}, "lr is -1"),
        ({"pi_arch": (8,) * 8}, "fewer than 8"),
        ({"vf_arch": (0,)}, "vf_arch"),
        ({"count": 3}, "multiple of the 3 environments"),
        ({"batch_size": 100}, "multiple"),
        ({"warmup_timesteps": 100_000}, "warmup_timesteps is 100000"),
    ],
)
def test_bad_settings(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        PPOConfig.paper("size", **changes)


# --- learning ---


@pytest.mark.parametrize(("role", "steps"), [("depth", 6144), ("size", 4096)])
@pytest.mark.parametrize("observation", ["paper"])
def test_it_learns_what_is_plain(
    training: Outcomes, validation: Outcomes, tmp_path: Path, role: Role, steps: int, observation: str
) -> None:
    partner: Any = len(SIZES) - 1 if role == "depth" else constant_depth(training)
    lesson = stage(role, training, validation, partner=partner, layout=layout_named(observation, role, training))
    config = PPOConfig.paper(role, **{**QUICK, "total_timesteps": steps, "gamma": 0.9}, pi_arch=(32,), vf_arch=(32,))
    found = lesson.train(config, tmp_path)
    easy = validation.scores[:, 0] > -4
    table = lesson._decisions(validation)
    if role == "depth":
        best = total(validation, np.where(easy, DEPTH, 0), len(SIZES) - 1)
    else:
        best = total(validation, table, np.where(easy, len(SIZES) - 1, 0))
    assert found.best["throughput"] > 0.99 * best.throughput
    assert found.evaluations[0]["throughput"] < found.best["throughput"]


def constant_depth(outcomes: Outcomes) -> Learned:
    """A policy whose depth network always goes on."""
    layout = layout_named("paper", "depth", outcomes)
    assert isinstance(layout, Layout)
    always = Network(layout, (torch.zeros(2, layout.width), torch.tensor([0.0, 1.0])))
    return with_network(constant_policy(outcomes, Setting(WIDTH)), "depth", always, outcomes)


# --- going on ---


def killer(steps: int) -> Callable[[ReplayVecEnv], Any]:
    """Lets an environment step so many times."""
    usual, left = ReplayVecEnv.step_wait, steps

    def step_wait(env: ReplayVecEnv) -> Any:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        return usual(env)

    return step_wait


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(folder / ppo.CHECKPOINT, weights_only=True)
    return {**state["policy"], **{f"{n}": v["exp_avg"] for n, v in state["optimizer"]["state"].items()}}


@pytest.mark.parametrize("role", ["depth", "size"])
@pytest.mark.parametrize("reward", ["ratio", "renewal"])
def test_a_killed_run_ends_the_same(
    training: Outcomes, validation: Outcomes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: Role, reward: str
) -> None:
    lesson = stage(role, training, validation, reward=reward)
    config = PPOConfig.paper(role, **TINY, total_timesteps=1000)
    whole = lesson.train(config, tmp_path / "whole")
    for steps in (3, 70, 130, 20):  # before the first checkpoint, after one, over two, …
        monkeypatch.setattr(ReplayVecEnv, "step_wait", killer(steps))
        with pytest.raises(KeyboardInterrupt):
            lesson.train(config, tmp_path / "killed")
        monkeypatch.undo()
    killed = lesson.train(config, tmp_path / "killed")
    assert_same_run(whole, killed, tmp_path)
    monkeypatch.setattr(ReplayVecEnv, "step_wait", killer(0))  # nothing is left to do
    assert lesson.train(config, tmp_path / "killed").evaluations == whole.evaluations


def assert_same_run(whole: Trained, killed: Trained, folder: Path) -> None:
    assert killed.evaluations == whole.evaluations and len(whole.evaluations) == 4
    for one, other in zip(whole.network.weights, killed.network.weights, strict=True):
        assert torch.equal(one, other)
    expected, found = weights(folder / "whole"), weights(folder / "killed")
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_kill_between_the_two_files_loses_nothing(
    training: Outcomes, validation: Outcomes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lesson, config = stage("size", training, validation), PPOConfig.paper("size", **TINY, total_timesteps=1000)
    whole, usual, calls = lesson.train(config, tmp_path / "whole"), checkpoints.save_checkpoint, 0

    def killed(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        usual(*arguments)

    monkeypatch.setattr(ppo, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        lesson.train(config, tmp_path / "killed")
    monkeypatch.undo()
    assert_same_run(whole, lesson.train(config, tmp_path / "killed"), tmp_path)


class Scripted(Judge):
    """Finds throughputs that rise and then fall."""

    throughputs = (1.0, 3.0, 5.0, 4.0)
    networks: list[Network]

    def total(self, network: Network) -> Total:
        self.networks.append(network)
        return Total(int(100 * self.throughputs[len(self.networks) - 1]), 100.0, 50)


def test_the_best_is_kept(training: Outcomes, validation: Outcomes, tmp_path: Path) -> None:
    lesson, config = stage("size", training, validation), PPOConfig.paper("size", **TINY, total_timesteps=1000)
    layout, Scripted.networks = lesson.layout, []
    judge = Scripted(validation, "size", layout, random_depths(validation))
    found = ppo.train(config, lesson.environment(config), judge, tmp_path, {})
    assert [evaluation["throughput"] for evaluation in found.evaluations] == [1, 3, 5, 4]
    assert [evaluation["timesteps"] for evaluation in found.evaluations] == [256, 512, 768, 1024]
    assert found.best["timesteps"] == 768 and found.best["acceptance_length"] == 10
    assert isinstance(layout, Layout)
    for read in (found.network, read_network(tmp_path / "best.zip", layout)):
        assert all(torch.equal(a, b) for a, b in zip(read.weights, Scripted.networks[2].weights, strict=True))
    assert not torch.equal(found.network.weights[0], Scripted.networks[3].weights[0])
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_other_settings_are_refused(training: Outcomes, validation: Outcomes, tmp_path: Path) -> None:
    lesson, config = stage("size", training, validation), PPOConfig.paper("size", **TINY, total_timesteps=256)
    lesson.train(config, tmp_path)
    for other, settings, complaint in (
        (lesson, replace(config, lr=1.0), "lr 0.003, and this one has 1.0"),
        (replace(lesson, reward="time"), config, "reward 'ratio', and this one has 'time'"),
        (replace(lesson, training=toy(2)), config, "traces_and_latencies"),
        (replace(lesson, partner=constant_depth(training)), config, "partner 'random'"),
    ):
        with pytest.raises(InputError, match=complaint):
            other.train(settings, tmp_path)
    (tmp_path / ppo.CHECKPOINT).write_bytes(b"damaged")
    with pytest.raises(InputError, match="is damaged"):
        lesson.train(config, tmp_path)


def test_a_run_can_begin_with_the_weights_of_another(training: Outcomes, validation: Outcomes, tmp_path: Path) -> None:
    lesson, config = stage("size", training, validation), PPOConfig.paper("size", **TINY, total_timesteps=256)
    lesson.train(config, tmp_path / "first")
    model = make_model(config, lesson.environment(config))
    checkpoints.start_from(tmp_path / "first" / "best.zip", model)
    network = Judge(validation, "size", lesson.layout, random_depths(validation)).network(model.policy.state_dict())
    best = lesson.train(config, tmp_path / "first").network
    assert all(torch.equal(a, b) for a, b in zip(network.weights, best.weights, strict=True))
    with pytest.raises(InputError, match="not those that are to be trained"):
        lesson.train(replace(config, pi_arch=(9,)), tmp_path / "second", tmp_path / "first" / "best.zip")
    with pytest.raises(InputError, match="not a zip file"):
        lesson.train(config, tmp_path / "third", tmp_path / "first" / "run.jsonl")


# --- partners, splits, iterations ---


def test_partners_as_tables(training: Outcomes) -> None:
    assert [nearest_step((20, 40, 60, 80)), nearest_step((2, 4, 8)), nearest_step((50, 70))] == [2, 2, 0]
    assert (size_table(1, training) == 1).all() and size_table(1, training).shape == (600, 3)
    always = constant_depth(training)
    assert (depth_table(always, training) == DEPTH).all()
    layout = layout_named("paper", "size", training)
    assert isinstance(layout, Layout)
    by_score = torch.zeros(3, layout.width)
    by_score[0, 0] = -1.0
    policy = with_network(always, "size", Network(layout, (by_score, torch.tensor([0.0, 4.0, 0.0]))), training)
    table = size_table(policy, training)
    assert (table == np.where(training.scores[:, 0] > -4, 1, 0)[:, None]).all()
    np.testing.assert_array_equal(chosen_steps(policy, training, stops(policy, training)), table[:, DEPTH])
    assert set(random_depths(training).tolist()) == {1, 2}


@pytest.mark.parametrize(
    ("partner", "complaint"),
    [
        (lambda outcomes: size_table(3, outcomes), "step 3 is not one of the 3"),
        (lambda outcomes: size_table(constant_depth(outcomes), outcomes), "with a size network"),
        (lambda outcomes: depth_table(constant_policy(outcomes, Setting(WIDTH)), outcomes), "no depth network"),
        (lambda outcomes: depth_table(replace(constant_depth(outcomes), depth_limit=3), outcomes), "to depth 3"),
        (lambda outcomes: stage("depth", outcomes, outcomes, partner=RANDOM), "not a random one"),
        (lambda outcomes: stage("size", outcomes, outcomes, partner=1), "not a constant"),
        (lambda outcomes: layout_named("other", "size", outcomes), "paper and summary"),
    ],
)
def test_partners_that_do_not_fit(training: Outcomes, partner: Callable[[Outcomes], Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        partner(training)


def test_a_fifth_is_held_out() -> None:
    train, kept = held_out(100)
    assert (len(train), len(kept)) == (80, 20) and sorted(train + kept) == list(range(100))
    assert held_out(100) == (train, kept) != held_out(100, seed=1)
    assert [len(side) for side in held_out(2)] == [1, 1] and [len(side) for side in held_out(3, 0.9)] == [1, 2]
    for count, share in ((1, 0.2), (10, 0.0), (10, 1.0)):
        with pytest.raises(InputError):
            held_out(count, share)


def test_turns_of_a_question_stay_together() -> None:
    from types import SimpleNamespace

    turns: Any = [SimpleNamespace(task="a", question_id=str(n), turn=t) for n in range(10) for t in range(2)]
    train, kept = split_generations(turns)
    assert (len(train), len(kept)) == (16, 4)
    assert not {turn.question_id for turn in train} & {turn.question_id for turn in kept}


def test_the_iterative_schedule(training: Outcomes, validation: Outcomes, tmp_path: Path) -> None:
    small = {**TINY, "total_timesteps": 512}
    schedule = Schedule(
        training,
        validation,
        Setting(WIDTH),
        depth=PPOConfig.paper("depth", **small),
        size=PPOConfig.paper("size", **small),
    )
    best = iterate(schedule, tmp_path)
    stages = {"iter0-depth", "iter0-size", "iter1-size", "iter2-depth", "iter3-size"}
    assert {path.name for path in tmp_path.iterdir()} == {*stages, "iterations.json", "bundle"}
    history = json.loads((tmp_path / "iterations.json").read_text())
    assert [entry["iteration"] for entry in history] == [0, 1, 2, 3]
    bundle = load_bundle(tmp_path / "bundle")
    top = max(entry["throughput"] for entry in history)
    for policy in (best, bundle.policy):
        assert validated(policy, validation)["throughput"] == top == bundle.validation["throughput"]
    assert (best.sizes, best.depth_limit) == (SIZES, DEPTH)
    (tmp_path / "iterations.json").unlink()
    iterate(schedule, tmp_path)
    assert json.loads((tmp_path / "iterations.json").read_text()) == history


# --- scripts ---


@pytest.mark.parametrize("script", ["train_depth", "train_size"])
@pytest.mark.parametrize("as_module", [False, True])
@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_the_scripts_say_what_they_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], script: str, as_module: bool
) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.setenv("COLUMNS", "200")
    run, where = (runpy.run_module, "ltd_rl") if as_module else (runpy.run_path, str(ROOT / "rl"))
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


def test_both_scripts_from_models_to_a_bundle(
    data: Path,
    tiny_target: Callable[[str], Path],
    tiny_head: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    common = ["--base_model_path", str(tiny_target("llama")), "--ea_model_path", str(tiny_head("llama")),
              "--dtype", "float32", "--sizes", "4,12", "--depth_limit", "2", "--total_timesteps", "256",
              "--n_steps", "128", "--batch_size", "64", "--n_epochs", "1", "--eval_freq", "128",
              "--pi_arch", "[8]", "--vf_arch", "8,8"]  # fmt: skip
    depth = ["--save_path", str(tmp_path / "depth"), "--data_dir", str(data), "--dataset_train", "humaneval",
             "--max_new_tokens", "12", "--calibration_seconds", "0.01"]  # fmt: skip
    assert main("depth", DepthOptions, [*common, *depth]) == 0
    first = load_bundle(tmp_path / "depth" / "bundle").policy
    assert first.sizes == (12,) and first.size_network is None and first.depth_network is not None
    assert first.made_for.width == 10 and first.made_for.head_sha256 is not None
    assert (tmp_path / "depth" / "traces").is_dir() and (tmp_path / "depth" / "latency.json").is_file()
    size = ["--save_path", str(tmp_path / "size"), "--traces", str(tmp_path / "depth" / "traces"), "--latency",
            str(tmp_path / "depth" / "latency.json")]  # fmt: skip
    zipped = str(tmp_path / "depth" / "ppo" / "best.zip")
    for partner in (str(tmp_path / "depth" / "bundle"), zipped):  # the same policy: a rerun goes on, or is done
        assert main("size", SizeOptions, [*common, *size, "--rl_depth_model_path", partner]) == 0
    both = load_bundle(tmp_path / "size" / "bundle").policy
    assert both.sizes == (4, 12) and both.size_network is not None and both.depth_network is not None
    assert both.size_network.layout.slots == candidate_count(10, 2)
    assert "tokens/s on the held-out questions" in capsys.readouterr().err
    live = ["--save_path", str(tmp_path / "live"), *size[2:], "--live", "--max_new_tokens", "12"]
    assert main("size", SizeOptions, [*common, *live]) == 0
    assert main("size", SizeOptions, [*common, *size, "--lr", "0.5"]) == 2
    assert "use the same settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "there is nothing to record; give --traces"),
        (["--pi_arch", "many"], "'many' is no list of whole numbers"),
        (["--reward", "fame"], "no reward 'fame'"),
        (["--observation", "all"], "there is no observation 'all'"),
        (["--gamma", "2"], "gamma is 2.0"),
        (["--depth_limit", "0"], "the depth limit is 0"),
        (["--rl_checkpoint_path", "nowhere.zip"], "no nowhere.zip"),
        (["--rl_token_model_path", "nowhere"], "policy bundle nowhere"),
        (["--traces", "nowhere"], "no traces in nowhere"),
        (["--latency", "nowhere"], "cannot read nowhere"),
        (["--sizes", "9,3"], "no ladder"),
        (["--live", "--count", "2"], "count is 2"),
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
