"""`model.generate(..., custom_generate=ltd.CustomGenerate(...))` against the same call without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import VOCABULARY
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
)

import ltd

Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def model(tiny_target: Folder) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_target("llama"), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def speculative(tiny_head: Folder) -> ltd.CustomGenerate:
    return ltd.CustomGenerate(tiny_head("llama"), policy=ltd.Static(2, 10))


def prompts(count: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("policy", [None, "static", "none", ltd.Static(1, 2)])
def test_without_a_draft_it_decodes_plainly(model: PreTrainedModel, policy: Any) -> None:
    plain, ids = ltd.CustomGenerate("none", policy=policy), prompts(2, 7)
    options = {"do_sample": False, "attention_mask": torch.ones_like(ids), "max_new_tokens": 12}
    assert torch.equal(model.generate(ids, custom_generate=plain, **options), model.generate(ids, **options))
    assert set(plain.last_statistics.gains) == {1}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_length": 30},
        {"repetition_penalty": 1.4},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 18, "eos_token_id": list(range(3, 40))},
        {"suppress_tokens": list(range(50, 90))},
        {"eos_token_id": list(range(3, 20))},
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_greedy_equals_the_plain_call(
    model: PreTrainedModel, speculative: ltd.CustomGenerate, options: dict[str, Any], count: int
) -> None:
    ids = prompts(count, 7)
    options = {"do_sample": False, "attention_mask": torch.ones_like(ids), **options}
    if "max_length" not in options:
        options["max_new_tokens"] = 24
    plain = model.generate(ids, **options)
    assert torch.equal(model.generate(ids, custom_generate=speculative, **options), plain)
    assert speculative.last_statistics.cycles > 0


def test_left_padding(model: PreTrainedModel, speculative: ltd.CustomGenerate) -> None:
    ids, mask = prompts(2, 9), torch.ones(2, 9, dtype=torch.long)
    ids[0, :4], mask[0, :4] = 2, 0
    options = {"attention_mask": mask, "do_sample": False, "max_new_tokens": 15}
    assert torch.equal(model.generate(ids, custom_generate=speculative, **options), model.generate(ids, **options))


@pytest.mark.parametrize("hidden", [slice(-2, None), slice(3, 4)], ids=["end", "hole"])
def test_a_mask_hides_a_beginning_alone(model: PreTrainedModel, speculative: ltd.CustomGenerate, hidden: slice) -> None:
    ids, mask = prompts(1, 9), torch.ones(1, 9, dtype=torch.long)
    mask[0, hidden] = 0
    with pytest.raises(ltd.InputError, match="may hide a beginning"):
        model.generate(ids, attention_mask=mask, custom_generate=speculative, max_new_tokens=3)


def test_processors_see_every_position_once_and_in_order(
    model: PreTrainedModel, speculative: ltd.CustomGenerate
) -> None:
    class Recorder(LogitsProcessor):
        def __init__(self) -> None:
            self.seen: list[list[int]] = []

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            self.seen.append(input_ids[0].tolist())
            scores = scores.clone()
            scores[:, (7 * input_ids.shape[1]) % VOCABULARY] += 3.0  # depends on the position alone
            return scores

    ids, plain, ours = prompts(1, 5), Recorder(), Recorder()
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": 20, "eos_token_id": None}
    expected = model.generate(ids, logits_processor=LogitsProcessorList([plain]), **options)
    output = model.generate(ids, logits_processor=LogitsProcessorList([ours]), custom_generate=speculative, **options)
    assert torch.equal(output, expected)
    assert ours.seen == plain.seen


def test_stopping_criteria(model: PreTrainedModel, speculative: ltd.CustomGenerate, tiny_target: Folder) -> None:
    class SumIsRound(StoppingCriteria):
        def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
            return input_ids.sum(-1) % 5 == 0

    ids = prompts(1, 6, seed=3)
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": 40, "eos_token_id": None}
    own = {**options, "stopping_criteria": StoppingCriteriaList([SumIsRound()])}
    expected = model.generate(ids, **own)
    assert expected.shape[1] < 46
    assert torch.equal(model.generate(ids, custom_generate=speculative, **own), expected)

    tokenizer = AutoTokenizer.from_pretrained(tiny_target("llama"))
    text = tokenizer.decode(model.generate(ids, **options)[0, 6:])
    strings = {**options, "stopping_criteria": StoppingCriteriaList([StopStringCriteria(tokenizer, [text[5:7]])])}
    expected = model.generate(ids, **strings)
    assert expected.shape[1] < 46
    assert torch.equal(model.generate(ids, custom_generate=speculative, **strings), expected)


@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.2}, {"min_p": 0.05}])
def test_sampling_follows_torchs_seed(
    model: PreTrainedModel, speculative: ltd.CustomGenerate, options: dict[str, Any]
) -> None:
    ids = prompts(1, 6)
    options = {"attention_mask": torch.ones_like(ids), "do_sample": True, "temperature": 1.2, "top_k": 30, **options}

    def sample(seed: int, policy: Any = None) -> list[int]:
        torch.manual_seed(seed)
        speculative.policy = policy or ltd.Static(2, 10)
        return model.generate(ids, custom_generate=speculative, max_new_tokens=20, **options)[0].tolist()

    first = sample(1)
    assert sample(1) == first
    assert sample(1, policy="none") == first
    assert sample(2) != first


def test_output_object(model: PreTrainedModel, speculative: ltd.CustomGenerate) -> None:
    ids = prompts(1, 6)
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": 5}
    output = model.generate(ids, custom_generate=speculative, return_dict_in_generate=True, **options)
    assert torch.equal(output.sequences, model.generate(ids, **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2}, "beam search"),
        ({"output_scores": True, "return_dict_in_generate": True}, "output_scores"),
        ({"guidance_scale": 1.5}, "guidance_scale"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    model: PreTrainedModel, speculative: ltd.CustomGenerate, options: dict[str, Any], message: str
) -> None:
    ids = prompts(1, 6)
    with pytest.raises(ltd.InputError, match=message):
        model.generate(
            ids, attention_mask=torch.ones_like(ids), custom_generate=speculative, max_new_tokens=3, **options
        )


def test_plain_decoding_reads_no_head(model: PreTrainedModel, tiny_head: Folder) -> None:
    """The shipped one does not fit; a policy that is given later has its draft then."""
    ids, custom = prompts(1, 7), ltd.CustomGenerate(policy="none")
    options = {"do_sample": False, "attention_mask": torch.ones_like(ids), "max_new_tokens": 12}
    expected = model.generate(ids, **options)
    assert torch.equal(model.generate(ids, custom_generate=custom, **options), expected)
    custom = ltd.CustomGenerate(tiny_head("llama"), policy="none")
    choices: list[tuple[Any, set[int]]] = [
        ("none", {0}),
        (ltd.Static(1, 3), {3}),
        ("none", {0}),
        (ltd.Static(1, 4), {4}),
    ]
    decoders = []
    for custom.policy, sizes in choices:
        assert torch.equal(model.generate(ids, custom_generate=custom, **options), expected)
        assert set(custom.last_statistics.sizes) == sizes
        decoders.append(custom.decoder)
    assert decoders[0] is not decoders[1] and decoders[1] is decoders[2] is decoders[3]  # the head is read once


def test_where_the_shipped_head_does_not_fit_tokens_are_looked_up(model: PreTrainedModel) -> None:
    custom = ltd.CustomGenerate()
    model.generate(prompts(1, 7), custom_generate=custom, max_new_tokens=3)
    assert custom.decoder is not None and isinstance(custom.decoder.policy, ltd.Lookup)


def test_another_head_that_does_not_fit_is_told_as_it_is(model: PreTrainedModel, tmp_path: Path) -> None:
    with pytest.raises(ltd.InputError, match=r"^there is no draft head in"):
        model.generate(prompts(1, 7), custom_generate=ltd.CustomGenerate(tmp_path), max_new_tokens=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"draft": 3}, "draft is 3, but must be a text or a Path"),
        ({"policy": 5}, "policy is 5, but must be a policy such as"),
        ({"policy": ltd.Static}, "policy is <class .*, but must be a policy such as"),
        ({"streamer": 5}, "streamer is 5, but must be a streamer of transformers"),
    ],
)
def test_arguments_of_the_wrong_type(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ltd.InputError, match=message):
        ltd.CustomGenerate(**arguments)
