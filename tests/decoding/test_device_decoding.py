"""Decoding with the forwards for GPUs, the target's and the head's, on the CPU's kernels and the emulated CUDA ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from emulated import emulated_kernels
from small_models import FAMILIES
from test_decoder import plain_model, random_prompts, reference
from test_recorded_cycles import taped

from ltd.decoding.decoder import Decoder
from ltd.drafts.eagle3.device import HeadDeviceEngine
from ltd.drafts.eagle3.draft import Eagle3Draft
from ltd.drafts.eagle3.files import load_head
from ltd.engine.device import DeviceEngine
from ltd.policies import Static
from ltd.target.target import Target

Folder = Callable[[str], Path]


def device_decoder(target: Path, head: Path, depth: int, size: int) -> Decoder:
    """A decoder on the forwards for GPUs."""
    trained = load_head(head, torch.float32, torch.device("cpu"))
    model = plain_model(target)
    engine = DeviceEngine(model)
    draft = Eagle3Draft(trained, engine.embedding, width=4, forward=HeadDeviceEngine(trained))
    return Decoder(Target(model, draft.feature_layers, engine), draft, Static(depth, size), stop_ids=[2])


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_text_is_that_of_transformers(tiny_target: Folder, tiny_head: Folder, family: str) -> None:
    decoder = device_decoder(tiny_target(family), tiny_head(family), 3, 12)
    prompts = random_prompts(7, [1, 5, 60])
    together = decoder.generate(prompts, max_new_tokens=30)
    for prompt, answer in zip(prompts, together, strict=True):
        assert answer.token_ids == reference(plain_model(tiny_target(family)), prompt, 30)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_emulated_kernels_write_the_same_text(tiny_target: Folder, tiny_head: Folder, family: str) -> None:
    decoder = device_decoder(tiny_target(family), tiny_head(family), 1, 5)
    (prompt,) = random_prompts(3, [26])  # beyond the windows of the families that have one
    with emulated_kernels(5):
        answer = decoder.generate(prompt, max_new_tokens=6)
    assert answer.token_ids == reference(plain_model(tiny_target(family)), prompt, 6)


def test_sampled_text_does_not_depend_on_the_tree(tiny_target: Folder, tiny_head: Folder) -> None:
    decoder = device_decoder(tiny_target("qwen3"), tiny_head("qwen3"), 3, 12)
    (prompt,) = random_prompts(4, [9])
    plain = decoder.generate(prompt, max_new_tokens=30, temperature=0.8, seed=11, policy="none")
    assert decoder.generate(prompt, max_new_tokens=30, temperature=0.8, seed=11).token_ids == plain.token_ids


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_recorded_serves_any_prefix(tiny_target: Folder, tiny_head: Folder, family: str) -> None:
    """Recorded without a prefix on a tape, which replays operators on their memory as a graph does."""
    decoder = device_decoder(tiny_target(family), tiny_head(family), 3, 12)
    tapes = taped(decoder)
    for prompt in random_prompts(8, [3, 70]):
        answer = decoder.generate(prompt, max_new_tokens=20)
        assert answer.token_ids == reference(plain_model(tiny_target(family)), prompt, 20)
    assert tapes and all(tape.replayed("verify", 12) > 0 and tape.calls == [] for tape in tapes)
