"""A GPU's whole path, from planting models to the last token, is given tensors of its device alone: on the meta device.

What the host hears of gains and decisions is made up; whether these are right is asked elsewhere.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from meta_device import META, Called, OneDevice, Told, TwoDevicesError, host_hears
from test_recorded_cycles import Sometimes

import planted_models
from ltd.decoding.decoder import Decoder
from ltd.decoding.workspace import Workspace
from ltd.drafts import opening as drafts
from ltd.drafts.eagle3.device import HeadDeviceEngine
from ltd.engine.device import DeviceEngine
from ltd.lookup import TEXT_FEATURES
from ltd.policies import Both, Learned, Policy, Static
from ltd.policies.learned.network import Network
from ltd.policies.learned.observation import Layout, Summary
from ltd.policies.learned.setting import Setting
from ltd.target import opening as targets
from ltd.tree import DraftTree, candidate_count
from planted_models import SHAPES, plant
from random_weights import random_weights

SHAPE, DEPTH, WIDTH = "tiny-llama", 2, 10
PROMPTS = [[5] * 7, [6] * 30, [5, 6] * 50]
PARTS = {"verify", "walk", "commit"}
DRAFTED = {*PARTS, "begin", "expand"}


def network(layout: Layout | Summary, outputs: int) -> Network:
    """A random one, on the host, as policies are read."""
    return Network(layout, tuple(random_weights([layout.width, 8, outputs], torch.Generator().manual_seed(0))))


def learned(depth: Layout | Summary, size: Layout | Summary, **options: Any) -> Learned:
    """A policy whose networks read these."""
    return Learned(Setting(WIDTH), DEPTH, (4, 8, 20), network(depth, 2), network(size, 3), **options)


SUMMARY = Summary(best=5, newest=2, states=SHAPES[SHAPE].config.hidden_size)
WITH_TEXT = replace(SUMMARY, text=TEXT_FEATURES)
POLICIES: dict[str, Policy | None] = {
    "plain": None,
    "static": Static(DEPTH, 20),
    "both": Both(DEPTH, 12, 8),
    "sometimes": Sometimes(),
    "learned": learned(SUMMARY, SUMMARY),
    "learned with text": learned(WITH_TEXT, WITH_TEXT, max_text=8),
    "the paper's": learned(Layout(WIDTH**2, 14), Layout(candidate_count(WIDTH, DEPTH), 29), min_depth=1),
}


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    """As `make gpu-check` plants it, on the engines of a GPU."""
    with (
        OneDevice(),
        patch.object(planted_models, "fill"),  # torch has no generator there
        patch.object(targets, "build_info", lambda: {"cuda": True}),
        patch.object(drafts, "build_info", lambda: {"cuda": True}),
    ):
        planted = plant(SHAPE, DEPTH, 3.0, torch.bfloat16, META).decoder
    scripted: Any = planted.draft
    assert isinstance(planted.target.forward, DeviceEngine)
    assert isinstance(scripted.forward.forward, HeadDeviceEngine)
    return planted


@pytest.mark.parametrize(("records", "temperature", "batch"), [(True, 0.0, 1), (True, 0.8, 3), (False, 0.8, 3)])
@pytest.mark.parametrize("name", POLICIES)
def test_all_is_on_the_device(decoder: Decoder, name: str, records: bool, temperature: float, batch: int) -> None:
    """Recorded, what is left of a batch is refilled; called, it is cut down."""
    policy = POLICIES[name]
    options: dict[str, Any] = {"max_new_tokens": 16, "stop_token_ids": [9], "temperature": temperature}
    decoder.target.workspaces.clear()
    mode = OneDevice()
    recorded = Called(mode, records)
    with (
        mode,
        host_hears(Told(token=5, last=9, most=1 if policy is None else 3)),
        patch.object(decoder.target, "captures", lambda: recorded),
        patch.object(Workspace, "refill", autospec=True, side_effect=Workspace.refill) as refill,
        patch.object(Workspace, "keep", autospec=True, side_effect=Workspace.keep) as keep,
        patch.object(DraftTree, "merge", autospec=True, side_effect=DraftTree.merge) as merge,
    ):
        answers = decoder.generate(PROMPTS[:batch], policy=policy or "none", **options)
    assert len({len(answer.token_ids) for answer in answers}) == batch
    assert (refill.call_count, keep.call_count) == ((batch - 1, 0) if records else (0, batch - 1))
    assert (merge.call_count > 0) == (name in ("both", "learned with text"))
    parts = {part for part, *_ in recorded.parts}
    assert parts == (set() if not records else PARTS if policy is None else DRAFTED)
    assert not (records and recorded.called)


def test_tensors_of_the_host_are_found() -> None:
    """Also by operators of torch whose kernels for shapes do not ask."""
    host, there = torch.zeros(2, 2), torch.zeros(2, 2, device=META)
    assert torch.mm(there, host).is_meta
    with OneDevice() as mode:
        there.copy_(host)
        with pytest.raises(TwoDevicesError, match="of the device and of the host"):
            torch.mm(there, host)
        with mode.recorded():
            for refused in (lambda: there.copy_(host), lambda: torch.arange(3)):
                with pytest.raises(TwoDevicesError, match="a recorded part"):
                    refused()
