"""`ltd.load`: from names to a decoder."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal

import torch
from transformers import PretrainedConfig, PreTrainedModel

from ltd.decoder import Decoder
from ltd.drafts.checkpoint import load_head
from ltd.drafts.eagle3 import DEFAULT_WIDTH, Eagle3Draft
from ltd.drafts.head import Eagle3Head
from ltd.drafts.head_engine import HeadEngine
from ltd.engine import Engine
from ltd.errors import InputError
from ltd.files import file_hash
from ltd.machine import machine_facts
from ltd.models import (
    LoadedModel,
    load_model,
    locate,
    read_config,
    resolve_device,
    resolve_dtype,
    stop_token_ids,
    tokenizer_fingerprint,
)
from ltd.ops import build_info
from ltd.packing import pack_linears
from ltd.policies import Learned, Policy, Static
from ltd.policies.bundle import check_fits, load_bundle
from ltd.policies.c2t import C2T
from ltd.policies.disco import Disco
from ltd.policies.learned import Setting
from ltd.policies.specdecpp import SpecDecPP
from ltd.policies.store import find_bundle
from ltd.target import Target

KnownPolicy = Policy | Literal["none", "static"] | None
DEFAULT_HEAD = "eagle3-smollm2-135m-instruct"
# Small on a CPU, where verifying costs more with every node: the optimum measured with the default model is flat around
# this one (see the README). On a GPU, EAGLE-3's own.
DEFAULT_CPU_POLICY = Static(depth=1, size=4)
DEFAULT_GPU_POLICY = Static(depth=8, size=60)


def load(
    target: str | Path | None = None,
    draft: str | Path | None = None,
    *,
    policy: Policy | str | Path | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    threads: int | None = None,
    max_length: int | None = None,
) -> Decoder:
    """Loads a target and its draft, ready to generate.

    Args:
        target: a local folder, a GGUF file or a hub name; None is SmolLM2-135M-Instruct.
        draft: a folder with an EAGLE-3 head; None is the shipped head, which fits the default target; "none" leaves
            plain decoding only.
        policy: how deep to draft and how many candidates to verify; None is the policy that `ltd tune` made for this
            target, draft and machine, or else a shipped one that fits, or else "static", a static setting for this
            kind of machine; "none" is plain decoding; anything else is the folder of a policy bundle.
        dtype: auto (the fastest of this machine), float32, bfloat16 or float16.
        device: None is the CPU. "cuda" needs a build with CUDA kernels, which have not run on a GPU yet.
        threads: CPU threads; None leaves torch's own number.
        max_length: prompt and answer together; None is the model's context limit.

    Raises:
        InputError: anything above that cannot work, or a draft or policy that does not fit the target.

    Warns:
        TunedElsewhereWarning: a given policy bundle that was tuned for other hardware, another dtype or number of
            threads.
        UserWarning: a damaged bundle was left out of the choice.
    """
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place)
    if place.type != "cpu":
        check_kernels(place)
    set_threads(threads)
    chosen = find_policy(policy, place)
    loaded = load_model(target, kind, place)
    model, head = prepare(loaded, find_head(draft), kind, place, takes_weights=True)
    decoder = Decoder(
        model,
        head,
        tokenizer=loaded.tokenizer,
        stop_ids=stop_token_ids(loaded.model, loaded.tokenizer),
        max_length=max_length,
    )
    set_policy(decoder, chosen)
    return decoder


def set_threads(threads: int | None) -> None:
    """Sets torch's threads on the CPU, if a number is given; raises InputError if it is out of range."""
    if threads is not None:
        if threads < 1:
            raise InputError(f"threads {threads} is out of range; it must be at least 1")
        torch.set_num_threads(threads)


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
    """Checks that a trained policy is for a decoder's draft; for learned ones see `ltd.policies.bundle.check_fits`.

    Raises:
        InputError: it is for another.
    """
    if decoder.draft is None:
        return
    if isinstance(policy, Learned):
        check_fits(policy, setting_of(decoder))
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
    folder = draft.folder if isinstance(draft, Eagle3Draft) else None
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


def prepare(
    loaded: LoadedModel,
    head_folder: Path | None,
    dtype: torch.dtype,
    device: torch.device,
    *,
    takes_weights: bool = False,
) -> tuple[Target, Eagle3Draft | None]:
    """A target and its draft, if there is one, checked against each other.

    With `takes_weights` the model's weights may be packed away for speed; it can then no longer run by itself.
    """
    if head_folder is None:
        return make_target(loaded.model, (), takes_weights), None
    head = load_head(head_folder, dtype, device, target=loaded.model)
    target = make_target(loaded.model, head.config.feature_layers, takes_weights)
    # Without a tokenizer or a fingerprint only the sizes of the vocabularies are compared, by the draft.
    known = head.config.tokenizer_fingerprint if loaded.tokenizer is not None else None
    if known is not None and known != tokenizer_fingerprint(loaded.tokenizer, target.vocab_size):
        raise InputError(
            f"the head in {head_folder} was trained for another tokenizer than the target's; "
            "use a head trained for this target"
        )
    draft = make_draft(head, target)
    draft.folder = head_folder
    return target, draft


def make_draft(head: Eagle3Head, target: Target) -> Eagle3Draft:
    """A draft on the fastest path that there is for a head, whose weights it takes over on the CPU."""
    draft = Eagle3Draft(head, target.embedding)
    if target.device.type == "cpu":
        if HeadEngine.supports(head):
            draft.engine = HeadEngine(head)
        pack_linears(head)
    return draft


def make_target(model: PreTrainedModel, feature_layers: tuple[int, ...], takes_weights: bool) -> Target:
    """A target on the fastest path that there is for the model."""
    engine = None
    if takes_weights and model.device.type == "cpu":
        if Engine.supports(model):
            engine = Engine(model)
        else:
            pack_linears(model)
    return Target(model, feature_layers, engine)


def default_policy(device: torch.device) -> Static:
    """The static policy for a kind of device."""
    return DEFAULT_CPU_POLICY if device.type == "cpu" else DEFAULT_GPU_POLICY


def check_kernels(device: torch.device) -> None:
    """Raises InputError if this build has no kernels for the device."""
    if not build_info()["cuda"]:
        raise InputError(f"this build of ltd has no CUDA kernels for device {device}; use device cpu")


def find_head(draft: str | Path | None) -> Path | None:
    """The folder of the head, or None for plain decoding."""
    if draft is None:
        return shipped_head()
    return None if str(draft) == "none" else Path(draft).expanduser()


def head_hash(folder: Path | None) -> str | None:
    """SHA-256 of the weights of a head in our own layout; None without one."""
    return None if folder is None else file_hash(folder / "model.safetensors")


def shipped_head() -> Path:
    """The folder of the head that comes with this package, made for the default target."""
    return Path(str(resources.files("ltd") / "assets" / DEFAULT_HEAD))
