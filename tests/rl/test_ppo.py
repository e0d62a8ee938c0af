"""Training with PPO: the paper's settings, learning where the best decision is plain, and going on after a kill."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ltd.errors import InputError
from ltd.policies.learned.network import Network
from ltd.policies.learned.observation import Layout
from ltd.policies.learned.sb3_import import read_network

pytest.importorskip("stable_baselines3")

from stable_baselines3 import PPO
from toy_outcomes import DEPTH, SIZES, TINY, constant_depth, stage, toy

from ltd_rl.environments.cycle_episodes import CycleEpisodes
from ltd_rl.environments.replay_env import ReplayVecEnv
from ltd_rl.traces.observations import Role
from ltd_rl.traces.outcomes import Outcomes, Total, total
from ltd_rl.trainers import checkpoints, ppo
from ltd_rl.trainers.partners import random_depths
from ltd_rl.trainers.ppo import PPOResult, make_model
from ltd_rl.trainers.ppo_config import PPOConfig
from ltd_rl.trainers.validation import Judge

QUICK: dict[str, Any] = {"lr": 3e-3, "n_steps": 256, "batch_size": 64, "n_epochs": 6, "count": 4, "eval_freq": 512}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """What is to be the same bit by bit runs on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def training() -> Outcomes:
    return toy(0)


@pytest.fixture(scope="module")
def validation() -> Outcomes:
    return toy(1, 5)


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
    assert (model.gamma, model.ent_coef, model.gae_lambda, model.target_kl) == (0.9, 0.01, 0.95, None)
    layers = [tuple(p.shape) for p in model.policy.mlp_extractor.parameters() if p.ndim == 2]
    assert layers == [(1024, 68), (256, 1024), (1024, 68), (256, 1024)]
    assert "ReLU" in str(model.policy.mlp_extractor) and "Tanh" not in str(model.policy.mlp_extractor)
    other = make_model(
        replace(config, activation="tanh", target_kl=0.02), stage("size", training, validation).environment(config)
    )
    assert other.target_kl == 0.02 and "ReLU" not in str(other.policy.mlp_extractor)


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
        ({"activation": "elu"}, "activation is 'elu'"),
        ({"target_kl": 0.0}, "target_kl is 0"),
    ],
)
def test_bad_settings(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        PPOConfig.paper("size", **changes)


# --- learning ---


@pytest.mark.parametrize(("role", "steps"), [("depth", 2048), ("size", 4096)])
@pytest.mark.parametrize("reward", ["ratio", "renewal"])
def test_it_learns_what_is_plain(
    training: Outcomes, validation: Outcomes, tmp_path: Path, role: Role, steps: int, reward: str
) -> None:
    partner: Any = len(SIZES) - 1 if role == "depth" else constant_depth(training)
    lesson = stage(role, training, validation, partner=partner, reward=reward)
    config = PPOConfig.paper(role, **{**QUICK, "total_timesteps": steps}, pi_arch=(32,), vf_arch=(32,))
    found = lesson.train(config, tmp_path)
    easy = validation.scores[:, 0] > -4
    if role == "depth":
        best = total(validation, np.where(easy, DEPTH, 0), len(SIZES) - 1)
        constant = [total(validation, depth, len(SIZES) - 1) for depth in range(DEPTH + 1)]
    else:
        best = total(validation, DEPTH, np.where(easy, len(SIZES) - 1, 0))
        constant = [total(validation, DEPTH, step) for step in range(len(SIZES))]
    assert found.best["throughput"] > 0.99 * best.throughput > 1.1 * max(each.throughput for each in constant)


def test_a_cycle_is_an_episode(training: Outcomes, validation: Outcomes) -> None:
    config = PPOConfig.paper("depth", **TINY)
    env = CycleEpisodes(stage("depth", training, validation).environment(config), "depth")
    env.reset()
    actions = [[1, 0, 1, 1], [1, 0, 0, 1], [1, 1, 1, 0]]  # continue to the limit, or stop
    dones = [env.step(np.array(step))[2].tolist() for step in actions]
    assert dones == [[False, True, False, False], [True, True, True, True], [False, False, False, True]]
    size = CycleEpisodes(stage("size", training, validation).environment(config), "size")
    size.reset()
    assert size.step(np.zeros(4, dtype=int))[2].all()


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


def assert_same_run(whole: PPOResult, killed: PPOResult, folder: Path) -> None:
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
    assert list((tmp_path / "tensorboard").glob("events*")) and not list(tmp_path.glob("step_*"))  # unless told to


def test_other_settings_are_refused(training: Outcomes, validation: Outcomes, tmp_path: Path) -> None:
    lesson, config = stage("size", training, validation), PPOConfig.paper("size", **TINY, total_timesteps=256)
    lesson.train(config, tmp_path)
    for other, settings, complaint in (
        (lesson, replace(config, lr=1.0), "lr 0.003, and this one has 1.0"),
        (replace(lesson, reward="time"), config, "reward 'ratio', and this one has 'time'"),
        (replace(lesson, training=toy(2)), config, "other traces or latencies"),
        (replace(lesson, partner=constant_depth(training)), config, "another policy beside the one in training"),
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


# --- the weights and the optimiser of another run ---


def moments(model: Any) -> list[torch.Tensor]:
    return [entry["exp_avg"] for entry in model.policy.optimizer.state_dict()["state"].values()]


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_run_begins_with_the_networks_and_the_optimiser(
    training: Outcomes, validation: Outcomes, tmp_path: Path, activation: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    lesson = stage("size", training, validation)
    config = PPOConfig.paper("size", **TINY, total_timesteps=256, activation=activation)
    found = lesson.train(config, tmp_path / "first")
    assert found.network.activation == activation
    model, start = make_model(config, lesson.environment(config)), tmp_path / "first" / "best.zip"
    said = checkpoints.start_from(start, model, activation)
    assert (
        said
        == f"the run begins with the networks and the optimiser of {start}, after 256 steps; its own steps begin at 0"
    )
    saved = PPO.load(start, device="cpu")
    assert len(moments(model)) == len(list(model.policy.parameters())) and any(m.abs().sum() for m in moments(model))
    assert all(torch.equal(a, b) for a, b in zip(moments(model), moments(saved), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model.policy.parameters(), saved.policy.parameters(), strict=True))
    assert model.num_timesteps == 0
    lesson.train(config, tmp_path / "second", start)
    assert said in capsys.readouterr().err
    lesson.train(config, tmp_path / "second", start)  # which is done
    assert "begins with" not in capsys.readouterr().err


@pytest.mark.parametrize("state", ["none", "code", "empty", "other", "shapes"])
def test_a_run_that_takes_only_the_networks_says_so(
    training: Outcomes, validation: Outcomes, tmp_path: Path, state: str
) -> None:
    lesson, config = stage("size", training, validation), PPOConfig.paper("size", **TINY, total_timesteps=256)
    lesson.train(config, tmp_path)
    model = make_model(config, lesson.environment(config))
    whole, start = PPO.load(tmp_path / "best.zip", device="cpu").policy.optimizer.state_dict(), tmp_path / "start.zip"
    if state == "other":
        kept = [torch.nn.Parameter(parameter.detach().clone()) for parameter in model.policy.parameters()]
        other = torch.optim.RMSprop(kept)
        sum(parameter.sum() for parameter in kept).backward()  # type: ignore[union-attr]
        other.step()
        whole = other.state_dict()
    for entry in whole["state"].values() if state == "shapes" else []:
        entry["exp_avg"] = torch.zeros(1)
    changed = {"empty": {}, "code": {"state": checkpoints.start_from}}.get(state, whole)
    with zipfile.ZipFile(tmp_path / "best.zip") as old, zipfile.ZipFile(start, "w") as new:
        for name in old.namelist():
            if name != "policy.optimizer.pth":
                new.writestr(name, old.read(name))
            elif state != "none":
                torch.save(changed, buffer := io.BytesIO())
                new.writestr(name, buffer.getvalue())
    before = moments(model)
    assert "only the networks, for it has no state of this optimiser" in checkpoints.start_from(start, model)
    assert before == moments(model) == []
    saved = PPO.load(tmp_path / "best.zip", device="cpu").policy.parameters()
    assert all(torch.equal(a, b) for a, b in zip(model.policy.parameters(), saved, strict=True))


def test_a_start_with_another_activation_is_refused(training: Outcomes, validation: Outcomes, tmp_path: Path) -> None:
    lesson, config = stage("size", training, validation), PPOConfig.paper("size", **TINY, total_timesteps=256)
    lesson.train(replace(config, activation="tanh"), tmp_path / "tanh")
    with pytest.raises(InputError, match=r"have tanh between their layers, and those that are to be trained relu"):
        lesson.train(config, tmp_path / "relu", tmp_path / "tanh" / "best.zip")
