"""What both forwards promise: trees may come in parts, sessions may take turns, and a model is left as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_models import family_engine, family_model
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import VOCABULARY
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from ltd.decoding.decoder import Decoder
from ltd.engine.attention import attend_tree
from ltd.engine.forward import Forward, TreeBlock
from ltd.target.opening import open_forward
from ltd.target.target import Target
from ltd.target.transformers_layers import ATTENTION, TransformersLayers

Folder = Callable[[str], Path]
TAPS = (1, 8)


def layers_of(family: str, dtype: torch.dtype) -> Forward:
    return TransformersLayers(copy.deepcopy(family_model(family, dtype)))


@pytest.fixture
def model(tiny_target: Folder) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_target("llama"), dtype=torch.float32).eval()


def is_untouched(model: PreTrainedModel) -> bool:
    """Whether neither our attention nor a hook of ours is in a model."""
    hooks = [hook for module in model.modules() for hook in module._forward_pre_hooks]
    return model.config._attn_implementation != ATTENTION and not hooks


@pytest.mark.parametrize("open_one", [family_engine, layers_of])
@settings(max_examples=10)
@given(seed=st.integers(0, 2**31), nodes=st.integers(2, 70), data=st.data())
@torch.inference_mode()
def test_a_tree_in_two_parts_is_the_tree(
    open_one: Callable[[str, torch.dtype], Forward], seed: int, nodes: int, data: st.DataObject
) -> None:
    first, generator = data.draw(st.integers(1, nodes - 1)), torch.Generator().manual_seed(seed)
    forward = open_one("llama", torch.float32)
    sessions = [forward.open(1, 128) for _ in range(2)]
    prompt = torch.randint(3, VOCABULARY, (1, 9), generator=generator)
    for cache in sessions:
        forward(prompt, TreeBlock.chain(cache.lengths, 9), cache)
        cache.advance([9])
    tokens = torch.randint(3, VOCABULARY, (1, nodes), generator=generator)
    positions = torch.zeros(1, nodes, dtype=torch.long)
    masks = torch.zeros(1, nodes, 2, dtype=torch.int64)
    for node in range(nodes):
        if node > 0:
            parent = int(torch.randint(node, (), generator=generator))
            positions[0, node], masks[0, node] = positions[0, parent] + 1, masks[0, parent]
        masks[0, node, node // 64] |= torch.tensor(1) << node % 64
    positions += 9
    whole = forward(tokens, TreeBlock(sessions[0].lengths, positions, masks), sessions[0], taps=TAPS)
    lengths, parts = sessions[1].lengths, []
    for start, end in ((0, first), (first, nodes)):
        block = TreeBlock(lengths, positions[:, start:end], masks[:, start:end].contiguous(), first_row=start)
        parts.append(forward(tokens[:, start:end], block, sessions[1], taps=TAPS))
    for name in ("logits", "features"):
        together = torch.cat([getattr(part, name) for part in parts], dim=1)
        torch.testing.assert_close(together, getattr(whole, name), rtol=1e-3, atol=1e-3)


def test_sessions_take_turns_on_one_model_and_leave_it_alone(model: PreTrainedModel) -> None:
    prompts = [[5, 9, 14], [7, 8, 30, 41, 52, 6]]
    alone = [Decoder(Target(model, TAPS)).generate(prompt, max_new_tokens=12).token_ids for prompt in prompts]
    before = model(torch.tensor([prompts[1]])).logits
    streams = [Decoder(Target(model, TAPS)).stream(prompt, max_new_tokens=12) for prompt in prompts]
    answers: list[list[int]] = [[], []]
    for news in zip(*streams, strict=True):
        for answer, new in zip(answers, news, strict=True):
            answer += new
        assert is_untouched(model)
        assert torch.equal(model(torch.tensor([prompts[1]])).logits, before)
    assert answers == alone


def test_a_model_is_not_even_touched_during_a_forward(model: PreTrainedModel) -> None:
    before = model(torch.tensor([[5, 6]])).logits
    seen: list[bool] = []

    def attention(*arguments: Any) -> torch.Tensor:
        seen.append(is_untouched(model) and torch.equal(model(torch.tensor([[5, 6]])).logits, before))
        return attend_tree(*arguments)

    decoder = Decoder(Target(model, TAPS, TransformersLayers(model, attention)))
    decoder.generate([5, 9, 14], max_new_tokens=3, stop_token_ids=())
    assert seen == [True] * (3 * model.config.num_hidden_layers)


def test_threads_may_share_a_model(model: PreTrainedModel) -> None:
    prompts = [[5, 9, 14], [7, 8, 30, 41, 52, 6], [3], [11, 12]]

    def answer(prompt: list[int]) -> Any:
        return Decoder(Target(model, TAPS)).generate(prompt, max_new_tokens=30)

    alone = [answer(prompt).token_ids for prompt in prompts]
    with ThreadPoolExecutor(len(prompts)) as pool:
        assert [each.token_ids for each in pool.map(answer, prompts)] == alone
    assert is_untouched(model)


def test_a_forward_that_fails_leaves_the_model_alone(model: PreTrainedModel) -> None:
    class Broken(Exception):
        pass

    class BreaksOff(nn.Module):
        def forward(self, *_: Any, **__: Any) -> torch.Tensor:
            raise Broken

    forward: Forward = TransformersLayers(model)
    body: Any = model.model
    good, body.layers[3].mlp = body.layers[3].mlp, BreaksOff()
    cache = forward.open(1, 16)
    with pytest.raises(Broken):
        forward(torch.tensor([[5, 6]]), TreeBlock.chain(cache.lengths, 2), cache, taps=TAPS)
    body.layers[3].mlp = good
    assert is_untouched(model)
    assert model(torch.tensor([[5, 6]])).logits.isfinite().all()


def test_weights_are_taken_only_where_they_may_be(model: PreTrainedModel) -> None:
    before = model(torch.tensor([[5, 6]])).logits
    forward = open_forward(model, takes_weights=False)
    cache = forward.open(1, 16)
    with torch.inference_mode():
        read = forward(torch.tensor([[5, 6]]), TreeBlock.chain(cache.lengths, 2), cache)
    torch.testing.assert_close(read.logits, before, rtol=1e-3, atol=1e-3)
    assert read.features is None
    assert torch.equal(model(torch.tensor([[5, 6]])).logits, before)
