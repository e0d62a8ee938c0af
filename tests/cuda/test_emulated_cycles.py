"""Whole answers on the CUDA kernels, in cycles that are recorded and replayed as graphs are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from emulated import emulated_kernels
from small_models import FAMILIES, VOCABULARY, small_config
from tape import Tape
from transformers import AutoModelForCausalLM

from ltd.decoding.decoder import Decoder
from ltd.drafts.eagle3.device import HeadDeviceEngine
from ltd.drafts.eagle3.draft import Eagle3Draft
from ltd.drafts.eagle3.head import Eagle3Config, Eagle3Head
from ltd.engine.device import DeviceEngine
from ltd.policies import Both, Static
from ltd.target.target import Target

PROMPT, NEW = [5, 6, 7, 5, 6], 10
ORDER = 3  # of the threads


@pytest.mark.parametrize("family", FAMILIES)
def test_replayed_cycles_on_cuda_kernels_give_the_text(family: str) -> None:
    """Greedily `transformers`' own text, sampled that of plain decoding."""
    torch.manual_seed(0)
    config = small_config(family)
    config.num_hidden_layers = 3
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:2] + config.layer_types[-1:]
    model = AutoModelForCausalLM.from_config(config).eval()
    sizes = Eagle3Config.for_target(config, draft_vocab_size=VOCABULARY)
    ids, head = torch.tensor([PROMPT]), Eagle3Head(sizes).eval()
    with torch.no_grad():
        mask = torch.ones_like(ids)
        whole = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW, eos_token_id=2)
    target = Target(model, sizes.feature_layers, DeviceEngine(model))
    draft = Eagle3Draft(head, target.embedding, width=3, forward=HeadDeviceEngine(head))
    decoder = Decoder(target, draft, stop_ids=[2])
    sampled: dict[str, Any] = {"temperature": 0.9, "seed": 4, "max_new_tokens": NEW}
    drawn = decoder.generate(PROMPT, **sampled, policy="none").token_ids
    tapes: list[Tape] = []

    def new_tape() -> Tape:
        tapes.append(Tape())
        return tapes[-1]

    target.captures = new_tape  # type: ignore[method-assign]
    with emulated_kernels(ORDER):
        for policy in (Static(1, 5), Both(1, 3, 4)):
            answer = decoder.generate(PROMPT, max_new_tokens=NEW, policy=policy)
            assert answer.token_ids == whole[0, len(PROMPT) :].tolist()
            assert decoder.generate(PROMPT, **sampled, policy=policy).token_ids == drawn
    assert len(tapes) == 4 and all(tape.replays for tape in tapes)
