"""What a model's generation_config.json asks for is applied as `transformers` does it, or refused by its name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle_draft import OracleDraft
from transformers import AutoModelForCausalLM

import ltd
from ltd.chains import Constant
from ltd.chains.decoder import ChainDecoder
from ltd.decoding.decoder import Decoder
from ltd.evaluation.lossless import check_greedy

Folder = Callable[[str], Path]
PROMPTS = [[5, 9, 20, 33, 41], [41, 33, 20], [7, 8, 9, 10, 11, 12, 13]]
SAMPLING = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
EOS = 2


def folder_with(source: Path, place: Path, asked: dict[str, Any]) -> Path:
    """A copy of a model whose generation config asks for something."""
    shutil.copytree(source, place)
    facts = {"eos_token_id": EOS, "pad_token_id": EOS, **SAMPLING, **asked}
    (place / "generation_config.json").write_text(json.dumps(facts))
    return place


def plain(folder: Path, prompt: list[int], new: int) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    output = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=new)
    return output[0, len(prompt) :].tolist()


def with_a_good_draft(folder: Path, noise: float = 1.0) -> Decoder:
    """`ltd.load`'s decoder, with the target's copy as its draft."""
    decoder = ltd.load(folder, "none", dtype="float32")
    copy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    decoder.draft, decoder.policy = OracleDraft(copy, noise=noise), ltd.Static(3, 12)
    return decoder


ASKED = st.fixed_dictionaries(
    {},
    optional={
        "repetition_penalty": st.floats(1.05, 2.0),
        "no_repeat_ngram_size": st.integers(1, 3),
        "encoder_repetition_penalty": st.floats(0.5, 2.0),
        "suppress_tokens": st.lists(st.integers(3, 95), min_size=1, max_size=40),
        "begin_suppress_tokens": st.lists(st.integers(3, 95), min_size=1, max_size=40),
        "bad_words_ids": st.lists(st.lists(st.integers(3, 95), min_size=1, max_size=2), min_size=1, max_size=30),
        "min_new_tokens": st.integers(1, 12),
        "min_length": st.integers(1, 15),
        "forced_eos_token_id": st.just(EOS),
    },
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=ASKED, new=st.integers(2, 20))
def test_greedy_text_is_that_of_transformers(
    asked: dict[str, Any], new: int, tiny_target: Folder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = folder_with(tiny_target("llama"), tmp_path_factory.mktemp("asked") / "model", asked)
    expected = [plain(folder, prompt, new) for prompt in PROMPTS]
    decoder = with_a_good_draft(folder)
    for policy in (None, "none"):
        generations = decoder.generate(PROMPTS, max_new_tokens=new, policy=policy)
        assert [each.token_ids for each in generations] == expected
    streamed = [token for news in decoder.stream(PROMPTS[0], max_new_tokens=new) for token in news]
    assert streamed == expected[0]


def test_a_penalty_is_no_fault_to_ltd_check(tiny_target: Folder, tmp_path: Path) -> None:
    asked = {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2}
    folder = folder_with(tiny_target("llama"), tmp_path / "model", asked)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    verdicts = [each.verdict for each in check_greedy(with_a_good_draft(folder), reference, PROMPTS, 20)]
    assert verdicts == ["equal"] * 3
    unruled = with_a_good_draft(folder)
    unruled.rules = None
    assert "wrong" in [each.verdict for each in check_greedy(unruled, reference, PROMPTS, 20)]


def test_near_ties_are_judged_by_processed_logits(tiny_target: Folder, tmp_path: Path) -> None:
    """In bfloat16 no text is called wrong because of a penalty."""
    folder = folder_with(tiny_target("llama"), tmp_path / "model", {"repetition_penalty": 1.3, "suppress_tokens": [9]})
    decoder = ltd.load(folder, "none", dtype="bfloat16")
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    assert {each.verdict for each in check_greedy(decoder, reference, PROMPTS, 20)} <= {"equal", "near tie"}
    logits = torch.tensor([1.0, 3.0, 2.0])
    assert decoder.rules is not None
    full = torch.zeros(96)
    full[:3] = logits
    penalised = decoder.rules.scores(full, [1], [2], 5, (EOS,))
    torch.testing.assert_close(penalised[:3], torch.tensor([1.0, 3.0 / 1.3, 2.0 / 1.3]))
    assert penalised[9] == -torch.inf


def test_a_seed_is_one_text_under_a_penalty(tiny_target: Folder, tmp_path: Path) -> None:
    decoder = with_a_good_draft(folder_with(tiny_target("llama"), tmp_path / "model", {"repetition_penalty": 1.5}))
    options: dict[str, Any] = {"max_new_tokens": 15, "temperature": 1.0, "top_k": 20, "top_p": 0.9, "seed": 4}
    drafted = [each.token_ids for each in decoder.generate(PROMPTS, **options)]
    assert [each.token_ids for each in decoder.generate(PROMPTS, policy="none", **options)] == drafted
    assert [each.token_ids for each in decoder.generate(PROMPTS, **{**options, "seed": 5})] != drafted
    assert drafted[1] != decoder.generate(PROMPTS[1], **{**options, "temperature": 0.0}).token_ids


def test_a_watermark_is_for_greedy_text(tiny_target: Folder, tmp_path: Path) -> None:
    """`transformers` applies it after temperature, top-k and top-p, so sampled text would have another law."""
    asked = {"watermarking_config": {"bias": 3.0, "greenlist_ratio": 0.5}}
    folder = folder_with(tiny_target("llama"), tmp_path / "model", asked)
    decoder = ltd.load(folder, "none", dtype="float32")
    assert decoder.generate(PROMPTS[0], max_new_tokens=8).token_ids == plain(folder, PROMPTS[0], 8)
    with pytest.raises(ltd.InputError, match="watermarking_config, which is honoured in greedy text alone"):
        decoder.generate(PROMPTS[0], max_new_tokens=8, temperature=0.5)


def test_sampling_defaults_are_not_applied(tiny_target: Folder, tmp_path: Path) -> None:
    decoder = ltd.load(folder_with(tiny_target("llama"), tmp_path / "model", {}), "none", dtype="float32")
    assert decoder.rules is None
    first = decoder.generate(PROMPTS[0], max_new_tokens=15).token_ids
    assert (
        first == decoder.generate(PROMPTS[0], max_new_tokens=15).token_ids == plain(tmp_path / "model", PROMPTS[0], 15)
    )


def test_chains_do_not_honour_a_penalty_and_say_so(tiny_target: Folder, tmp_path: Path) -> None:
    """Refused before the chain draft is looked at: a decoder without rules gets as far as that."""
    asked = {"repetition_penalty": 1.5}
    decoder = ltd.load(folder_with(tiny_target("llama"), tmp_path / "model", asked), "none", dtype="float32")
    draft: Any = object()
    with pytest.raises(ltd.InputError, match="RepetitionPenaltyLogitsProcessor, which chains do not honour"):
        ChainDecoder.sharing(decoder, draft, Constant(2))
    decoder.rules = None
    assert ChainDecoder.sharing(decoder, draft, Constant(2)).draft is draft


@pytest.mark.parametrize(
    "asked",
    [
        {"num_beams": 4},
        {"stop_strings": ["a"]},
        {"max_time": 3.0},
        {"guidance_scale": 1.5},
        {"prompt_lookup_num_tokens": 4},
        {"cache_implementation": "quantized"},
    ],
)
def test_what_is_not_honoured_is_refused_by_name(asked: dict[str, Any], tiny_target: Folder, tmp_path: Path) -> None:
    folder = folder_with(tiny_target("llama"), tmp_path / "model", asked)
    with pytest.raises(ltd.InputError, match=next(iter(asked))):
        ltd.load(folder, "none", dtype="float32")


@pytest.mark.parametrize("asked", [{"repetition_penalty": -1.0}, {"repetition_penalty": "much"}])
def test_settings_that_no_processor_takes_are_named(asked: dict[str, Any], tiny_target: Folder, tmp_path: Path) -> None:
    folder = folder_with(tiny_target("llama"), tmp_path / "model", asked)
    with pytest.raises(ltd.InputError, match="generation config cannot be used"):
        ltd.load(folder, "none", dtype="float32")


@pytest.mark.parametrize(
    "asked",
    [
        {"suppress_tokens": list(range(96))},
        {"begin_suppress_tokens": list(range(96))},
        {"suppress_tokens": [token for token in range(96) if token != EOS], "min_new_tokens": 3},
    ],
    ids=lambda asked: "-".join(asked),
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_token_left_is_one_sentence(
    asked: dict[str, Any], temperature: float, tiny_target: Folder, tmp_path: Path
) -> None:
    decoder = with_a_good_draft(folder_with(tiny_target("llama"), tmp_path / "model", asked))
    for policy in (None, "none"):
        with pytest.raises(ltd.InputError, match=r"left no token to choose.*generation config suppresses"):
            decoder.generate(PROMPTS, max_new_tokens=5, temperature=temperature, policy=policy)


def test_one_token_left_is_taken(tiny_target: Folder, tmp_path: Path) -> None:
    asked = {"suppress_tokens": [token for token in range(96) if token != 7]}
    decoder = with_a_good_draft(folder_with(tiny_target("llama"), tmp_path / "model", asked))
    for temperature in (0.0, 1.0):
        assert decoder.generate(PROMPTS[0], max_new_tokens=5, temperature=temperature).token_ids == [7] * 5
