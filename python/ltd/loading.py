"""`ltd.load`: from names to a decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel

from ltd.common.argument_types import as_truth
from ltd.common.threads import set_threads
from ltd.decoding.decoder import Decoder
from ltd.decoding.generation_config import ModelRules
from ltd.decoding.in_parallel import ParallelDecoder
from ltd.decoding.reuse import REUSE_MIB, as_reuse
from ltd.decoding.self_check import check_head
from ltd.drafts import Draft
from ltd.drafts.opening import LOOKUP, find_head, find_text_scores, is_published, read_draft
from ltd.drafts.opening import NONE as NO_DRAFT
from ltd.engine.forward import Forward
from ltd.errors import InputError
from ltd.ops.library import build_info
from ltd.parallel.follower import FollowingProcess
from ltd.parallel.joining import join
from ltd.parallel.layers import LeadingLayers
from ltd.parallel.leader import Leader
from ltd.policy_choice import (
    NONE,
    PolicyRequest,
    choose_policy,
    expected_setting,
    resolve_draft,
)
from ltd.target.device import AUTO, choose_device, resolve_dtype, say_device
from ltd.target.locate import quiet_transformers
from ltd.target.model import LoadedModel, NamedModel, load_model, stop_token_ids, tokenizer_fingerprint
from ltd.target.opening import open_forward
from ltd.target.target import Target


def load(
    target: str | Path | None = None,
    draft: str | Path | None = None,
    *,
    policy: PolicyRequest = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = AUTO,
    threads: int | None = None,
    max_length: int | None = None,
    history: Sequence[int] = (),
    reuse_mib: int = REUSE_MIB,
    tensor_parallel: bool = False,
) -> Decoder:
    """Loads a target and its draft, ready to generate.

    Logits processors that the model's own generation settings name, such as a repetition penalty, are applied, as in
    the greedy `generate` of `transformers`. What they say about sampling is not: decoding is greedy unless a call asks
    for something else.

    Args:
        target: a local folder, a GGUF file or a hub name; None is SmolLM2-135M-Instruct.
        draft: a folder with an EAGLE-3 head; "lookup" drafts nothing, but looks tokens up in the text so far, which
            works with every target; "none" leaves plain decoding only, and so does the policy "none". None is the
            shipped head where it has the sizes for the target, as for the default one, and else "lookup".
        policy: how deep to draft and how many candidates to verify; None is the policy that `ltd tune` made for this
            target, draft and machine, or else `ltd tune --quick`, or else a shipped one that fits, or else "static", a
            static setting for this kind of machine; "none" is plain decoding; anything else is the folder of a policy
            bundle.
        dtype: auto (the fastest of this machine), float32, bfloat16 or float16.
        device: cpu, cuda or cuda:N; "auto" is the GPU once `make gpu-check` has passed on it with this build, and until
            then the CPU. Where there is a GPU, which it is, and why, is said on standard error.
        threads: CPU threads, at most one per processor; None is what OMP_NUM_THREADS or torch.set_num_threads gave, or
            else torch's own number, but no more than there are cores and the quota of a container allows.
        max_length: prompt and answer together; None is the model's context limit.
        history: token ids of other texts, such as earlier answers, in which tokens are looked up as well.
        reuse_mib: MiB of memory for what was read of earlier texts, so that a request which begins like one of them,
            as the next turn of a chat does, reads the rest alone, with the same result bit for bit; 0 keeps nothing.
        tensor_parallel: whether the target is spread over the processes that `torchrun` started, each with its GPU, all
            of which call this and then the decoder alike, see `ltd.decoding.in_parallel.ParallelDecoder`.

    Raises:
        InputError: anything above that cannot work, a draft or policy that does not fit the target, or generation
            settings of the model that are not honoured, such as beam search.

    Warns:
        TunedElsewhereWarning: a given policy bundle that was tuned for other hardware, another dtype or number of
            threads.
        ImplausibleHeadWarning: a head in a published layout, with which a few tokens are generated here, proposes
            hardly anything that the target takes.
        UserWarning: a damaged bundle was left out of the choice, or a head in a published layout could not be tried.
    """
    here = partial(load_here, target, draft, policy, dtype, device, threads, max_length, history, reuse_mib)
    if not as_truth(tensor_parallel, "tensor_parallel"):
        return here(None)
    side = join()
    if isinstance(side, Leader):
        return side.once("load", partial(here, side), tell=facts_for_others)
    return following_decoder(side, **side.once("load", partial(here, None)))


def load_here(
    target: str | Path | None,
    draft: str | Path | None,
    policy: PolicyRequest,
    dtype: str | torch.dtype,
    device: str | torch.device | None,
    threads: int | None,
    max_length: int | None,
    history: Sequence[int],
    reuse_mib: int,
    leader: Leader | None,
) -> Decoder:
    """`load` in a process that decides: the only one, or the first of several, whose leader it then is."""
    chosen_device = choose_device(device)
    place = chosen_device.device
    if leader is not None:
        check_place(place, leader)
        place = leader.peers.device
    kind = resolve_dtype(dtype, place)
    if place.type != "cpu":
        check_kernels(place)
    say_device(chosen_device)
    set_threads(threads)
    find_head(draft)  # raises if it is no path
    as_reuse(reuse_mib)  # raises if it is out of range
    named = NamedModel(target)
    draft = NO_DRAFT if policy == NONE else resolve_draft(named, draft)
    looks_up = str(draft) == LOOKUP
    setting = partial(expected_setting, named, draft, kind, place)
    chosen = choose_policy(policy, setting, place, looks_up=looks_up)
    scores = find_text_scores(draft)
    loaded = load_model(named, kind, place, None if leader is None else partial(leader.load, threads=threads))
    rules = ModelRules.of(loaded.model)
    folder = find_head(draft)
    # The type that a quantised model computes in may be another than was asked for.
    model, head = prepare(loaded, folder, loaded.model.dtype, place, takes_weights=True, leader=leader)
    make: Callable[..., Decoder] = Decoder if leader is None else partial(ParallelDecoder, leader)
    decoder = make(
        model,
        head,
        chosen.policy if head is not None or looks_up else None,
        tokenizer=loaded.tokenizer,
        stop_ids=stop_token_ids(loaded.model, loaded.tokenizer),
        max_length=max_length,
        rules=rules,
        text_scores=scores,
        history=history,
        reuse_mib=reuse_mib,
    )
    if folder is not None and is_published(folder):
        check_head(decoder, folder)
    return decoder


def prepare(
    loaded: LoadedModel,
    head_folder: Path | None,
    dtype: torch.dtype,
    device: torch.device,
    *,
    takes_weights: bool = False,
    leader: Leader | None = None,
) -> tuple[Target, Draft | None]:
    """A target and its draft, if there is one, checked against each other.

    With `takes_weights` the model's weights may be packed away for speed; it can then no longer run by itself. With a
    `leader` the model is spread over processes, and stays as it is.
    """
    layers = None if leader is None else LeadingLayers(loaded.model, leader)
    if head_folder is None:
        return make_target(loaded.model, (), takes_weights, layers), None
    # Without a tokenizer or a fingerprint only the sizes of the vocabularies are compared, by the draft.
    tokenizer, words = loaded.tokenizer, int(loaded.model.config.vocab_size)
    fingerprint = None if tokenizer is None else tokenizer_fingerprint(tokenizer, words)
    source: Any = layers or loaded.model  # asked for its configuration and its output layer
    stored = read_draft(head_folder, dtype, device, model=source, fingerprint=fingerprint)
    target = make_target(loaded.model, stored.feature_layers, takes_weights, layers)
    return target, stored.at_work(target.embedding)


def make_target(
    model: PreTrainedModel, feature_layers: tuple[int, ...], takes_weights: bool, forward: Forward | None = None
) -> Target:
    """A target with a forward, by default on the fastest path that there is for the model."""
    return Target(model, feature_layers, forward or open_forward(model, takes_weights=takes_weights))


# --- one target over several processes ---


def check_place(device: torch.device, leader: Leader) -> None:
    """Raises InputError unless a device that was asked for is that of the processes."""
    used = leader.peers.device
    if device.type != used.type or device.index not in (None, used.index):
        raise InputError(
            f"the device is {device}, but a target is spread over the {used.type} devices of its processes, one each; "
            f"use device {used.type}" + ", or hide the GPUs with CUDA_VISIBLE_DEVICES=" * (used.type == "cuda")
        )


def facts_for_others(decoder: Decoder) -> dict[str, Any]:
    """What `following_decoder` needs of the first process's."""
    assert isinstance(decoder.target.forward, LeadingLayers)
    name = decoder.tokenizer.name_or_path
    return {"model": decoder.target.forward.number, "tokenizer": name, "max_length": decoder.max_length}


def following_decoder(side: FollowingProcess, model: int, tokenizer: str, max_length: int) -> ParallelDecoder:
    """The decoder of a process that is not the first, for a model by its number."""
    layers = side.layers[model]
    with quiet_transformers():
        words = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False)
    return ParallelDecoder(side, Target(layers.model, (), layers), tokenizer=words, max_length=max_length)


def check_kernels(device: torch.device) -> None:
    """Raises InputError if this build has no kernels for the device."""
    if not build_info()["cuda"]:
        raise InputError(f"this build of ltd has no CUDA kernels for device {device}; use device cpu")
