"""Batches inside `generate`: every row has its own processors' state, end and padding, as without `CustomGenerate`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from drafted_inside import often_right
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import VOCABULARY, small_config
from transformers import (
    AutoModelForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

import ltd

Folder = Callable[[str], Path]


@cache
def model() -> PreTrainedModel:
    torch.manual_seed(3)
    made = AutoModelForCausalLM.from_config(small_config("llama")).eval()
    made.config.pad_token_id = made.generation_config.pad_token_id = made.generation_config.eos_token_id = None
    return made


@cache
def drafted(noise: float) -> ltd.CustomGenerate:
    return often_right(model(), noise)


class Grammar(LogitsProcessor):
    """A strict one: a state per row, moved on by every call; nothing may be asked of it behind the end of all."""

    def __init__(self, ends: set[int]) -> None:
        self.ends, self.states, self.seen = ends, None, []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        last = input_ids[:, -1].tolist()
        assert not self.seen or not all(token in self.ends for token in last), "asked behind the end"
        self.seen.append(input_ids.tolist())
        self.states = [0] * len(last) if self.states is None else self.states
        self.states = [(3 * state + token + 1) % 7 for state, token in zip(self.states, last, strict=True)]
        scores = scores.clone()
        for row, state in enumerate(self.states):
            scores[row, state::7] += 4.0
        return scores


class Tired(StoppingCriteria):
    """Counts the odd tokens of every row, by itself, and has enough at some number."""

    def __init__(self, most: int) -> None:
        self.most, self.counts = most, None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        odd = input_ids[:, -1] % 2
        self.counts = odd if self.counts is None else self.counts + odd
        return self.counts >= self.most


BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "repetition_penalty": st.floats(1.05, 2.0),
    "no_repeat_ngram_size": st.integers(1, 3),
    "encoder_repetition_penalty": st.floats(0.5, 2.0),
    "encoder_no_repeat_ngram_size": st.integers(1, 3),
    "bad_words_ids": st.lists(st.lists(st.integers(0, 95), min_size=1, max_size=2), min_size=1, max_size=30),
    "suppress_tokens": st.lists(st.integers(0, 95), min_size=1, max_size=40),
    "begin_suppress_tokens": st.lists(st.integers(0, 95), min_size=1, max_size=40),
    "min_new_tokens": st.integers(1, 12),
    "forced_eos_token_id": st.integers(0, 95),
    "sequence_bias": st.dictionaries(st.tuples(st.integers(0, 95)), st.floats(-5, 5), min_size=1, max_size=9),
    "renormalize_logits": st.just(True),
    "remove_invalid_values": st.just(True),
}


@st.composite
def calls(draw: st.DrawFn) -> tuple[torch.Tensor, dict[str, Any]]:
    """Prompts and what `generate` may be asked for."""
    count, width = draw(st.integers(1, 4)), draw(st.integers(2, 8))
    ids = torch.tensor([[draw(st.integers(3, VOCABULARY - 1)) for _ in range(width)] for _ in range(count)])
    mask = torch.ones_like(ids)
    for row in range(1, count):  # the first one is whole
        hidden = draw(st.integers(0, width - 1))
        ids[row, :hidden], mask[row, :hidden] = 2, 0
    names = draw(st.sets(st.sampled_from(sorted(BY_NAME)), max_size=3))
    ends = draw(st.none() | st.lists(st.integers(3, VOCABULARY - 1), min_size=1, max_size=20, unique=True))
    options = {name: draw(BY_NAME[name]) for name in sorted(names)}
    return ids, {
        **options,
        "attention_mask": mask,
        "do_sample": False,
        "max_new_tokens": draw(st.integers(1, 20)),
        "eos_token_id": ends,
        "pad_token_id": draw(st.none() | st.integers(0, VOCABULARY - 1)),
    }


@settings(max_examples=60)
@given(call=calls(), noise=st.sampled_from([0.0, 1.0]), grammar=st.booleans(), most=st.none() | st.integers(1, 6))
def test_greedy_text_of_a_batch_is_that_of_generate(
    call: tuple[torch.Tensor, dict[str, Any]], noise: float, grammar: bool, most: int | None
) -> None:
    ids, options = call
    said, seen = [], []
    for more in ({}, {"custom_generate": drafted(noise)}):
        grammars = [Grammar(set(options["eos_token_id"] or ()))] if grammar else []
        criteria = [Tired(most)] if most is not None else []
        more |= {"logits_processor": LogitsProcessorList(grammars)}
        more |= {"stopping_criteria": StoppingCriteriaList(criteria)}
        said.append(model().generate(ids, **options, **more).tolist())
        seen.append([each.seen for each in grammars])
    assert said[0] == said[1]
    assert seen[0] == seen[1]


def test_what_a_row_may_say_is_its_own(tiny_head: Folder) -> None:
    ids, allowed = torch.tensor([[5, 9, 20, 33], [41, 33, 20, 9], [7, 7, 7, 7]]), [[10, 11, 12], [20, 21, 22], [30]]
    options: dict[str, Any] = {
        "attention_mask": torch.ones_like(ids),
        "do_sample": False,
        "max_new_tokens": 8,
        "prefix_allowed_tokens_fn": lambda row, _: allowed[row],
    }
    expected = model().generate(ids, **options)
    assert {int(token) for token in expected[1, 4:]} <= set(allowed[1])
    for custom in (drafted(1.0), ltd.CustomGenerate(tiny_head("llama"), policy=ltd.Static(2, 8))):
        assert torch.equal(model().generate(ids, custom_generate=custom, **options), expected)


def test_an_accepted_run_over_the_end_asks_nothing_behind_it() -> None:
    """The draft is always right, so the end token lies within what a cycle accepts."""
    ids = torch.tensor([[5, 9, 20, 33, 41]])
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": 24, "pad_token_id": 0}
    free = model().generate(ids, eos_token_id=None, **options)[0, 5:].tolist()
    for end in dict.fromkeys(free[3:12]):
        said = []
        for more in ({}, {"custom_generate": drafted(0.0)}):
            processor = Grammar({end})
            said.append(
                model()
                .generate(ids, eos_token_id=end, logits_processor=LogitsProcessorList([processor]), **options, **more)
                .tolist()
            )
        assert said[0] == said[1]
    assert max(drafted(0.0).last_statistics.gains) > 1


def test_sampled_tokens_of_a_batch_have_their_rows_distributions() -> None:
    """Against the probabilities of a plain forward, for two prompts with a processor that knows the rows."""
    copies, allowed = 1500, (list(range(10, 20)), list(range(40, 50)))
    prompts = torch.tensor([[5, 9, 20, 33], [41, 33, 20, 9]])
    with torch.inference_mode():
        logits = model()(prompts).logits[:, -1]
    torch.manual_seed(0)
    output = model().generate(
        prompts.repeat_interleave(copies, dim=0),
        attention_mask=torch.ones(2 * copies, 4, dtype=torch.long),
        do_sample=True,
        temperature=3.0,
        top_k=0,
        max_new_tokens=1,
        prefix_allowed_tokens_fn=lambda row, _: allowed[row // copies],
        custom_generate=ltd.CustomGenerate("none"),
    )
    for place, words in enumerate(allowed):
        drawn = output[place * copies : (place + 1) * copies, 4]
        expected = copies * (logits[place, words] / 3.0).softmax(-1)
        counts = torch.stack([(drawn == word).sum() for word in words])
        assert counts.sum() == copies
        assert ((counts - expected) ** 2 / expected).sum() < 35  # chi square of 9 degrees: 1 in 17,000


def test_padding_without_a_padding_token_is_the_end_token() -> None:
    ids = torch.tensor([[5, 9, 20, 33, 41], [41, 33, 20, 9, 5]])
    options: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": 12}
    free = model().generate(ids, eos_token_id=None, **options)[:, 5:].tolist()
    end = next(token for token in free[0][:8] if token not in free[1])
    for ends in (end, [end, 2], [2, end]):
        expected = model().generate(ids, eos_token_id=ends, **options)
        assert torch.equal(model().generate(ids, eos_token_id=ends, custom_generate=drafted(1.0), **options), expected)


@pytest.mark.parametrize("new", [1, 10])
def test_text_goes_on_behind_the_context(new: int) -> None:
    config = small_config("llama")
    config.max_position_embeddings = 32
    torch.manual_seed(1)
    short = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.arange(5, 36)[None]
    options: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": new}
    expected = short.generate(ids, eos_token_id=None, **options)
    assert torch.equal(short.generate(ids, eos_token_id=None, custom_generate=often_right(short), **options), expected)
    assert expected.shape[1] == 31 + new


def test_a_context_that_changes_positions_is_left_as_there() -> None:
    config = small_config("llama")
    config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    config.max_position_embeddings = 32
    torch.manual_seed(1)
    short = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.arange(5, 29)[None]
    options: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "do_sample": False, "eos_token_id": None}
    custom = often_right(short)
    for new in (8, 9, 24):  # up to the context limit, and beyond
        expected = short.generate(ids, max_new_tokens=new, **options)
        assert torch.equal(short.generate(ids, max_new_tokens=new, custom_generate=custom, **options), expected)
