"""The checker itself: what it lets pass, what it must not, and that a killed check goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, PreTrainedModel

from ltd.decoding.decoder import Decoder
from ltd.errors import InputError
from ltd.evaluation.answerers import TreeAnswerer
from ltd.evaluation.check import CheckConfig, check, groups, is_lossless, verdict_table
from ltd.evaluation.lossless import NEAR_TIE_ULPS, check_greedy, compare, judge, reference_greedy, until_stop
from ltd.evaluation.questions import Question, all_turns
from ltd.loading import load as load_decoder
from ltd.policies import Static

Folder = Callable[[str], Path]
PROMPTS = [[1, 20, 30, 40], [1, 50], [1, 8, 9, 10, 11, 12, 13]]
HALF = (torch.bfloat16, torch.float16)


def reference_of(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model as `transformers` loads it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


class Tampering:
    """A decoder whose texts are changed on the way out."""

    def __init__(self, decoder: Decoder, change: Callable[[list[int]], list[int]]) -> None:
        self.decoder, self.change = decoder, change
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.decoder, name)

    def stream(self, prompt: list[int], **settings: Any) -> Iterator[list[int]]:
        self.calls += 1
        yield self.change([token for news in self.decoder.stream(prompt, **settings) for token in news])


# --- judging one position ---


def ulp(value: float, dtype: torch.dtype) -> float:
    """The distance to the next number of this type away from zero, by torch's own stepping."""
    number = torch.tensor(abs(value), dtype=dtype)
    return (torch.nextafter(number, torch.tensor(float("inf"), dtype=dtype)) - number).item()


@pytest.mark.parametrize("dtype", HALF)
@given(top=st.floats(1.0, 60.0), steps=st.integers(0, 2 * NEAR_TIE_ULPS))
def test_a_near_tie_is_a_few_units_in_the_last_place(dtype: torch.dtype, top: float, steps: int) -> None:
    logits = torch.full((10,), -0.5, dtype=dtype)
    logits[3] = top
    gap = steps * ulp(logits[3].item(), dtype)
    # In float64 the lower one is exact; in the model's type it may fall into the finer steps below a power of two.
    logits[7] = logits[3].double().item() - gap
    tie = judge(logits, (7, 3))
    assert tie.bound == NEAR_TIE_ULPS * ulp(logits[3].item(), dtype)
    assert tie.gap == pytest.approx(gap)
    assert tie.explained is (steps <= NEAR_TIE_ULPS)


def test_the_largest_logit_by_magnitude_sets_the_scale() -> None:
    logits = torch.tensor([0.25, 0.0, -20.0], dtype=torch.bfloat16)
    assert judge(logits, (0, 1)).bound == NEAR_TIE_ULPS * ulp(-20.0, torch.bfloat16)
    assert judge(logits, (0, 1)).explained


def test_both_tokens_must_be_near_the_top() -> None:
    logits = torch.tensor([30.0, 20.0, 20.0], dtype=torch.bfloat16)
    assert not judge(logits, (1, 2)).explained


def test_in_float32_only_equal_logits_tie() -> None:
    logits = torch.tensor([30.0, 30.0 - 1e-5, 30.0])
    assert not judge(logits, (0, 1)).explained
    assert judge(logits, (0, 2)).explained


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_nan_explains_nothing(dtype: torch.dtype) -> None:
    assert not judge(torch.tensor([1.0, float("nan"), 1.0], dtype=dtype), (0, 2)).explained


@given(st.lists(st.integers(0, 5)), st.sets(st.integers(0, 5)))
def test_until_stop(token_ids: list[int], stop_ids: set[int]) -> None:
    kept = until_stop(token_ids, tuple(stop_ids))
    assert token_ids[: len(kept)] == kept
    assert not stop_ids & set(kept[:-1])
    assert kept == token_ids or kept[-1] in stop_ids


# --- comparing texts ---


def test_the_padded_reference_equals_the_single_one(tiny_target: Folder) -> None:
    reference = reference_of(tiny_target("llama"))
    singles = [reference_greedy(reference, [prompt], 20, (2,))[0] for prompt in PROMPTS]
    assert reference_greedy(reference, PROMPTS, 20, (2,)) == singles
    plain = reference.generate(torch.tensor([PROMPTS[0]]), max_new_tokens=20, do_sample=False, eos_token_id=2)
    assert singles[0] == plain[0, len(PROMPTS[0]) :].tolist()
    reference.generation_config.return_dict_in_generate = True  # as a model's own files may say
    assert reference_greedy(reference, PROMPTS, 20, (2,)) == singles


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("policy", ["none", Static(3, 12)])
def test_the_decoder_is_lossless_in_float32(tiny_target: Folder, tiny_head: Folder, family: str, policy: Any) -> None:
    decoder = load_decoder(tiny_target(family), tiny_head(family), dtype="float32")
    comparisons = list(
        check_greedy(decoder, reference_of(tiny_target(family)), PROMPTS, 24, TreeAnswerer(decoder, policy))
    )
    assert [comparison.verdict for comparison in comparisons] == ["equal"] * len(PROMPTS)
    assert all(comparison.tokens == len(comparison.reference_ids) > 0 for comparison in comparisons)


def test_an_answer_that_the_context_ends_is_compared_up_to_there(tiny_target: Folder) -> None:
    decoder = load_decoder(tiny_target("llama"), "none", dtype="float32")
    prompts = [[1, *[20, 30] * 125], PROMPTS[0]]
    comparisons = list(check_greedy(decoder, reference_of(tiny_target("llama")), prompts, 10))
    assert [comparison.verdict for comparison in comparisons] == ["equal", "equal"]
    assert [comparison.tokens for comparison in comparisons] == [256 - 251, 10]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_changed_token_is_wrong(tiny_target: Folder, dtype: torch.dtype) -> None:
    reference = reference_of(tiny_target("llama"), dtype)
    decoder = load_decoder(tiny_target("llama"), "none", dtype=dtype)
    expected = reference_greedy(reference, [PROMPTS[0]], 8, ())[0]
    with torch.inference_mode():
        after = reference(torch.tensor([PROMPTS[0] + expected[:3]])).logits[0, -1]
    worst = int(after.argmin())
    tampering = Tampering(decoder, lambda tokens: [*expected[:3], worst, *tokens[4:]])
    (verdict,) = check_greedy(tampering, reference, PROMPTS[:1], 8)  # type: ignore[arg-type]
    assert (verdict.verdict, verdict.divergence, verdict.tokens) == ("wrong", 3, 4)
    assert verdict.gap == pytest.approx((after.max() - after.min()).item())
    assert verdict.bound is not None
    assert verdict.gap > verdict.bound


def test_a_near_tie_in_bfloat16_is_told_from_a_wrong_token(tiny_target: Folder) -> None:
    reference = reference_of(tiny_target("llama"), torch.bfloat16)
    prompt, expected = PROMPTS[1], reference_greedy(reference, [PROMPTS[1]], 4, ())[0]
    other = (expected[0] + 1) % 90
    logits = torch.full((1, 1, 96), -30.0, dtype=torch.bfloat16)
    logits[..., expected[0]] = 24.0

    class Constructed:
        device = reference.device

        def __call__(self, input_ids: torch.Tensor, **settings: Any) -> Any:
            assert input_ids.tolist() == [prompt]
            return type("Output", (), {"logits": logits})

    logits[..., other] = 24.0 - 4 * 0.125  # four of the steps between 16 and 32, where the largest magnitude is
    tie = compare(Constructed(), prompt, [other, 5], expected)  # type: ignore[arg-type]
    assert (tie.verdict, tie.divergence, tie.tokens, tie.gap, tie.bound) == ("near tie", 0, 1, 0.5, 0.5)
    logits[..., other] = 24.0 - 5 * 0.125
    assert compare(Constructed(), prompt, [other, 5], expected).verdict == "wrong"  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ending_early_or_late_is_wrong(tiny_target: Folder, dtype: torch.dtype) -> None:
    reference = reference_of(tiny_target("llama"), dtype)
    early = compare(reference, PROMPTS[0], [5, 6], [5, 6, 7])
    late = compare(reference, PROMPTS[0], [5, 6, 7, 8], [5, 6, 7])
    assert (early.verdict, early.divergence) == ("wrong", 2)
    assert (late.verdict, late.divergence) == ("wrong", 3)


# --- the whole check ---


@pytest.fixture
def config(tmp_path: Path, tiny_target: Folder, tiny_head: Folder) -> CheckConfig:
    """Eleven conversations, some with two turns, so that there are three groups."""
    folder = tmp_path / "data" / "talk"
    folder.mkdir(parents=True)
    turns = [[f"say {number}", "and more"] if number % 4 == 0 else [f"say {number}"] for number in range(11)]
    lines = [json.dumps({"question_id": number, "turns": each}) for number, each in enumerate(turns)]
    (folder / "question.jsonl").write_text("\n".join(lines))
    return CheckConfig(
        data_dir=tmp_path / "data",
        out=tmp_path / "check.json",
        tasks=("talk",),
        max_new_tokens=10,
        target=str(tiny_target("llama")),
        draft=str(tiny_head("llama")),
    )


def must_not_load(*args: Any, **kwargs: Any) -> Any:
    """Stands in for `ltd.load` where nothing may be loaded."""
    raise AssertionError("a model was loaded")


@pytest.mark.parametrize("name", ["check", "check.jsonl", "."])
def test_results_that_would_lie_on_their_own_journal_are_refused(config: CheckConfig, name: str) -> None:
    with pytest.raises(InputError, match=r"ends in \.json"):
        check(replace(config, out=config.out.parent / name), must_not_load)


def test_later_turns_come_after_all_earlier_ones() -> None:
    turns = all_turns([Question("t", str(number), ("a", "b")) for number in range(9)])
    found = [[(turn.question.question_id, turn.number) for turn in group] for group in groups(turns)]
    assert [len(group) for group in found] == [8, 1, 8, 1]
    assert sorted(key for group in found for key in group) == sorted((str(n), t) for n in range(9) for t in (0, 1))
    assert [number for group in found for _, number in group] == [0] * 9 + [1] * 9


def test_a_check_covers_every_turn_and_is_written(config: CheckConfig) -> None:
    results = check(config)
    assert json.loads(config.out.read_text()) == results
    assert is_lossless(results)
    tokens = sum(len(prompt["reference_ids"]) for prompt in results["prompts"])
    assert verdict_table(results).rows == [
        ["talk", "14", str(tokens), "14", "0", "0"],
        ["all", "14", str(tokens), "14", "0", "0"],
    ]


def test_a_wrong_decoder_is_caught(config: CheckConfig) -> None:
    def load(*args: Any, **kwargs: Any) -> Any:
        return Tampering(load_decoder(*args, **kwargs), lambda tokens: tokens[:-1])

    results = check(config, load)
    assert not is_lossless(results)
    assert verdict_table(results).rows[0][3:] == ["0", "0", "14"]


class Killed(BaseException):
    """What a kill looks like from inside."""


def test_a_killed_check_goes_on_without_repeating_work(config: CheckConfig) -> None:
    made: list[Tampering] = []

    def load(*args: Any, **kwargs: Any) -> Any:
        def change(tokens: list[int]) -> list[int]:
            if len(made) == 1 and made[0].calls == 10:
                raise Killed
            return tokens

        made.append(Tampering(load_decoder(*args, **kwargs), change))
        return made[-1]

    with pytest.raises(Killed):
        check(config, load)
    assert not config.out.exists()
    resumed = check(config, load)
    assert made[1].calls == 14 - 9
    assert resumed["prompts"] == check(replace(config, out=config.out.with_name("whole.json")))["prompts"]
    assert check(config, must_not_load) == resumed


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"method": "magic"}, "unknown method 'magic'"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"tasks": ("other",)}, "holds these tasks: talk"),
        ({"limit": -1}, "limit is -1"),
    ],
)
def test_bad_input_is_told_before_a_model_loads(config: CheckConfig, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        check(replace(config, **changes), must_not_load)
    assert not config.out.exists()


@pytest.mark.parametrize("turns", [["x" * 400], ["short", "x" * 400]])
def test_a_turn_that_is_too_long_is_named_before_the_reference_loads(
    config: CheckConfig, turns: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltd.evaluation.answerers.load_model", must_not_load)
    with (config.data_dir / "talk" / "question.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"question_id": "long", "turns": turns}))
    complaint = rf"talk, question long, turn {len(turns)}: the prompt has \d+ tokens"
    with pytest.raises(InputError, match=complaint):
        check(config)
