"""Which policy a decoder gets: a given one, one that was tuned here, a shipped one, or a static tree."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from transformers import PretrainedConfig

from ltd.common.machine import machine_facts
from ltd.decoding.decoder import Decoder
from ltd.drafts.base import DEFAULT_WIDTH
from ltd.drafts.opening import find_head, head_hash
from ltd.errors import InputError
from ltd.policies import Learned, Policy, Static
from ltd.policies.baselines.c2t import C2T
from ltd.policies.baselines.disco import Disco
from ltd.policies.baselines.specdecpp import SpecDecPP
from ltd.policies.learned.bundle import load_bundle
from ltd.policies.learned.setting import Setting, check_fits
from ltd.policies.learned.store import find_bundle
from ltd.target.locate import locate
from ltd.target.model import read_config

KnownPolicy = Policy | Literal["none", "static"] | None
# Small on a CPU, where verifying costs more with every node: the optimum measured with the default model is flat around
# this one (see the README). On a GPU, EAGLE-3's own.
DEFAULT_CPU_POLICY = Static(depth=1, size=4)
DEFAULT_GPU_POLICY = Static(depth=8, size=60)


def find_policy(choice: Policy | str | Path | None, device: str | torch.device = "cpu") -> KnownPolicy:
    """A policy where a bundle's folder may stand for one; everything else as it is.

    Raises:
        InputError: there is no whole bundle in the folder.
    """
    if choice == "none":
        return "none"
    if choice == "static":
        return "static"
    return load_bundle(Path(choice).expanduser(), device).policy if isinstance(choice, str | Path) else choice


def set_policy(decoder: Decoder, choice: KnownPolicy) -> None:
    """Gives a new decoder its policy: as chosen, or the best that is known here; none at all without a draft.

    Raises:
        InputError: a policy that does not fit target or draft.
    """
    if choice == "none" or decoder.draft is None:
        return
    device = decoder.target.device
    if choice is None:
        stored = find_bundle(setting_of(decoder), device)
        decoder.policy = default_policy(device) if stored is None else stored.policy
    elif choice == "static":
        decoder.policy = default_policy(device)
    else:
        decoder.policy = choice
        check_policy(decoder, choice)
    decoder.speculation()  # raises if its trees are too large


def check_policy(decoder: Decoder, policy: KnownPolicy) -> None:
    """Checks that a trained policy is for a decoder's draft; for learned ones see `check_fits`.

    Raises:
        InputError: it is for another.
    """
    if decoder.draft is None:
        return
    if isinstance(policy, Learned):
        check_fits(policy.made_for, setting_of(decoder))
    elif isinstance(policy, C2T | Disco | SpecDecPP) and policy.head_sha256 not in (
        None,
        setting_of(decoder).head_sha256,
    ):
        raise InputError(
            f"{policy} was trained for another draft head; train one for this head with ltd train-baseline, and name "
            "it with the option model=FOLDER"
        )


def setting_of(decoder: Decoder) -> Setting:
    """What a policy for this decoder, which has a draft, is made for; the target's name is left out."""
    target, draft = decoder.target, decoder.draft
    assert draft is not None
    folder = None if draft.origin is None else draft.origin.folder
    return make_setting(target.config, folder, target.dtype, target.device, draft.width)


def expected_setting(
    target: str | Path | None, draft: str | Path | None, dtype: torch.dtype, device: torch.device
) -> Setting | None:
    """`setting_of` what `load` would make of these names, found without loading weights; None for plain decoding.

    Raises:
        InputError: there is no such target.
    """
    head = find_head(draft)
    return None if head is None else make_setting(read_config(locate(target)), head, dtype, device)


def make_setting(
    config: PretrainedConfig,
    head: Path | None,
    dtype: torch.dtype,
    device: torch.device,
    width: int = DEFAULT_WIDTH,
) -> Setting:
    """What a policy is made for: a target, told by its config, with the head in a folder, on this machine."""
    facts = machine_facts()
    return Setting(
        width=width,
        vocab_size=int(config.vocab_size),
        hidden_size=int(config.hidden_size),
        layers=int(config.num_hidden_layers),
        head_sha256=head_hash(head),
        hardware=str(facts["processor" if device.type == "cpu" else "gpu"]),
        dtype=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads() if device.type == "cpu" else None,
    )


def default_policy(device: torch.device) -> Static:
    """The static policy for a kind of device."""
    return DEFAULT_CPU_POLICY if device.type == "cpu" else DEFAULT_GPU_POLICY
