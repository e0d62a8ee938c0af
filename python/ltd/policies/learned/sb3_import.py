"""Policies trained by the paper's official scripts: the zip files of Stable-Baselines3's `PPO.save`.

Such a file holds `policy.pth`, the weights, and `data`, JSON with pickled objects in base64. Weights are read without
pickled code, and nothing in `data` is unpickled: what it says about the activation is read as text.
"""

from __future__ import annotations

import base64
import binascii
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltd.common.json_files import parse_json
from ltd.common.tensor_files import DAMAGE, load_pickled, read_members
from ltd.errors import InputError
from ltd.policies.learned.bundle import Bundle
from ltd.policies.learned.network import Activation, Network
from ltd.policies.learned.observation import Layout, Summary, depth_layout, size_layout
from ltd.policies.learned.policy import Learned
from ltd.policies.learned.setting import Setting
from ltd.tree import MAX_DEPTH

WIDTH = 10  # the official scripts know no other
CONSTANT_DEPTH, CONSTANT_SIZE = 8, 60  # what takes the place of a policy that is missing, as in the paper's training
SIZE_STEP = 10
DEFAULT_ACTIVATION = "Tanh"  # of Stable-Baselines3's MlpPolicy
KNOWN_ACTIVATIONS: dict[str, Activation] = {"ReLU": "relu", "Tanh": "tanh"}
MODULE = "torch.nn.modules.activation"


def import_policies(depth_zip: Path | None, size_zip: Path | None, *, states_relu: bool = False) -> Bundle:
    """A bundle from the official depth policy, size policy, or both.

    A missing depth policy becomes the constant depth 8, a missing size policy the constant size 60. What the policies
    were trained on is not in the files, so the bundle does not know either.

    Args:
        depth_zip: of the depth policy: 128 inputs, outputs stop and continue.
        size_zip: of the size policy: 1268 inputs, output a is the size (a + 1) * 10.
        states_relu: the caller knows that the networks use ReLU, whatever the files say.

    Raises:
        InputError: no file, or one that does not hold such a network with ReLU or Tanh.
    """
    if depth_zip is None and size_zip is None:
        raise InputError("there is nothing to import; give a depth policy, a size policy, or both")
    depth = None if depth_zip is None else read_network(depth_zip, depth_layout(WIDTH), states_relu)
    size = None if size_zip is None else read_network(size_zip, size_layout(WIDTH, MAX_DEPTH), states_relu)
    policy = Learned(
        made_for=Setting(WIDTH),
        depth_limit=CONSTANT_DEPTH if depth is None else MAX_DEPTH,
        sizes=(CONSTANT_SIZE,) if size is None else tuple(SIZE_STEP * (a + 1) for a in range(size.outputs)),
        depth_network=depth,
        size_network=size,
        # Their environment expands once whatever the first action is, so the policy never learned that decision.
        min_depth=0 if depth is None else 1,
    )
    files = {"depth_zip": depth_zip, "size_zip": size_zip}
    names = {name: file.name for name, file in files.items() if file is not None}
    return Bundle(policy, training={"imported_from": "Stable-Baselines3", **names})


def read_network(file: Path, layout: Layout | Summary, states_relu: bool = False) -> Network:
    """The action network in a zip of `PPO.save`; the value network is left out.

    Raises:
        InputError: not such a zip, another observation, or an activation other than ReLU and Tanh.
    """
    try:
        data, weights = read_members(file, ("data", "policy.pth"))
    except DAMAGE as error:
        raise InputError(f"{file} is not a zip file of Stable-Baselines3's PPO.save: {error}") from error
    found = "ReLU" if states_relu else activation(data)
    if found not in KNOWN_ACTIVATIONS:
        raise InputError(
            f"the network in {file} was trained with {found} between its layers, as far as the file says, but only "
            "ReLU and Tanh can be run; if you know that it is ReLU, say so (--relu)"
        )
    tensors = network_tensors(weights, str(file))
    try:
        return Network(layout, tensors, KNOWN_ACTIVATIONS[found])
    except InputError as error:
        raise InputError(f"the network in {file} does not read {layout.width} numbers as it should: {error}") from error


def network_tensors(content: bytes, where: str) -> tuple[Tensor, ...]:
    """w0, b0, w1, b1, … float32 from the bytes of a `policy.pth`, without running pickled code."""
    try:
        state = load_pickled(content)
    except (pickle.UnpicklingError, *DAMAGE) as error:
        raise InputError(
            f"policy.pth in {where} holds pickled code or is damaged; only plain tensors are read"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"policy.pth in {where} holds something that is not a tensor")
    return action_tensors(state, where)


def action_tensors(state: Mapping[str, Tensor], where: str) -> tuple[Tensor, ...]:
    """w0, b0, w1, b1, … float32: the action network in the `state_dict` of an MlpPolicy, as copies."""
    pattern = re.compile(r"mlp_extractor\.policy_net\.(\d+)\.weight")
    layers = sorted(int(match[1]) for name in state if (match := pattern.fullmatch(str(name))))
    names = [f"mlp_extractor.policy_net.{layer}" for layer in layers] + ["action_net"]
    wanted = [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]
    if missing := [name for name in wanted if name not in state]:
        raise InputError(f"policy.pth in {where} lacks {', '.join(missing)}; it is not of an MlpPolicy")
    return tuple(state[name].detach().float().clone(memory_format=torch.contiguous_format) for name in wanted)


def activation(data: bytes) -> str:
    """The activation's class name, from the text in `data`; several, or one not of torch, are named as found.

    Raises:
        InputError: it is not the JSON that Stable-Baselines3 writes.
    """
    try:
        values = parse_json(data, dict[str, Any], "it")
        kwargs = values.get("policy_kwargs") or {}
        said = kwargs.get("activation_fn")
        pickled = base64.b64decode(kwargs.get(":serialized:", ""), validate=True)
    except (ValueError, AttributeError, TypeError, binascii.Error) as error:
        raise InputError(f"data in the zip file is not what Stable-Baselines3 writes: {error}") from error
    if said is not None:
        match = re.search(re.escape(MODULE) + r"\.(\w+)'", str(said))
        return match[1] if match else str(said)
    if b"activation_fn" not in pickled:
        return DEFAULT_ACTIVATION
    classes = torch.nn.modules.activation.__all__
    found = [name for name in classes if re.search(rb"(?<!\w)" + name.encode() + rb"(?!\w)", pickled)]
    return " or ".join(found) or "an unknown activation"
