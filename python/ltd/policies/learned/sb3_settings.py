"""What the settings in a zip of Stable-Baselines3's `PPO.save` say about its network.

The weights alone do not tell how they are used: the same tensors belong to other networks with another activation, a
feature extractor before them or another kind of action. So every setting that shapes a network is looked up here, and
one that is not known is refused by its name. Nothing is unpickled.
"""

from __future__ import annotations

import base64
import binascii
import pickletools
import re
from collections.abc import Mapping
from typing import Any

import torch

from ltd.common.json_files import parse_json
from ltd.errors import InputError

POLICY = ["stable_baselines3.common.policies", "ActorCriticPolicy"]  # which MlpPolicy stands for
DEFAULT_ACTIVATION = "Tanh"  # of MlpPolicy
MODULE = "torch.nn.modules.activation"
EXTRACTOR = "<class 'stable_baselines3.common.torch_layers.FlattenExtractor'>"  # hands on what it is given
# Arguments of the policy that change nothing about what its trained network does with one row of numbers.
HARMLESS = {
    "activation_fn",  # looked at by itself
    "log_std_init",  # of continuous actions
    "net_arch",  # as the weights say
    "normalize_images",
    "optimizer_class",
    "optimizer_kwargs",
    "ortho_init",
    "share_features_extractor",
}
# Those that must have a value, as text.
ONLY = {
    "features_extractor_class": (EXTRACTOR,),
    "features_extractor_kwargs": ("None", "{}"),
    "full_std": ("True", "False"),  # of state-dependent noise, which is refused
    "squash_output": ("False",),
    "use_expln": ("True", "False"),
    "use_sde": ("False",),
}
PICKLED = (":type:", ":serialized:")


def read_settings(data: bytes) -> dict[str, Any]:
    """The JSON in `data`.

    Raises:
        InputError: it is not what Stable-Baselines3 writes.
    """
    try:
        values = parse_json(data, dict[str, Any], "it")
        if not isinstance(values.get("policy_kwargs") or {}, dict):
            raise InputError("it is no object with the policy's arguments")
    except InputError as error:
        raise InputError(f"data in the zip file is not what Stable-Baselines3 writes: {error}") from error
    return values


def check_settings(values: Mapping[str, Any], where: str) -> None:
    """Raises InputError unless they are of an MlpPolicy that does nothing but its layers; what is not said is usual.

    Args:
        values: the settings. where: the file, for messages.
    """
    if (policy := values.get("policy_class")) is not None and names_in(policy) != POLICY:
        found = " ".join(names_in(policy)[-1:]) or "unknown"
        raise InputError(f"the policy in {where} is of the class {found}; only MlpPolicy can be run")
    for name, value in (values.get("policy_kwargs") or {}).items():
        if name not in (*HARMLESS, *ONLY, *PICKLED):
            raise InputError(f"the policy in {where} has the setting {name} = {value}, which is not known here")
        if name in ONLY and str(value) not in ONLY[name]:
            raise InputError(f"the policy in {where} has {name} = {value}, which cannot be run; train one without")
    if values.get("use_sde"):
        raise InputError(f"the policy in {where} has use_sde = {values['use_sde']}, which cannot be run")
    check_space(values.get("observation_space"), "observations", "Box", where)
    check_space(values.get("action_space"), "actions", "Discrete", where)


def check_space(space: Any, what: str, kind: str, where: str) -> None:
    """Raises InputError unless a space that is said is one row of numbers, or actions from 0."""
    if space is None:
        return
    said = space if isinstance(space, dict) else {}
    match = re.search(r"(\w+)'>$", str(said.get(":type:")))
    if match is None or match[1] != kind:
        raise InputError(f"the {what} of the policy in {where} are {match[1] if match else 'unknown'}, not {kind}")
    shape = said.get("_shape", [0])
    if kind == "Box" and not (isinstance(shape, list) and len(shape) == 1):
        raise InputError(f"the observations of the policy in {where} have the shape {shape}, not one row")
    if str(said.get("start", 0)) != "0":
        raise InputError(f"the actions of the policy in {where} begin at {said['start']}, not at 0")


def activation(values: Mapping[str, Any]) -> str:
    """The activation's class name, from the text; several, or one not of torch, are named as found.

    Raises:
        InputError: what should be base64 is not.
    """
    kwargs = values.get("policy_kwargs") or {}
    if (said := kwargs.get("activation_fn")) is not None:
        match = re.search(re.escape(MODULE) + r"\.(\w+)'", str(said))
        return match[1] if match else str(said)
    pickled = decoded(kwargs)
    if b"activation_fn" not in pickled:
        return DEFAULT_ACTIVATION
    classes = torch.nn.modules.activation.__all__
    found = [name for name in classes if re.search(rb"(?<!\w)" + name.encode() + rb"(?!\w)", pickled)]
    return " or ".join(found) or "an unknown activation"


def decoded(entry: Mapping[str, Any]) -> bytes:
    """The pickled bytes of an entry, which nobody runs."""
    try:
        return base64.b64decode(entry.get(":serialized:", ""), validate=True)
    except (ValueError, TypeError, binascii.Error) as error:
        raise InputError(f"data in the zip file is not what Stable-Baselines3 writes: {error}") from error


def names_in(entry: Any) -> list[str]:
    """The texts in a pickled class: its module and its name, if it is stored by name; read as text, not run."""
    names: list[str] = []
    try:
        for operation, value, _ in pickletools.genops(decoded(entry if isinstance(entry, dict) else {})):
            if operation.name in ("GLOBAL", "SHORT_BINUNICODE", "BINUNICODE", "UNICODE"):
                names += str(value).split(" ") if operation.name == "GLOBAL" else [str(value)]
    except (ValueError, IndexError, UnicodeError):
        return [*names, "unknown"]
    return names
