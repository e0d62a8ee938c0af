"""Which policy a decoder gets: a given one, one that was tuned or quickly tuned here, a shipped one, or a static tree.

`choose_policy` is the one place where this is decided, for everything that decodes and for everything that only says
what would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PretrainedConfig

from ltd.common.assets import TRACES_FACTS, shipped_traces
from ltd.common.files import expand_user
from ltd.common.json_files import read_json
from ltd.common.machine import machine_facts
from ltd.decoding.decoder import Decoder
from ltd.drafts.base import DEFAULT_WIDTH
from ltd.drafts.opening import LOOKUP, default_draft, find_head, head_hash
from ltd.drafts.sharpness import sharpness_hash
from ltd.errors import InputError
from ltd.policies import Both, Learned, Lookup, Policy, Static
from ltd.policies.at_width import AtWidth
from ltd.policies.base import MadeForHead, check_policy, check_without_draft
from ltd.policies.beside_text import BesideText
from ltd.policies.cost_aware import CostAware, check_costs_fit
from ltd.policies.learned.bundle import FACTS, Bundle, load_bundle
from ltd.policies.learned.setting import Setting, check_fits, warn_of_factors
from ltd.policies.learned.store import (
    FREE_WHEN_SHIPPED,
    QUICK,
    TUNED,
    KeptBy,
    facts_of,
    kept_bundle,
    kept_rule,
    shipped_bundle,
)
from ltd.target.model import ModelName, NamedModel

NONE, STATIC = "none", "static"  # what a policy may be called beside its bundle's folder
PolicyRequest = Policy | str | Path | None
FindSetting = Callable[[], Setting | None]
# Small on a CPU, where verifying costs more with every node; the draft is asked only where the text says little. By
# replay the best of its kind on HumanEval with the default model, and flat around it. On a GPU, EAGLE-3's own.
DEFAULT_CPU_POLICY = Both(depth=1, size=3, text=8, alone=0.4)
DEFAULT_GPU_POLICY = Static(depth=8, size=60)
DEFAULT_LOOKUP_POLICY = Lookup(size=8)  # without a draft
ADVICE = "ltd tune makes one for this machine"
TESTED_ADVICE = "ltd tune takes minutes, and tests what it keeps"
QUICK_ADVICE = "ltd tune --quick fits one to this machine in about half a minute"
KEPT_BY: tuple[KeptBy, ...] = (TUNED, QUICK)  # the better known goes first
FREE_OF_TRACES = (*FREE_WHEN_SHIPPED, "dtype")  # a type rounds what is drafted and accepted a little differently


@dataclass(frozen=True, slots=True, eq=False)
class ChosenPolicy:
    """A policy, and why it is this one. As text it is a sentence for people.

    Attributes:
        policy: ready to use; None is plain decoding.
        origin: "given", as it was asked for; or, by default, "tuned", which `ltd tune` made for exactly this setting,
            "quick", which `ltd tune --quick` did, "shipped", which may be made for another processor, or "static", as
            no learned one fits; "none" is plain decoding, asked for with the policy or the draft.
        bundle: that it was read with, if it was.
        file: that it was read from, if it is a rule that was kept here.
        advice: how to come to a better one, for people.
    """

    policy: Policy | None
    origin: Literal["given", "tuned", "quick", "shipped", "static", "none"]
    bundle: Bundle | None = None
    file: Path | None = None
    advice: str = ADVICE

    @property
    def files(self) -> list[Path]:
        """What says how it decides, where that is not its name: facts that name all else by hash."""
        if self.file is not None:
            return [self.file]
        return [] if self.bundle is None or self.bundle.folder is None else [self.bundle.folder / FACTS]

    def __str__(self) -> str:
        if self.origin == "none":
            return "plain decoding"
        if self.origin == "static":
            return f"{self.policy}, as no learned one fits; {self.advice}"
        if self.origin == "shipped":
            assert self.bundle is not None
            made = self.bundle.policy.made_for.hardware or "an unknown processor"
            return f"{self.policy}, shipped with ltd and tuned on {made}; {self.advice}"
        folder = None if self.bundle is None else self.bundle.folder
        if (place := self.file or folder) is None:
            return f"{self.policy}, as asked for"
        how = {TUNED: "tuned for this machine, ", QUICK: "quickly tuned for this machine, "}.get(self.origin, "")
        return f"{self.policy}, {how}in {place}" + f"; {self.advice}" * (self.origin == QUICK)


def choose_policy(
    asked: PolicyRequest, setting: FindSetting, device: torch.device, *, looks_up: bool = False
) -> ChosenPolicy:
    """The policy that was asked for, or the best that is known here.

    Args:
        asked: a policy, the folder of a bundle, "static" for the static tree of this kind of device, or "none"; None is
            what `ltd tune` made for this setting, or else `ltd tune --quick`, or else a shipped bundle that fits, or
            else "static".
        setting: says what a policy meets here; None where there is no draft to decide about, whatever is asked for.
            It is called only where the answer depends on it, as it reads the whole draft head for its hash.
        device: where the decoder is.
        looks_up: whether tokens are looked up and nothing is drafted: then "static" is the fixed setting for that.

    Raises:
        InputError: there is no such policy, no whole bundle in the folder, it was made for another target or head, or
            it decides about a draft where there is none.

    Warns:
        TunedElsewhereWarning: the policy was asked for, and tuned for other hardware, another dtype or number of
            threads; or it was tuned beside other factors for sampled text.
        UserWarning: a damaged bundle was left out of the choice.
    """
    check_asked(asked)
    if asked is None:
        return _best_known(setting(), device)
    if asked == NONE:
        return ChosenPolicy(None, "none")
    if asked == STATIC:
        return ChosenPolicy(static_tree(device, looks_up=looks_up), "given")
    if isinstance(asked, str | Path):
        bundle = read_bundle(asked)
        chosen = ChosenPolicy(bundle.policy, "given", bundle)
    else:
        chosen = ChosenPolicy(asked, "given")
    if looks_up and chosen.policy is not None:
        check_without_draft(chosen.policy)
    _check_made_for(chosen.policy, setting)
    return chosen


def check_asked(policy: PolicyRequest) -> None:
    """Raises InputError unless something can be asked for as a policy; whether a name means one is left open."""
    if policy is not None and not isinstance(policy, str | Path):
        check_policy(policy, 'a policy such as ltd.Static(3, 24), the folder of a bundle, "static", "none" or None')


def read_bundle(name: str | Path) -> Bundle:
    """The bundle in the folder that a policy was asked for by.

    Raises:
        InputError: there is no such folder, or no whole bundle in it.
    """
    folder = expand_user(name)
    if not folder.is_dir():
        raise InputError(f"unknown policy {str(name)!r}; use static, none or the folder of a policy bundle")
    return load_bundle(folder)


def _best_known(setting: Setting | None, device: torch.device) -> ChosenPolicy:
    """What is taken by itself; for a head whose hash is unknown there is no bundle."""
    if setting is None:
        return ChosenPolicy(None, "none")
    advice = QUICK_ADVICE if quick_tunes(setting, device) else ADVICE
    if setting.head_sha256 is not None:
        for kept_by in KEPT_BY:
            if (bundle := kept_bundle(setting, kept_by)) is not None:
                warn_of_factors(bundle.policy.made_for, setting)
                return ChosenPolicy(bundle.policy, kept_by, bundle, advice=TESTED_ADVICE)
            if (found := kept_rule(setting, kept_by)) is not None:
                return ChosenPolicy(found[1], kept_by, file=found[0], advice=TESTED_ADVICE)
        if (bundle := shipped_bundle(setting, device)) is not None:
            warn_of_factors(bundle.policy.made_for, setting)
            return ChosenPolicy(bundle.policy, "shipped", bundle, advice=advice)
    return ChosenPolicy(static_tree(device, looks_up=setting.head_sha256 == LOOKUP), "static", advice=advice)


def quick_tunes(setting: Setting, device: torch.device) -> bool:
    """Whether `ltd tune --quick` can make a policy for a setting: the traces of one target and head are shipped.

    Where tokens are looked up and nothing is drafted, the head does not count.
    """
    try:
        traced = Setting(**read_json(shipped_traces() / TRACES_FACTS, dict[str, Any])["made_for"])
    except (InputError, LookupError, TypeError):
        return False  # an installation without them
    free = (*FREE_OF_TRACES, *(("head_sha256",) if setting.head_sha256 == LOOKUP else ()))
    return device.type == "cpu" and facts_of(traced, free) == facts_of(setting, free)


def static_tree(device: torch.device, *, looks_up: bool = False) -> Policy:
    """The static policy for a kind of device, or where tokens are looked up and nothing is drafted."""
    if looks_up:
        return DEFAULT_LOOKUP_POLICY
    return DEFAULT_CPU_POLICY if device.type == "cpu" else DEFAULT_GPU_POLICY


def _check_made_for(policy: Policy | None, setting: FindSetting) -> None:
    """Checks that a trained policy, or what a rule's costs were measured on, is what it meets; see `check_fits`.

    Raises:
        InputError: it is for another head or target.
    """
    while isinstance(policy, BesideText | AtWidth):
        policy = policy.rule
    if not isinstance(policy, Learned | MadeForHead | CostAware):
        return
    here = setting()
    if here is None:
        return
    if isinstance(policy, Learned):
        check_fits(policy.made_for, here)
    elif isinstance(policy, CostAware):
        check_costs_fit(policy.costs, here)
    elif policy.head_sha256 not in (None, here.head_sha256):
        raise InputError(
            f"{policy} was trained for another draft head; train one for this head with ltd train-baseline, and name "
            "it with the option model=FOLDER"
        )


# --- what a policy meets ---


def setting_of(decoder: Decoder) -> Setting | None:
    """What a policy for this decoder is made for, the target's name left out; None where there is nothing to decide.

    A decoder without a draft, but with text scores, looks tokens up.
    """
    target, draft = decoder.target, decoder.draft
    if decoder.looks_up:
        return make_setting(target.config, LOOKUP, target.dtype, target.device)
    if draft is None:
        return None
    origin = draft.origin
    head_sha256 = None if origin is None else origin.sha256
    setting = make_setting(target.config, head_sha256, target.dtype, target.device, draft.width)
    return setting if origin is None else replace(setting, sampling_sha256=sharpness_hash(origin.folder))


def expected_setting(
    target: ModelName, draft: str | Path | None, dtype: torch.dtype, device: torch.device
) -> Setting | None:
    """`setting_of` what `load` makes of these names, found without loading weights; None for plain decoding.

    Raises:
        InputError: there is no such target.
    """
    if draft is not None and str(draft) == NONE:
        return None
    model = NamedModel.of(target)
    head = find_head(resolve_draft(model, draft))
    if head is None:
        return make_setting(model.config, LOOKUP, dtype, device)
    setting = make_setting(model.config, head_hash(head), dtype, device)
    return replace(setting, sampling_sha256=sharpness_hash(head))


def resolve_draft(target: ModelName, draft: str | Path | None) -> str | Path | None:
    """What to draft with, for `find_head`, as `load` resolves it; raises InputError if there is no such target."""
    model = NamedModel.of(target)
    if draft is not None or model.name is None:  # the shipped head is the default target's
        return draft
    return default_draft(model.config, lambda: model.fingerprint)


def make_setting(
    config: PretrainedConfig,
    head_sha256: str | None,
    dtype: torch.dtype,
    device: torch.device,
    width: int = DEFAULT_WIDTH,
) -> Setting:
    """What a policy is made for: a target, told by its config, with a head of this hash, on this machine.

    Where tokens are looked up and nothing is drafted, `LOOKUP` takes the place of the hash.
    """
    facts = machine_facts(device)
    return Setting(
        width=width,
        vocab_size=int(config.vocab_size),
        hidden_size=int(config.hidden_size),
        layers=int(config.num_hidden_layers),
        head_sha256=head_sha256,
        hardware=str(facts["processor" if device.type == "cpu" else "gpu"]),
        dtype=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads() if device.type == "cpu" else None,
    )
