"""Policy bundles: a folder with learned policies and what they were made for.

`policy.json` says what the policies decide about, what their networks read, what they were made for and how they were
trained; `policy.safetensors` holds the networks' weights: `depth.w0`, `depth.b0`, … and `size.w0`, …; and
`lookup.json`, only with policies that know the text's own candidates, how likely these are, see `ltd.lookup.scores`.
Nothing in a bundle is ever executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save
from torch import Tensor

from ltd.common.files import content_hash, file_hash
from ltd.common.json_files import check_known
from ltd.common.trained_folder import facts_file, read_facts, read_weights, write_trained
from ltd.common.version import VERSION
from ltd.errors import InputError
from ltd.lookup import TextScores, load_text_scores
from ltd.lookup.scores import TEXT_SCORES, text_scores_file
from ltd.policies.learned.allowance import Costs
from ltd.policies.learned.network import ACTIVATIONS, Network
from ltd.policies.learned.observation import (
    ANY_LENGTH,
    DEPTH_UNIT,
    LEAST_RANKED,
    LENGTH_UNIT,
    RANKED_UNIT,
    Layout,
    Summary,
)
from ltd.policies.learned.policy import Learned
from ltd.policies.learned.setting import Setting
from ltd.policies.static import Static

FORMAT, SCHEMA = "ltd-policy", 1
FACTS, WEIGHTS = "policy.json", "policy.safetensors"
BEST_STATIC = "best_static"  # in the facts of the training: depth and size of the best static tree on its questions
# What the operators compute for either observation; a network trained with anything else would be misread.
FIXED: dict[str, dict[str, Any]] = {
    "scores": {"length_unit": LENGTH_UNIT, "depth_unit": DEPTH_UNIT},
    "summary": {
        "length_unit": LENGTH_UNIT,
        "ranked_unit": RANKED_UNIT,
        "least_ranked": LEAST_RANKED,
    },
}
LENGTH_RANGE = "length_range"
BEFORE_TEXT = {"text": 0}  # facts of a network in bundles that do not know of the text's candidates
FORMER_REWARD = "objective"  # how bundles that were written earlier call their reward
KEYS = {"made_for", "depth_limit", "min_depth", "sizes", "depth_network", "size_network", "costs"}
KEYS |= {"training", "validation", "versions", "weights_sha256"}
OPTIONAL_KEYS = {"max_text", "text_scores_sha256", "reward", FORMER_REWARD}
# Of what networks once read; those that are read still may say that it is of size 0.
RECENTS, FORMER_FACTS = "recents", ("recents", "recent_rates", "recent_start")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bundle:
    """Learned policies with their history.

    Attributes:
        policy: what decides, and what it was made for.
        reward: what training maximised, for example "renewal"; None is unknown.
        training: settings of the training, as JSON values.
        validation: numbers measured with these policies, as JSON values.
        versions: of the programs that made it.
        folder: where it was read from, if it was.
    """

    policy: Learned
    reward: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    validation: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=lambda: {"ltd": VERSION, "torch": str(torch.__version__)})
    folder: Path | None = field(default=None, compare=False)

    @property
    def best_static(self) -> Static | None:
        """The best static tree on the questions of the training; None if it was not looked for.

        Raises:
            InputError: what the bundle says of it is no static tree.
        """
        if (found := self.training.get(BEST_STATIC)) is None:
            return None
        try:
            depth, size = (_get({BEST_STATIC: number}, BEST_STATIC, int) for number in found)
            return Static(depth, size, self.policy.made_for.width)
        except (InputError, TypeError, ValueError) as error:
            raise InputError(
                f"the policy bundle {self.folder} cannot be used: {BEST_STATIC} is {found!r}, but must be a tree's "
                "depth and size"
            ) from error


def save_bundle(bundle: Bundle, folder: str | Path) -> None:
    """Writes a bundle; raises InputError if the folder cannot be written."""
    write_trained(Path(folder), bundle_files(bundle), "the policy bundle")


def bundle_files(bundle: Bundle) -> dict[str, bytes]:
    """The contents of a bundle's files by name; `policy.json`, which names the others by hash, is the last."""
    policy = bundle.policy
    networks = {"depth": policy.depth_network, "size": policy.size_network}
    tensors = {
        f"{name}.{'wb'[place % 2]}{place // 2}": tensor.detach().cpu().contiguous()
        for name, network in networks.items()
        for place, tensor in enumerate(network.weights if network is not None else ())
    }
    files = {WEIGHTS: save(tensors)}
    if policy.text_scores is not None:
        files[TEXT_SCORES] = text_scores_file(policy.text_scores, {"made_for": asdict(policy.made_for)})
    values = {
        "format": FORMAT,
        "schema": SCHEMA,
        "made_for": asdict(policy.made_for),
        "depth_limit": policy.depth_limit,
        "min_depth": policy.min_depth,
        "sizes": list(policy.sizes),
        **{f"{name}_network": None if net is None else _network_facts(net) for name, net in networks.items()},
        "costs": None if policy.costs is None else asdict(policy.costs),
        "max_text": policy.max_text,
        "text_scores_sha256": content_hash(files[TEXT_SCORES]) if TEXT_SCORES in files else None,
        "reward": bundle.reward,
        "training": dict(bundle.training),
        "validation": dict(bundle.validation),
        "versions": dict(bundle.versions),
        "weights_sha256": content_hash(files[WEIGHTS]),
    }
    return {**files, FACTS: facts_file(values)}


def remove_bundle(folder: Path) -> None:
    """Takes a bundle away, if there is one: first `policy.json`, without which nothing is there.

    Raises:
        InputError: it cannot be removed.
    """
    try:
        for name in (FACTS, WEIGHTS, TEXT_SCORES):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot remove the policy bundle {folder}: {error}") from error


def load_bundle(folder: str | Path) -> Bundle:
    """Reads a bundle.

    Raises:
        InputError: anything that is not a whole and consistent bundle; the message names the folder and says why.
    """
    folder = Path(folder)
    try:
        values = read_facts(folder / FACTS, FORMAT, SCHEMA, KEYS, OPTIONAL_KEYS)
        tensors = read_weights(folder / WEIGHTS, _get(values, "weights_sha256", str), FACTS)
        policy = Learned(
            made_for=_setting(_get(values, "made_for", dict)),
            depth_limit=_get(values, "depth_limit", int),
            sizes=tuple(_whole_numbers(values, "sizes")),
            depth_network=_network(values, "depth", tensors),
            size_network=_network(values, "size", tensors),
            min_depth=_get(values, "min_depth", int),
            costs=None if values["costs"] is None else _costs(_get(values, "costs", dict)),
            max_text=_get({"max_text": 0, **values}, "max_text", int),
            text_scores=_text_scores(values, folder),
        )
        if tensors:
            raise InputError(f"{WEIGHTS} holds tensors that no network has: {', '.join(sorted(tensors))}")
        return Bundle(
            policy,
            _reward(values),
            training=_get(values, "training", dict),
            validation=_get(values, "validation", dict),
            versions=_get(values, "versions", dict),
            folder=folder,
        )
    except InputError as error:
        raise InputError(f"the policy bundle {folder} cannot be used: {error}") from error


def _text_scores(values: dict[str, Any], folder: Path) -> TextScores | None:
    """How likely the text's candidates are; None if the bundle does not say."""
    if (wanted := values.get("text_scores_sha256")) is None:
        return None
    if file_hash(folder / TEXT_SCORES) != wanted:
        raise InputError(f"{TEXT_SCORES} is missing, or not the file that {FACTS} was written for")
    return load_text_scores(folder / TEXT_SCORES)


def _reward(values: dict[str, Any]) -> str | None:
    """The reward's name, under the present key or the former one; None if it is unknown."""
    name = FORMER_REWARD if FORMER_REWARD in values else "reward"
    if name not in values:
        raise InputError(f"{FACTS} lacks reward")
    return None if values[name] is None else _get(values, name, str)


def _network(values: dict[str, Any], name: str, tensors: dict[str, Tensor]) -> Network | None:
    """The network of that name, whose tensors it takes out of the dictionary; None if there is none."""
    if values[f"{name}_network"] is None:
        return None
    facts = _get(values, f"{name}_network", dict)
    layout = _layout(facts, name)
    if (activation := facts.get("activation")) not in ACTIVATIONS:
        raise InputError(
            f"activation of its {name} network is {activation!r}, but must be one of {', '.join(ACTIVATIONS)}"
        )
    layers = range(sum(tensor.startswith(f"{name}.w") for tensor in tensors))
    names = [f"{name}.{kind}{layer}" for layer in layers for kind in "wb"]
    if missing := [tensor for tensor in names if tensor not in tensors]:
        raise InputError(f"{WEIGHTS} lacks {', '.join(missing)}")
    try:
        return Network(layout, tuple(tensors.pop(tensor) for tensor in names), activation)
    except InputError as error:
        raise InputError(f"its {name} network: {error}") from error


def _network_facts(network: Network) -> dict[str, Any]:
    """What `policy.json` says of a network."""
    kind = "summary" if isinstance(network.layout, Summary) else "scores"
    facts = {"observation": kind, **asdict(network.layout), **FIXED[kind], "activation": network.activation}
    facts[LENGTH_RANGE] = None if network.layout.length_range == ANY_LENGTH else list(network.layout.length_range)
    return facts


def _layout(facts: dict[str, Any], name: str) -> Layout | Summary:
    """The layout of the network of that name."""
    kind = facts.get("observation")
    if not isinstance(kind, str) or kind not in FIXED:
        raise InputError(f"observation of its {name} network is {kind!r}, but must be one of {', '.join(FIXED)}")
    for key, wanted in FIXED[kind].items():
        if facts.get(key) != wanted:
            raise InputError(f"{key} of its {name} network is {facts.get(key)!r}, but must be {wanted!r}")
    if facts.get(RECENTS, 0) != 0:
        raise InputError(
            f"its {name} network reads how much was accepted lately, which ltd no longer does; make one with ltd tune"
        )
    layout = Summary if kind == "summary" else Layout
    parts = [field.name for field in fields(layout)]
    known_facts = ("observation", "activation", LENGTH_RANGE, *FORMER_FACTS, *FIXED[kind], *parts)
    check_known(facts, known_facts, f"its {name} network")
    known = BEFORE_TEXT | facts
    sizes = {part: _get(known, part, int) for part in parts if part != LENGTH_RANGE}
    try:
        return layout(**sizes, length_range=_length_range(facts))
    except InputError as error:
        raise InputError(f"its {name} network: {error}") from error


def _length_range(facts: dict[str, Any]) -> tuple[int, int]:
    """The context lengths that a network was trained on; any in bundles that do not know."""
    if facts.get(LENGTH_RANGE) is None:
        return ANY_LENGTH
    if len(numbers := _whole_numbers(facts, LENGTH_RANGE)) != 2:
        raise InputError(f"{LENGTH_RANGE} is {numbers}, but must be the shortest and the longest context length")
    return numbers[0], numbers[1]


def _costs(values: dict[str, Any]) -> Costs:
    """The costs; JSON's whole numbers are numbers too."""

    def number(value: Any) -> float:
        is_whole = type(value) is int and abs(value) < 2**53  # a larger one may not fit into a float
        return float(value) if is_whole else _get({"a cost": value}, "a cost", float)

    check_known(values, (field.name for field in fields(Costs)), "costs")
    verify = tuple(number(cost) for cost in _get(values, "verify", list))
    return Costs(number(values.get("begin")), number(values.get("expand")), verify, number(values.get("lookup", 0.0)))


def _setting(values: dict[str, Any]) -> Setting:
    kinds: dict[str, type] = dict.fromkeys(("width", "vocab_size", "hidden_size", "layers", "threads"), int)
    kinds |= dict.fromkeys(("target", "head_sha256", "hardware", "dtype", "sampling_sha256"), str)
    check_known(values, kinds, "made_for")
    _get(values, "width", int)
    known: dict[str, Any] = {name: _get(values, name, kinds[name]) for name in values if values[name] is not None}
    return Setting(**known)


def _whole_numbers(values: dict[str, Any], name: str) -> list[int]:
    numbers = _get(values, name, list)
    return [_get({name: number}, name, int) for number in numbers]


def _get(values: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """A value of a kind. Raises InputError if it is missing or something else."""
    value = values.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{name} is {value!r}, but must be of type {kind.__name__}")
    return value
