"""What `generate` can be asked for is honoured, or refused by its name; streamers are told what they would be told."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from drafted_inside import often_right
from small_models import VOCABULARY
from streamers import Recorder
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedModel,
    TextIteratorStreamer,
)

import ltd
from ltd.custom_generate.arguments import HONOURED
from ltd.decoding import generation_config
from ltd.decoding.generation_config import check_config

Folder = Callable[[str], Path]
Options = dict[str, Any]
IDS = torch.tensor([[83, 33, 80, 48, 61, 57]])


@pytest.fixture(scope="module")
def model(tiny_target: Folder) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_target("llama"), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def custom(model: PreTrainedModel) -> ltd.CustomGenerate:
    return often_right(model)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("assistant_model", "another model"),
        ("synced_gpus", True),
        ("prompt_lookup_num_tokens", 3),
        ("past_key_values", DynamicCache()),
        ("position_ids", torch.arange(1, 7)[None]),
        ("inputs_embeds", torch.zeros(1, 6, 32)),
        ("num_beams", 3),
        ("output_logits", True),
        ("guidance_scale", 1.5),
        ("token_healing", True),
    ],
)
def test_what_is_not_known_is_refused_by_name(
    model: PreTrainedModel, custom: ltd.CustomGenerate, name: str, value: Any
) -> None:
    given = model if value == "another model" else value
    options: Options = {"attention_mask": torch.ones_like(IDS), "max_new_tokens": 3, name: given}
    if name == "token_healing":
        with pytest.raises(ltd.InputError, match=name):
            check_config(GenerationConfig(token_healing=True), HONOURED, "generate")
        return
    with pytest.raises(ltd.InputError, match=name):
        model.generate(IDS, custom_generate=custom, **options)


def test_a_setting_that_only_a_later_transformers_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(GenerationConfig):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.brand_new = kwargs.get("brand_new")

    monkeypatch.setattr(generation_config, "GenerationConfig", Later)
    check_config(Later(), HONOURED, "generate")
    with pytest.raises(ltd.InputError, match=r"brand_new \(3\)"):
        check_config(Later(brand_new=3), HONOURED, "generate")


def test_every_setting_of_transformers_is_either_known_or_refused() -> None:
    """A change of the list is looked at: what is neither is what somebody has to decide about."""
    known = HONOURED | set(generation_config.NEUTRAL) | generation_config.OUTPUTS | {"cache_implementation"}
    rest = {name for name in vars(GenerationConfig()) if not name.startswith("_")} - known
    assert rest == {
        "assistant_early_exit", "constraints", "dola_layers", "force_words_ids", "is_assistant", "penalty_alpha",
        "prompt_lookup_num_tokens", "speculation_type", "token_healing", "use_mtp",
    }  # fmt: skip


def test_names_of_no_setting_are_ignored_as_transformers_does(
    model: PreTrainedModel, custom: ltd.CustomGenerate
) -> None:
    config = GenerationConfig(max_new_tokens=4, do_sample=False, chat_format="chatml", use_cache=False)
    options: Options = {"attention_mask": torch.ones_like(IDS), "generation_config": config}
    assert torch.equal(model.generate(IDS, custom_generate=custom, **options), model.generate(IDS, **options))


@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.3}, {"eos_token_id": list(range(3, 30))}])
@pytest.mark.parametrize("count", [1, 3])
def test_a_streamer_is_told_what_generate_would_tell_it(
    model: PreTrainedModel, custom: ltd.CustomGenerate, options: Options, count: int
) -> None:
    ids = torch.randint(3, VOCABULARY, (count, 6), generator=torch.Generator().manual_seed(count))
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": 15, **options}
    plain, given, own = Recorder(), Recorder(), Recorder()
    model.generate(ids, streamer=plain, **options)
    model.generate(ids, streamer=given, custom_generate=custom, **options)
    custom.streamer = own
    try:
        model.generate(ids, custom_generate=custom, **options)
    finally:
        custom.streamer = None
    assert plain.said[-1] == "end" and len(plain.said) > 2
    assert given.said == own.said == plain.said


def test_a_text_streamer_leaves_out_the_prompt_and_no_more(
    model: PreTrainedModel, custom: ltd.CustomGenerate, tiny_target: Folder
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_target("llama"))
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=5.0)
    options: Options = {"attention_mask": torch.ones_like(IDS), "do_sample": False, "max_new_tokens": 9}
    output = model.generate(IDS, streamer=streamer, custom_generate=custom, **options)
    assert "".join(streamer) == tokenizer.decode(output[0, 6:])


@pytest.mark.parametrize(
    "wrong",
    [
        {"output_scores": True, "return_dict_in_generate": True},
        {"logits_processor": LogitsProcessorList([lambda ids, scores: 1 / 0])},
    ],
)
def test_a_streamer_is_ended_by_errors_too(model: PreTrainedModel, custom: ltd.CustomGenerate, wrong: Options) -> None:
    given, own = Recorder(), Recorder()
    options: Options = {"attention_mask": torch.ones_like(IDS), "do_sample": False, "max_new_tokens": 9, **wrong}
    with pytest.raises((ltd.InputError, ZeroDivisionError)):
        model.generate(IDS, streamer=given, custom_generate=custom, **options)
    custom.streamer = own
    try:
        with pytest.raises((ltd.InputError, ZeroDivisionError)):
            model.generate(IDS, custom_generate=custom, **options)
    finally:
        custom.streamer = None
    assert given.said == own.said == [IDS.tolist(), "end"]


def test_more_sequences_of_one_prompt(model: PreTrainedModel, custom: ltd.CustomGenerate) -> None:
    torch.manual_seed(0)
    options: Options = {"attention_mask": torch.ones_like(IDS), "do_sample": True, "temperature": 2.0}
    output = model.generate(IDS, custom_generate=custom, max_new_tokens=8, num_return_sequences=3, **options)
    assert output.shape == (3, 14)
    assert len({tuple(row) for row in output.tolist()}) == 3


def test_scores_that_are_no_numbers_are_the_processors_fault(
    model: PreTrainedModel, custom: ltd.CustomGenerate
) -> None:
    options: Options = {"attention_mask": torch.ones_like(IDS), "custom_generate": custom, "max_new_tokens": 3}
    spoil = LogitsProcessorList([lambda ids, scores: scores * float("nan")])
    with pytest.raises(ltd.InputError, match="logits processors made scores that are not a number"):
        model.generate(IDS, do_sample=False, logits_processor=spoil, **options)
    endless = LogitsProcessorList([lambda ids, scores: scores + float("inf")])
    with pytest.raises(ltd.InputError, match=r"logits processors.*\+inf"):
        model.generate(IDS, do_sample=True, logits_processor=endless, **options)


def test_every_argument_of_generate_is_looked_at() -> None:
    """A later `transformers` may keep others back; whoever goes over to it has to look where they go."""
    assert set(inspect.signature(GenerationMixin.generate).parameters) == {
        "self", "inputs", "generation_config", "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn",
        "synced_gpus", "assistant_model", "streamer", "negative_prompt_ids", "negative_prompt_attention_mask",
        "custom_generate", "kwargs",
    }  # fmt: skip
