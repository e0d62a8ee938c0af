"""Policies trained by the paper's official scripts: the zip files of Stable-Baselines3's `PPO.save`.

Such a file holds `policy.pth`, the weights, and `data`, JSON with pickled objects in base64. Weights are read without
pickled code, and nothing in `data` is unpickled: what it says about the network is read as text, and what is not known
is refused (`ltd.policies.learned.sb3_settings`).
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltd.common.foreign_errors import reason_of
from ltd.common.tensor_files import DAMAGE, load_pickled, read_members
from ltd.errors import InputError
from ltd.policies.learned.bundle import Bundle
from ltd.policies.learned.network import Activation, Network
from ltd.policies.learned.observation import ANY_LENGTH, Layout, Summary, depth_layout, size_layout
from ltd.policies.learned.policy import Learned
from ltd.policies.learned.sb3_settings import activation, check_settings, read_settings
from ltd.policies.learned.setting import Setting
from ltd.tree import MAX_DEPTH

WIDTH = 10  # the official scripts know no other
CONSTANT_DEPTH, CONSTANT_SIZE = 8, 60  # what takes the place of a policy that is missing, as in the paper's training
SIZE_STEP = 10
OPTIMIZER = "policy.optimizer.pth"
TRAINED = "ltd_policy"  # the setting with which a training here says what its policy sees and decides among
PREFIX, PARTS, HEADS, KINDS = "mlp_extractor.", ("policy", "value"), ("action_net", "value_net"), ("weight", "bias")
KNOWN_ACTIVATIONS: dict[str, Activation] = {"ReLU": "relu", "Tanh": "tanh"}


def import_policies(
    depth_zip: Path | None,
    size_zip: Path | None,
    *,
    states_relu: bool = False,
    length_range: tuple[int, int] = ANY_LENGTH,
) -> Bundle:
    """A bundle from the official depth policy, size policy, or both.

    A missing depth policy becomes the constant depth 8, a missing size policy the constant size 60. What the policies
    were trained on is not in the files, so the bundle does not know either.

    Args:
        depth_zip: of the depth policy: 128 inputs, outputs stop and continue.
        size_zip: of the size policy: 1268 inputs, output a is the size (a + 1) * 10.
        states_relu: the caller knows that the networks use ReLU, whatever the files say.
        length_range: the shortest and the longest context length that the policies were trained on, which is not in the
            files either; longer ones are shown to them as the longest.

    Raises:
        InputError: no file, no range, or one that does not hold such a network with ReLU or Tanh.
    """
    if depth_zip is None and size_zip is None:
        raise InputError("there is nothing to import; give a depth policy, a size policy, or both")
    layouts = [replace(of, length_range=length_range) for of in (depth_layout(WIDTH), size_layout(WIDTH, MAX_DEPTH))]
    for file in (depth_zip, size_zip):
        if file is not None and read_saved(file, states_relu).trained is not None:
            raise InputError(f"{file} is of a training here, not of an official script; use the bundle beside its run")
    depth = None if depth_zip is None else read_network(depth_zip, layouts[0], states_relu)
    size = None if size_zip is None else read_network(size_zip, layouts[1], states_relu)
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
        InputError: as `read_saved`, or another observation.
    """
    saved = read_saved(file, states_relu)
    tensors = action_tensors(saved.weights, str(file))
    try:
        return Network(layout, tensors, saved.activation)
    except InputError as error:
        raise InputError(f"the network in {file} does not read {layout.width} numbers as it should: {error}") from error


@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """What a zip of `PPO.save` holds.

    Attributes:
        activation: between the layers.
        weights: the policy's `state_dict`, value network included.
        optimizer: that of its optimiser; None if the file has none that is plain tensors.
        timesteps: that it was trained for; 0 if the file does not say.
        trained: what a training here wrote about the policy; None in the files of others.
    """

    activation: Activation
    weights: Mapping[str, Tensor]
    optimizer: dict[str, Any] | None
    timesteps: int
    trained: dict[str, Any] | None


def read_saved(file: Path, states_relu: bool = False) -> Saved:
    """Reads a zip of `PPO.save` without running pickled code.

    Raises:
        InputError: not such a zip, or a policy that is more than an MlpPolicy with ReLU or Tanh; the message says how.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            rest = (OPTIMIZER,) if OPTIMIZER in archive.namelist() else ()
        data, weights, *optimizer = read_members(file, ("data", "policy.pth", *rest))
    except DAMAGE as error:
        raise InputError(f"{file} is not a zip file of Stable-Baselines3's PPO.save: {reason_of(error)}") from error
    settings = read_settings(data)
    check_settings(settings, str(file))
    found = "ReLU" if states_relu else activation(settings)
    if found not in KNOWN_ACTIVATIONS:
        raise InputError(
            f"the network in {file} was trained with {found} between its layers, as far as the file says, but only "
            "ReLU and Tanh can be run; if you know that it is ReLU, say so (--relu)"
        )
    state = state_in(weights, str(file))
    check_tensors(state, str(file))
    timesteps, trained = settings.get("num_timesteps"), settings.get(TRAINED)
    return Saved(
        KNOWN_ACTIVATIONS[found],
        state,
        plain_tensors(optimizer[0]) if optimizer else None,
        timesteps if isinstance(timesteps, int) else 0,
        trained if isinstance(trained, dict) else None,
    )


def state_in(content: bytes, where: str) -> Mapping[str, Tensor]:
    """The `state_dict` in the bytes of a `policy.pth`; raises InputError if it is something else."""
    state: Any = plain_tensors(content)
    if state is None:
        raise InputError(f"policy.pth in {where} holds pickled code or is damaged; only plain tensors are read")
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"policy.pth in {where} holds something that is not a tensor")
    return state


def plain_tensors(content: bytes) -> Any:
    """What `torch.save` wrote, read without running pickled code; None if it is damaged or needs some."""
    try:
        return load_pickled(content)
    except (pickle.UnpicklingError, *DAMAGE):
        return None


def check_tensors(state: Mapping[str, Tensor], where: str) -> None:
    """Raises InputError if there are tensors that are not of the layers of an MlpPolicy, one after the other."""
    counts = {part: sum(bool(layer_name(part).fullmatch(str(name))) for name in state) for part in PARTS}
    known = {
        f"{PREFIX}{part}_net.{2 * layer}.{kind}" for part in PARTS for layer in range(counts[part]) for kind in KINDS
    }
    known |= {f"{name}.{kind}" for name in HEADS for kind in KINDS}
    if unknown := [str(name) for name in state if name not in known]:
        names = ", ".join(unknown[:4]) + (" …" if len(unknown) > 4 else "")
        raise InputError(
            f"policy.pth in {where} holds {names}, which an MlpPolicy does not have; "
            "shared layers, feature extractors and layers of other kinds cannot be run"
        )


def layer_name(part: str) -> re.Pattern[str]:
    """Of the weights in the policy or the value network; the layers between, which have none, count."""
    return re.compile(re.escape(PREFIX) + part + r"_net\.(\d+)\.weight")


def action_tensors(state: Mapping[str, Tensor], where: str) -> tuple[Tensor, ...]:
    """w0, b0, w1, b1, … float32: the action network in the `state_dict` of an MlpPolicy, as copies."""
    layers = sorted(int(match[1]) for name in state if (match := layer_name("policy").fullmatch(str(name))))
    names = [f"{PREFIX}policy_net.{layer}" for layer in layers] + ["action_net"]
    wanted = [f"{name}.{kind}" for name in names for kind in KINDS]
    if missing := [name for name in wanted if name not in state]:
        raise InputError(f"policy.pth in {where} lacks {', '.join(missing)}; it is not of an MlpPolicy")
    return tuple(state[name].detach().float().clone(memory_format=torch.contiguous_format) for name in wanted)
