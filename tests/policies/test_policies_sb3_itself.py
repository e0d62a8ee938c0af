"""Importing zips that Stable-Baselines3 itself saved: what it can make that is more than an MlpPolicy is refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ltd
from ltd.policies.learned.observation import depth_layout, size_layout
from ltd.policies.learned.sb3_import import import_policies, read_network, read_saved

pytest.importorskip("stable_baselines3")

import gymnasium
import stable_baselines3 as sb3
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

ARCHITECTURE = {"pi": [24, 8], "vf": [16]}
DEPTH, SIZE = 128, 1268
RELU = {"activation_fn": nn.ReLU}
BOX = spaces.Box(-float("inf"), float("inf"), (DEPTH,))


class Encoder(BaseFeaturesExtractor):
    """A feature extractor with weights that keeps the width."""

    def __init__(self, space: Any) -> None:
        super().__init__(space, DEPTH)
        self.linear = nn.Linear(DEPTH, DEPTH)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.linear(observations)


class Doubling(ActorCriticPolicy):
    """A policy of the same tensors that does something else with them."""

    def _predict(self, observation: torch.Tensor, deterministic: bool = False) -> torch.Tensor:
        return super()._predict(2 * observation, deterministic)


class Plus(nn.ReLU):
    """An activation of our own."""


def model(policy: Any = "MlpPolicy", observed: Any = BOX, actions: Any = 2, kind: Any = sb3.PPO, **kwargs: Any) -> Any:
    """An untrained model; `actions` is a space or how many."""

    class Nothing(gymnasium.Env[Any, Any]):
        observation_space = observed
        action_space = spaces.Discrete(actions) if isinstance(actions, int) else actions

    return kind(policy, Nothing(), policy_kwargs={"net_arch": ARCHITECTURE, **kwargs}, seed=0, device="cpu")


def saved(file: Path, *arguments: Any, **kwargs: Any) -> Path:
    model(*arguments, **kwargs).save(file)
    return file


USUAL: list[dict[str, Any]] = [
    {},
    RELU,
    {"activation_fn": nn.Tanh, "ortho_init": False, "optimizer_kwargs": {"eps": 1e-4}},
    {**RELU, "share_features_extractor": False},  # there is nothing in it to share
    {**RELU, "net_arch": [8]},
    {**RELU, "net_arch": []},
    {**RELU, "net_arch": {"pi": [], "vf": [8]}},
    {"activation_fn": partial(nn.ReLU, inplace=True)},
    {"kind": sb3.A2C},
]


@pytest.mark.parametrize("kwargs", USUAL)
def test_a_network_acts_as_in_stable_baselines3(tmp_path: Path, kwargs: dict[str, Any]) -> None:
    made = model(**kwargs)
    made.save(tmp_path / "depth.zip")
    network = read_network(tmp_path / "depth.zip", depth_layout(10))
    function = torch.tanh if network.uses_tanh else torch.relu
    observations = torch.randn(200, DEPTH)
    values = observations
    layers = list(zip(network.weights[::2], network.weights[1::2], strict=True))
    for number, (weight, bias) in enumerate(layers, start=1):
        values = nn.functional.linear(values, weight, bias)
        values = function(values) if number < len(layers) else values
    expected, _ = made.predict(observations.numpy(), deterministic=True)
    assert values.argmax(1).tolist() == expected.tolist() and len(set(expected.tolist())) == 2


UNUSUAL: list[tuple[dict[str, Any], str]] = [
    ({"activation_fn": nn.ELU}, "trained with ELU"),
    ({"activation_fn": partial(nn.LeakyReLU, 0.2)}, "trained with LeakyReLU"),
    ({"activation_fn": Plus}, "trained with .*Plus"),
    ({"activation_fn": nn.PReLU}, "trained with PReLU"),
    ({**RELU, "features_extractor_class": Encoder}, "features_extractor_class = .*Encoder"),
    ({**RELU, "features_extractor_class": Encoder, "share_features_extractor": False}, "Encoder"),
    ({**RELU, "policy": Doubling}, "of the class"),
    ({**RELU, "policy": "CnnPolicy", "observed": spaces.Box(0, 255, (36, 36, 3), "uint8")}, "ActorCriticCnnPolicy"),
    ({**RELU, "policy": "MultiInputPolicy", "observed": spaces.Dict({"x": BOX})}, "MultiInputActorCriticPolicy"),
    ({**RELU, "observed": spaces.Box(-1.0, 1.0, (2, DEPTH // 2))}, r"the shape \[2, 64\]"),
    ({**RELU, "observed": spaces.Discrete(DEPTH)}, "observations .* are Discrete"),
    ({**RELU, "observed": spaces.Box(-1.0, 1.0, (DEPTH - 1,))}, "does not read 128 numbers"),
    ({**RELU, "actions": spaces.MultiBinary(2)}, "actions .* are MultiBinary"),
    ({**RELU, "actions": spaces.MultiDiscrete([2, 2])}, "actions .* are MultiDiscrete"),
    ({**RELU, "actions": spaces.Box(-1.0, 1.0, (2,))}, "actions .* are Box"),
    ({"kind": sb3.DQN, "net_arch": [8]}, "DQNPolicy"),
]


@pytest.mark.parametrize(("kwargs", "message"), UNUSUAL)
def test_what_is_more_than_its_layers_is_refused(tmp_path: Path, kwargs: dict[str, Any], message: str) -> None:
    file = saved(tmp_path / "depth.zip", **kwargs)
    with pytest.raises(ltd.InputError, match=message):
        read_network(file, depth_layout(10))


def test_one_who_knows_better_about_the_activation_still_hears_of_its_weights(tmp_path: Path) -> None:
    file = saved(tmp_path / "depth.zip", activation_fn=nn.PReLU)
    with pytest.raises(ltd.InputError, match=r"policy_net\.1\.weight, .* which an MlpPolicy does not have"):
        read_network(file, depth_layout(10), states_relu=True)


def test_the_official_size_policy_has_24_actions(tmp_path: Path) -> None:
    observed = spaces.Box(-float("inf"), float("inf"), (SIZE,))
    file = saved(tmp_path / "size.zip", observed=observed, actions=24)
    policy = import_policies(None, file).policy
    assert policy.sizes == tuple(range(10, 241, 10)) and policy.size_network is not None
    assert (policy.size_network.layout, policy.size_network.activation) == (size_layout(10, 12), "tanh")


def test_everything_that_training_goes_on_from_is_read(tmp_path: Path) -> None:
    made = model(kind=partial(sb3.PPO, n_steps=8, batch_size=4, n_epochs=1), observed=spaces.Box(-1, 1, (DEPTH,)))
    made.env.envs[0].unwrapped.reset = lambda **_: (made.observation_space.sample(), {})
    made.env.envs[0].unwrapped.step = lambda _: (made.observation_space.sample(), 1.0, False, False, {})
    made.learn(16).save(tmp_path / "depth.zip")
    found = read_saved(tmp_path / "depth.zip")
    assert (found.timesteps, found.activation) == (16, "tanh") and found.optimizer is not None
    expected = made.policy.optimizer.state_dict()["state"]
    assert found.optimizer["state"].keys() == expected.keys() and len(expected) == len(list(made.policy.parameters()))
    for name, tensor in made.policy.state_dict().items():
        assert torch.equal(found.weights[name], tensor)
    for key, entry in expected.items():
        assert torch.equal(found.optimizer["state"][key]["exp_avg"], entry["exp_avg"])
