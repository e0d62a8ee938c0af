"""Folders of trained baselines: `baseline.json`, what it is and how it was trained, and `baseline.safetensors`.

The kinds are those policies of `ltd` that stand for other people's learned methods: disco, specdecpp and c2t.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from ltd.common.assets import shipped_baseline
from ltd.common.files import content_hash, expand_user
from ltd.common.trained_folder import facts_file, read_facts, read_weights, write_trained
from ltd.common.version import VERSION
from ltd.errors import InputError
from ltd.policies.baselines.acceptance_head import AcceptanceHead
from ltd.policies.baselines.classifier import Classifier

FORMAT, SCHEMA = "ltd-baseline", 1
FACTS, WEIGHTS = "baseline.json", "baseline.safetensors"
KEYS = ("kind", "sizes", "made_for", "training", "validation", "versions", "weights_sha256")
DISCO_HIDDEN, C2T_HIDDEN, HEAD_WIDTH = 128, 64, 1024  # as in the paper of Learning to Draft
SHIPPED = "shipped"
MOST = 65_536  # a larger size is damage

# The networks by kind, from sizes that go by the names in `baseline.json`.
NETWORKS: dict[str, tuple[tuple[str, ...], Callable[..., nn.Module]]] = {
    "disco": (("inputs", "hidden"), Classifier),
    "c2t": (("inputs", "hidden"), Classifier),
    "specdecpp": (("inputs", "width", "blocks"), AcceptanceHead),
}
INPUTS = {"disco": 3, "c2t": 2}


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """A trained network with its history.

    Attributes:
        kind: disco, specdecpp or c2t.
        network: a Classifier, or for specdecpp an AcceptanceHead; float32.
        made_for: "target", a name, and "head_sha256", the hash of the draft head's weights.
        training: its settings, as JSON values.
        validation: numbers on held-out questions, as JSON values.
        versions: of the programs that made it.
    """

    kind: str
    network: nn.Module
    made_for: Mapping[str, Any]
    training: Mapping[str, Any] = field(default_factory=dict)
    validation: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=lambda: {"ltd": VERSION, "torch": str(torch.__version__)})

    @property
    def head_sha256(self) -> str | None:
        """The draft head's hash, if it is known."""
        return self.made_for.get("head_sha256")


def save_baseline(baseline: Baseline, folder: Path) -> None:
    """Writes a baseline; `baseline.json`, which names the weights, last.

    Raises:
        InputError: the folder cannot be written.
    """
    names, _ = NETWORKS[baseline.kind]
    weights = save({name: tensor.cpu().contiguous() for name, tensor in baseline.network.state_dict().items()})
    values = {
        "format": FORMAT,
        "schema": SCHEMA,
        "kind": baseline.kind,
        "sizes": {name: size_of(baseline.network, name) for name in names},
        "made_for": dict(baseline.made_for),
        "training": dict(baseline.training),
        "validation": dict(baseline.validation),
        "versions": dict(baseline.versions),
        "weights_sha256": content_hash(weights),
    }
    write_trained(folder, {WEIGHTS: weights, FACTS: facts_file(values)}, "the baseline")


def load_baseline(folder: str | Path, kind: str) -> Baseline:
    """Reads a baseline of a kind.

    Raises:
        InputError: anything that is not a whole and consistent one; the message names the folder and says why.
    """
    folder = expand_user(folder)
    try:
        values = read_facts(folder / FACTS, FORMAT, SCHEMA, KEYS, others=())
        if values["kind"] != kind:
            raise InputError(f"it is of kind {values['kind']!r}, not {kind}")
        network = network_of(kind, values["sizes"])
        tensors = read_weights(folder / WEIGHTS, str(values["weights_sha256"]), FACTS)
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            raise InputError(f"{WEIGHTS} does not hold the tensors of such a network") from error
        facts = {name: values[name] for name in ("made_for", "training", "validation", "versions")}
        if wrong := [name for name, value in facts.items() if not isinstance(value, dict)]:
            raise InputError(f"{wrong[0]} in {FACTS} must be an object")
        return Baseline(kind, network.eval().requires_grad_(False), **facts)
    except InputError as error:
        raise InputError(f"the baseline {folder} cannot be used: {error}") from error


def network_of(kind: str, sizes: Any) -> nn.Module:
    """A new network of a kind. Raises InputError if these are not its sizes."""
    names, make = NETWORKS[kind]
    if not isinstance(sizes, dict) or set(sizes) != set(names):
        raise InputError(f"its sizes are {sizes!r}, but must be {', '.join(names)}")
    for name, size in sizes.items():
        if type(size) is not int or not 1 <= size <= MOST:
            raise InputError(f"{name} is {size!r}, but must be a whole number of 1 … {MOST}")
    if sizes["inputs"] != INPUTS.get(kind, sizes["inputs"]):
        raise InputError(f"inputs is {sizes['inputs']}, but {kind} reads {INPUTS[kind]} numbers")
    return make(**sizes)


def size_of(network: nn.Module, name: str) -> int:
    """The number that `network_of` takes by a name."""
    size = getattr(network, name)
    return len(size) if isinstance(size, nn.ModuleList) else int(size)


def find_baseline(kind: str, model: str) -> Baseline:
    """The baseline in a folder, or, for "shipped", that which comes with this package for the default target and head.

    Raises:
        InputError: there is none.
    """
    if model != SHIPPED:
        return load_baseline(model, kind)
    folder = shipped_baseline(kind)
    if not (folder / FACTS).is_file():
        raise InputError(
            f"no trained {kind} comes with ltd; make one with ltd train-baseline {kind} --out FOLDER, and name it: "
            f"{kind}:model=FOLDER"
        )
    return load_baseline(folder, kind)
