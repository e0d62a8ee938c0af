"""Importing what Stable-Baselines3 saves, as zips of the same layout; what it saves itself is in its own file."""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import ltd
from ltd import ops
from ltd.cli import main
from ltd.policies.learned.bundle import load_bundle
from ltd.policies.learned.network import Network
from ltd.policies.learned.observation import ANY_LENGTH, depth_layout, size_layout
from ltd.policies.learned.sb3_import import import_policies, read_network
from ltd.policies.learned.sb3_settings import activation, read_settings

ARCHITECTURE = {"pi": [24, 8], "vf": [16]}
DEPTH, SIZE = 128, 1268


def state(inputs: int, actions: int, hidden: list[int] | None = None) -> dict[str, torch.Tensor]:
    """The names and shapes of an MlpPolicy with a discrete action."""
    tensors: dict[str, torch.Tensor] = {}
    sizes = [inputs, *(ARCHITECTURE["pi"] if hidden is None else hidden)]
    for layer, (columns, rows) in enumerate(itertools.pairwise(sizes)):
        name = f"mlp_extractor.policy_net.{2 * layer}"
        tensors |= {f"{name}.weight": torch.randn(rows, columns), f"{name}.bias": torch.randn(rows)}
    tensors |= {"mlp_extractor.value_net.0.weight": torch.randn(16, inputs),
                "mlp_extractor.value_net.0.bias": torch.randn(16),
                "action_net.weight": torch.randn(actions, sizes[-1]), "action_net.bias": torch.randn(actions),
                "value_net.weight": torch.randn(1, 16), "value_net.bias": torch.randn(1)}  # fmt: skip
    return tensors


def serialised(value: Any, **readable: str) -> dict[str, str]:
    """As Stable-Baselines3 writes what JSON cannot hold."""
    pickled = base64.b64encode(pickle.dumps(value)).decode()
    return {":type:": str(type(value)), ":serialized:": pickled, **readable}


def relu() -> dict[str, str]:
    kwargs = {"net_arch": ARCHITECTURE, "activation_fn": nn.ReLU}
    return serialised(kwargs, net_arch=str(ARCHITECTURE), activation_fn=str(nn.ReLU))


def write(file: Path, weights: Any, kwargs: Any, **data: Any) -> Path:
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data", json.dumps({"policy_kwargs": kwargs, **data}))
        archive.writestr("policy.pth", buffer.getvalue())
        archive.writestr("policy.optimizer.pth", b"never read")
        archive.writestr("_stable_baselines3_version", "2.3.2")
    return file


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


def plain(weights: dict[str, torch.Tensor], observations: torch.Tensor, function: Any) -> torch.Tensor:
    for layer in (0, 2):
        name = f"mlp_extractor.policy_net.{layer}"
        observations = function(functional.linear(observations, weights[f"{name}.weight"], weights[f"{name}.bias"]))
    return functional.linear(observations, weights["action_net.weight"], weights["action_net.bias"])


@pytest.mark.parametrize(("function", "kwargs"), [(torch.relu, relu()), (torch.tanh, {"net_arch": ARCHITECTURE})])
def test_a_network_acts_as_in_its_file(tmp_path: Path, function: Any, kwargs: Any) -> None:
    weights, layout = state(DEPTH, 2), depth_layout(10)
    network = read_network(write(tmp_path / "depth.zip", weights, kwargs), layout)
    scores, lengths = -10 * torch.rand(64, 100), torch.randint(0, 4000, (64,)).int()
    outputs = plain(weights, layout.build(scores, lengths, 5), function)
    actions = ops.depth_action(scores, lengths, 5, layout.slots, layout.repeats, network.weights, network.uses_tanh)
    clear = (outputs[:, 0] - outputs[:, 1]).abs() > 1e-3
    assert clear.any() and torch.equal(actions[clear].long(), outputs.argmax(1)[clear])


@pytest.mark.parametrize("actions", [12, 24])
def test_both_policies_make_a_bundle(tmp_path: Path, actions: int) -> None:
    depth = write(tmp_path / "depth.zip", state(DEPTH, 2, [1024]), relu())
    size = write(tmp_path / "size.zip", state(SIZE, actions), relu())
    assert (
        main(["import-policy", "--depth-zip", str(depth), "--size-zip", str(size), "--out", str(tmp_path / "b")]) == 0
    )
    policy = load_bundle(tmp_path / "b").policy
    assert policy.sizes == tuple(range(10, 10 * actions + 1, 10))
    assert (policy.depth_limit, policy.min_depth, policy.made_for.width) == (12, 1, 10)
    assert policy.depth_network is not None and policy.size_network is not None
    assert [tuple(t.shape) for t in policy.depth_network.weights] == [(1024, 128), (1024,), (2, 1024), (2,)]
    assert (policy.size_network.layout, policy.size_network.outputs) == (size_layout(10, 12), actions)


def test_the_range_of_lengths_is_what_the_caller_knows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "depth.zip", state(DEPTH, 2), relu())
    command = ["import-policy", "--depth-zip", str(file), "--out", str(tmp_path / "b")]

    def imported(*options: str) -> tuple[int, int]:
        assert main([*command, *options]) == 0
        network = load_bundle(tmp_path / "b").policy.depth_network
        assert network is not None
        return network.layout.length_range

    assert imported() == ANY_LENGTH and imported("--length-range", "30", "2048") == (30, 2048)
    assert main([*command, "--length-range", "30", "20"]) == 2
    assert "lengths of 30 … 20 are no range" in capsys.readouterr().err


def test_a_missing_policy_is_the_papers_constant(tmp_path: Path) -> None:
    depth = import_policies(write(tmp_path / "depth.zip", state(DEPTH, 2), relu()), None).policy
    assert (depth.sizes, depth.depth_limit) == ((60,), 12)
    size = import_policies(None, write(tmp_path / "size.zip", state(SIZE, 12), relu())).policy
    assert (size.depth_network, size.depth_limit) == (None, 8)
    with pytest.raises(ltd.InputError, match="nothing to import"):
        import_policies(None, None)


def test_no_pickle_in_data_is_executed(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    kwargs = serialised({"activation_fn": nn.ReLU, "trap": Malicious(trap)})
    file = write(tmp_path / "depth.zip", state(DEPTH, 2), kwargs, lr_schedule=serialised(Malicious(trap)))
    assert isinstance(read_network(file, depth_layout(10)), Network)
    assert not trap.exists()
    pickle.loads(base64.b64decode(kwargs[":serialized:"]))
    assert trap.exists()  # so the trap works


def test_no_pickle_in_the_weights_is_executed(tmp_path: Path) -> None:
    weights = {**state(DEPTH, 2), "trap": Malicious(tmp_path / "trap")}
    file = write(tmp_path / "depth.zip", weights, relu())
    with pytest.raises(ltd.InputError, match="pickled code"):
        read_network(file, depth_layout(10))
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    ("kwargs", "name"),
    [
        (relu(), "ReLU"),
        (serialised({"activation_fn": nn.ReLU}), "ReLU"),  # no readable copy: the class name inside the pickle
        (serialised({"activation_fn": nn.Tanh}), "Tanh"),
        (serialised({"activation_fn": nn.LeakyReLU}), "LeakyReLU"),
        (serialised({}, activation_fn=str(nn.ReLU6)), "ReLU6"),
        (serialised({}, activation_fn="<function relu>"), "<function relu>"),
        (serialised({"activation_fn": torch.sin}), "an unknown activation"),
        (serialised({"activation_fn": nn.ReLU, "other": nn.Tanh}), "Tanh or ReLU"),
        ({"net_arch": ARCHITECTURE}, "Tanh"),  # as the official scripts call PPO
        (serialised({"net_arch": ARCHITECTURE}), "Tanh"),
        ({}, "Tanh"),
        (None, "Tanh"),
    ],
)
def test_the_activation_is_read_as_text(kwargs: Any, name: str) -> None:
    assert sorted(activation(read_settings(json.dumps({"policy_kwargs": kwargs}).encode())).split()) == sorted(
        name.split()
    )


def test_other_activations_are_refused_unless_the_caller_knows_better(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kwargs = serialised({}, activation_fn=str(nn.ELU))
    file = write(tmp_path / "depth.zip", state(DEPTH, 2), kwargs)
    arguments = ["import-policy", "--depth-zip", str(file), "--out", str(tmp_path / "bundle")]
    assert main(arguments) == 2
    assert "trained with ELU" in (message := capsys.readouterr().err) and message.count("\n") == 1
    assert not (tmp_path / "bundle").exists()
    assert main([*arguments, "--relu"]) == 0


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({**state(DEPTH, 2), "mlp_extractor.shared_net.0.weight": torch.zeros(8, DEPTH)}, "shared_net.0.weight, which"),
        ({**state(DEPTH, 2), "log_std": torch.zeros(2)}, "holds log_std, which"),
        ({**state(DEPTH, 2), "mlp_extractor.policy_net.1.weight": torch.zeros(24)}, "policy_net.1.weight, which"),
        ({**state(DEPTH, 2), "action_net.0.weight": torch.zeros(2, 8)}, "action_net.0.weight, which"),
        (state(DEPTH + 1, 2), "does not read 128 numbers"),
        ({"action_net.bias": torch.zeros(2)}, "lacks action_net.weight"),
        ([1, 2], "not a tensor"),
        ({**state(DEPTH, 2), "log_std": 1.0}, "not a tensor"),
    ],
)
def test_other_weights_are_refused(tmp_path: Path, weights: Any, message: str) -> None:
    with pytest.raises(ltd.InputError, match=message):
        read_network(write(tmp_path / "depth.zip", weights, relu()), depth_layout(10))


def test_a_depth_policy_has_two_outputs(tmp_path: Path) -> None:
    with pytest.raises(ltd.InputError, match="has 3 outputs"):
        import_policies(write(tmp_path / "depth.zip", state(DEPTH, 3), relu()), None)


@pytest.mark.parametrize("content", [None, b"", b"no zip"])
def test_what_is_no_zip_file(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    with pytest.raises(ltd.InputError, match=r"file is not a zip file of Stable-Baselines3"):
        read_network(tmp_path / "file", depth_layout(10))


@pytest.mark.parametrize("missing", ["data", "policy.pth"])
def test_a_zip_of_something_else(tmp_path: Path, missing: str) -> None:
    with zipfile.ZipFile(tmp_path / "file", "w") as archive:
        archive.writestr({"data": "policy.pth", "policy.pth": "data"}[missing], b"{}")
    with pytest.raises(ltd.InputError, match=missing):
        read_network(tmp_path / "file", depth_layout(10))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"squash_output": True}, "has squash_output = True"),
        ({"use_sde": True}, "has use_sde = True"),
        ({"hidden_gates": 3}, "has the setting hidden_gates = 3, which is not known"),
        ({"features_extractor_class": "<class 'mine.Encoder'>"}, "features_extractor_class = <class 'mine.Encoder'>"),
        ({"features_extractor_kwargs": {"features_dim": 8}}, "features_extractor_kwargs"),
    ],
)
def test_settings_that_cannot_be_run_are_named(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    file = write(tmp_path / "depth.zip", state(DEPTH, 2), {**relu(), **settings})
    for states_relu in (False, True):  # which is about the activation only
        with pytest.raises(ltd.InputError, match=re.escape(message)):
            read_network(file, depth_layout(10), states_relu)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy_class": {":type:": "<class 'abc.ABCMeta'>"}}, "is of the class unknown"),
        ({"policy_class": serialised(Malicious)}, "is of the class Malicious"),
        ({"policy_class": {":serialized:": "AAAA"}}, "is of the class unknown"),
        ({"action_space": {":type:": "<class 'gymnasium.spaces.discrete.Discrete'>", "start": "1"}}, "begin at 1"),
        ({"action_space": 2}, "are unknown, not Discrete"),
        ({"observation_space": {":type:": "<class 'gymnasium.spaces.box.Box'>", "_shape": 128}}, "the shape 128"),
        ({"use_sde": True}, "use_sde"),
    ],
)
def test_what_the_settings_say_about_the_policy(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    file = write(tmp_path / "depth.zip", state(DEPTH, 2), relu(), **settings)
    with pytest.raises(ltd.InputError, match=message):
        read_network(file, depth_layout(10))


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"policy_kwargs": 3}', b'{"policy_kwargs": {":serialized:": "?"}}'])
def test_data_that_is_something_else(data: bytes) -> None:
    with pytest.raises(ltd.InputError, match="not what Stable-Baselines3 writes"):
        activation(read_settings(data))
