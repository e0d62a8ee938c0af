"""The cycle against `transformers`' own greedy decoding, and what stops it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle_draft import OracleDraft
from small_models import FAMILIES, VOCABULARY
from transformers import AutoModelForCausalLM, PreTrainedModel

import ltd
from ltd.decoding.decoder import Decoder
from ltd.decoding.request import CallOptions
from ltd.drafts.eagle3.draft import Eagle3Draft
from ltd.drafts.eagle3.files import load_head
from ltd.loading import load
from ltd.policies import Static
from ltd.target.target import Target
from ltd.tree import DraftTree

Folder = Callable[[str], Path]


def plain_model(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def reference(model: PreTrainedModel, prompt: list[int], new: int, stop: int = 2) -> list[int]:
    """`transformers`' greedy answer."""
    with torch.no_grad():
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        output = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=new, eos_token_id=stop)
    return output[0, len(prompt) :].tolist()


def random_prompts(seed: int, lengths: list[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**31),
    length=st.integers(1, 60),
    depth=st.integers(0, 6),
    size=st.integers(0, 40),
    noise=st.sampled_from([0.0, 1.0, 3.0, 30.0]),
)
def test_greedy_equals_transformers(
    tiny_target: Folder, family: str, seed: int, length: int, depth: int, size: int, noise: float
) -> None:
    model = plain_model(tiny_target(family))
    prompts = random_prompts(seed, [length])
    draft = OracleDraft(model, noise=noise)
    decoder = Decoder(Target(plain_model(tiny_target(family))), draft, Static(depth, size), stop_ids=[2])
    answer = decoder.generate(prompts[0], max_new_tokens=30)
    assert answer.token_ids == reference(model, prompts[0], 30)


@pytest.mark.parametrize("family", FAMILIES)
def test_loaded_head_and_packed_target_equal_transformers(tiny_target: Folder, tiny_head: Folder, family: str) -> None:
    decoder = load(tiny_target(family), tiny_head(family), policy=Static(3, 12), dtype="float32", device="cpu")
    model = plain_model(tiny_target(family))
    prompts = random_prompts(7, [1, 5, 90])
    together = decoder.generate(prompts, max_new_tokens=40)
    for prompt, answer in zip(prompts, together, strict=True):
        expected = reference(model, prompt, 40)
        assert answer.token_ids == expected
        assert decoder.generate(prompt, max_new_tokens=40).token_ids == expected
        assert decoder.generate(prompt, max_new_tokens=40, policy="none").token_ids == expected


def test_a_prompt_longer_than_a_chunk(tiny_target: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    model = plain_model(tiny_target("mistral"))
    prompts = random_prompts(3, [75])
    monkeypatch.setattr("ltd.target.target.PREFILL_CHUNK", 16)
    decoder = Decoder(Target(plain_model(tiny_target("mistral"))), OracleDraft(model, noise=1.0), Static(2, 8))
    assert decoder.generate(prompts[0], max_new_tokens=20).token_ids == reference(model, prompts[0], 20, stop=-1)


def test_a_perfect_draft_is_accepted_to_its_full_depth(tiny_target: Folder) -> None:
    model = plain_model(tiny_target("llama"))
    prompts = random_prompts(1, [9])
    draft = OracleDraft(plain_model(tiny_target("llama")), noise=0.0, sharpness=1000.0)
    decoder = Decoder(Target(model), draft, Static(3, 60))
    statistics = decoder.generate(prompts[0], max_new_tokens=26).statistics
    assert statistics.gains == [5] * 5  # depth 3 is four levels, and the target's own token
    assert statistics.acceptance_length == 5.0
    assert statistics.depths == [3] * 5 and statistics.sizes == [4 + 3 * 16] * 5  # no more candidates than there are


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_a_batch_equals_its_prompts_alone(tiny_target: Folder, noise: float) -> None:
    model = plain_model(tiny_target("qwen3"))
    prompts = random_prompts(5, [3, 40, 1, 17])
    alone = [reference(model, prompt, 25, stop=7) for prompt in prompts]
    decoder = Decoder(
        Target(plain_model(tiny_target("qwen3"))), OracleDraft(model, noise=noise), Static(2, 9), stop_ids=[7]
    )
    together = decoder.generate(prompts, max_new_tokens=25)
    assert [answer.token_ids for answer in together] == alone
    plain = decoder.generate(prompts, max_new_tokens=25, policy="none")
    assert [answer.token_ids for answer in plain] == alone


def test_rows_of_a_batch_may_end_at_different_times(tiny_target: Folder) -> None:
    model = plain_model(tiny_target("llama"))
    prompts = random_prompts(11, [4, 4, 4])
    full = [reference(model, prompt, 20, stop=-1) for prompt in prompts]
    stop = full[1][4]  # ends the second answer early, and the others wherever they have it
    cut = [answer[: answer.index(stop) + 1] if stop in answer else answer for answer in full]
    assert len({len(answer) for answer in cut}) > 1
    decoder = Decoder(Target(plain_model(tiny_target("llama"))), OracleDraft(model, noise=1.0), Static(2, 9))
    answers = decoder.generate(prompts, max_new_tokens=20, stop_token_ids=[stop])
    assert [answer.token_ids for answer in answers] == cut


@pytest.mark.parametrize("new", [1, 2, 3, 7])
def test_max_new_tokens_is_exact(tiny_target: Folder, new: int) -> None:
    model = plain_model(tiny_target("llama"))
    prompts = random_prompts(2, [6])
    decoder = Decoder(Target(model), OracleDraft(plain_model(tiny_target("llama")), noise=0.0), Static(4, 30))
    assert decoder.generate(prompts[0], max_new_tokens=new).token_ids == reference(model, prompts[0], new, stop=-1)


def test_the_context_limit_ends_an_answer(tiny_target: Folder) -> None:
    model = plain_model(tiny_target("llama"))
    prompts = random_prompts(2, [250])
    decoder = Decoder(Target(model), OracleDraft(plain_model(tiny_target("llama")), noise=0.0), Static(4, 30))
    answer = decoder.generate(prompts[0], max_new_tokens=100)
    assert answer.token_ids == reference(model, prompts[0], 6, stop=-1)


def test_stream_yields_what_generate_returns(tiny_target: Folder, tiny_head: Folder) -> None:
    decoder = load(tiny_target("llama"), tiny_head("llama"), dtype="float32", device="cpu")
    (prompt,) = random_prompts(4, [8])
    whole = decoder.generate(prompt, max_new_tokens=15)
    pieces = list(decoder.stream(prompt, max_new_tokens=15))
    assert list(chain.from_iterable(pieces)) == whole.token_ids
    assert all(pieces) and len(pieces) == decoder.last_statistics.cycles + 1


def test_statistics_add_up(tiny_target: Folder) -> None:
    model = plain_model(tiny_target("llama"))
    prompts = random_prompts(6, [5])
    decoder = Decoder(Target(model), OracleDraft(plain_model(tiny_target("llama")), noise=2.0), Static(2, 10))
    answer = decoder.generate(prompts[0], max_new_tokens=30)
    statistics = answer.statistics
    assert statistics.new_tokens == len(answer.token_ids) == 1 + sum(statistics.gains)
    assert statistics.prompt_tokens == 5 and statistics.cycles == len(statistics.depths) == len(statistics.sizes)
    assert all(seconds >= 0 for seconds in statistics.seconds.values())
    assert statistics.decode_seconds == pytest.approx(
        sum(seconds for part, seconds in statistics.seconds.items() if part != "prefill")
    )
    assert statistics.tokens_per_second == pytest.approx(sum(statistics.gains) / statistics.decode_seconds)
    assert statistics.to_dict()["cycles"] == statistics.cycles


def test_other_uses_of_the_model_are_left_as_they_were(tiny_target: Folder) -> None:
    model = plain_model(tiny_target("llama"))
    (prompt,) = random_prompts(8, [5])
    before = reference(model, prompt, 10)
    attention = model.config._attn_implementation
    Decoder(Target(model, feature_layers=(1, 8))).generate(prompt, max_new_tokens=5)
    assert model.config._attn_implementation == attention
    assert reference(model, prompt, 10) == before
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_taps_are_the_hidden_states_of_transformers(tiny_target: Folder) -> None:
    model = plain_model(tiny_target("qwen2"))
    (prompt,) = random_prompts(9, [20])
    with torch.no_grad():
        hidden = model(torch.tensor([prompt]), output_hidden_states=True).hidden_states
    target = Target(model, feature_layers=(0, 3, 7))
    with torch.inference_mode(), target.session(1, 64) as session:
        features = session.prefill(0, torch.tensor(prompt)).features
    assert features is not None
    # Rounding grows through the layers; another layer's states would differ by about 1.
    torch.testing.assert_close(features, torch.cat([hidden[0], hidden[3], hidden[7]], dim=-1), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("kept", "said"), [((), "keeps none"), ((0, 1), "keeps 0, 1"), ((4, 3, 1), "keeps 4, 3, 1"), ((1, 3), "keeps 1, 3")]
)
def test_a_target_keeps_what_the_draft_reads(
    tiny_target: Folder, tiny_head: Folder, kept: tuple[int, ...], said: str
) -> None:
    """In their order too: other states of the same width would only make a poor draft."""
    head = load_head(tiny_head("llama"), torch.float32, "cpu")
    target = Target(plain_model(tiny_target("llama")), feature_layers=kept)
    draft = Eagle3Draft(head, target.embedding)
    read = draft.feature_layers
    with pytest.raises(ltd.InputError, match=f"reads the hidden states {', '.join(map(str, read))} of.*{said}; make"):
        Decoder(target, draft)


def test_a_draft_that_reads_tokens_alone_is_given_no_features(tiny_target: Folder) -> None:
    model, (prompt,) = plain_model(tiny_target("llama")), random_prompts(10, [20])
    decoder = Decoder(Target(model, feature_layers=(0, 3, 7)), OracleDraft(plain_model(tiny_target("llama"))))
    answer = decoder.generate(prompt, max_new_tokens=20, stop_token_ids=[], policy=Static(2, 8))
    assert answer.token_ids == reference(model, prompt, 20, stop=-1)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([], {}, "empty"),
        ([[]], {}, "empty"),
        ([5] * 256, {}, "256 tokens"),
        ([5, 96], {}, "token id 96"),
        ([-1], {}, "token id -1"),
        (torch.tensor([0.5]), {}, "whole numbers"),
        (torch.zeros(1, 1, 1, dtype=torch.long), {}, "shape"),
        ([5], {"max_new_tokens": 0}, "max_new_tokens 0"),
        ([5], {"temperature": -1.0}, "temperature"),
        ([5], {"temperature": float("nan")}, "temperature"),
        ([5], {"top_p": 0.0}, "top_p"),
        ([5], {"top_k": -1}, "top_k"),
        ([5], {"seed": -1}, "seed"),
        ([5], {"policy": Static(1, 4)}, "draft"),
        (5, {}, "not int"),
        ({5}, {}, "not set"),
        ([5], {"max_new_tokens": "8"}, "max_new_tokens is '8', but must be a whole number"),
        ([5], {"max_new_tokens": 2.5}, "max_new_tokens is 2.5, but must be a whole number"),
        ([5], {"max_new_tokens": True}, "max_new_tokens is True, but must be a whole number"),
        ([5], {"max_new_tokens": None}, "max_new_tokens is None, but must be a whole number"),
        ([5], {"temperature": "hot"}, "temperature is 'hot', but must be a number"),
        ([5], {"temperature": None}, "temperature is None, but must be a number"),
        ([5], {"temperature": True}, "temperature is True, but must be a number"),
        ([5], {"top_p": "1"}, "top_p is '1', but must be a number"),
        ([5], {"top_k": 2.5}, "top_k is 2.5, but must be a whole number"),
        ([5], {"top_k": None}, "top_k is None, but must be a whole number"),
        ([5], {"seed": 1.5}, "seed is 1.5, but must be a whole number"),
        ([5], {"seed": "1"}, "seed is '1', but must be a whole number"),
        ([5], {"stop_token_ids": 2}, "stop_token_ids is 2, but must be a list of whole numbers"),
        ([5], {"stop_token_ids": "ab"}, "stop_token_ids is 'ab', but must be a list of whole numbers"),
        ([5], {"stop_token_ids": [2, 2.5]}, "in stop_token_ids is 2.5, but must be a whole number"),
        ([5], {"stop_token_ids": ["<end>"]}, "in stop_token_ids is '<end>', but must be a whole number"),
        ([5], {"policy": "static"}, "policy is 'static', but must be None, \"none\" or a policy .* are for ltd.load"),
        ([5], {"policy": Path("bundle")}, 'policy is .*bundle.*, but must be None, "none" or a policy'),
        ([5], {"policy": Static}, 'policy is <class .*, but must be None, "none" or a policy'),
        ([5], {"policy": 5}, 'policy is 5, but must be None, "none" or a policy'),
    ],
)
def test_bad_input_is_one_clear_sentence(
    tiny_target: Folder, prompt: object, options: dict[str, object], message: str
) -> None:
    decoder = Decoder(Target(plain_model(tiny_target("llama"))))
    for call in (decoder.generate, decoder.stream):  # a stream says it at once, before anything is read of it
        with pytest.raises(ltd.InputError, match=message):
            call(prompt, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "gpt2"}, "target is .gpt2., but must be a Target; ltd.load"),
        ({"draft": "head"}, "draft is .head., but must be a Draft; ltd.load"),
        ({"policy": "static"}, "policy is .static., but"),
        ({"stop_ids": 2}, "stop_ids is 2, but must be a list of whole numbers"),
        ({"stop_ids": "ab"}, "stop_ids is .ab., but must be a list of whole numbers"),
        ({"max_length": 20.5}, "max_length is 20.5, but must be a whole number"),
        ({"max_length": "20"}, "max_length is .20., but must be a whole number"),
    ],
)
def test_a_decoder_of_wrong_parts(tiny_target: Folder, arguments: dict[str, Any], message: str) -> None:
    parts = {"target": Target(plain_model(tiny_target("llama"))), **arguments}
    with pytest.raises(ltd.InputError, match=message):
        Decoder(**parts)


@pytest.mark.parametrize(("depth", "size"), [(-1, 5), (13, 5), (3, -1), (3, 513)])
def test_depth_and_size_out_of_range(depth: int, size: int) -> None:
    with pytest.raises(ltd.InputError, match="out of range"):
        Static(depth, size)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_logits_are_an_error(tiny_target: Folder, value: float) -> None:
    model = plain_model(tiny_target("llama"))
    with torch.no_grad():
        model.lm_head.weight[11] = value
    with pytest.raises(ltd.InputError, match="not finite"):
        Decoder(Target(model)).generate([5, 6], max_new_tokens=3)


def test_sampling_needs_no_more_than_a_seed(tiny_target: Folder) -> None:
    """One seed is one text: with and without drafting, alone; another seed is another text."""
    model = plain_model(tiny_target("llama"))
    prompts = random_prompts(12, [7])
    decoder = Decoder(Target(plain_model(tiny_target("llama"))), OracleDraft(model, noise=1.0), Static(3, 20))
    options = {"max_new_tokens": 40, "temperature": 1.5, "top_k": 50, "top_p": 0.95}
    texts = [
        decoder.generate(prompts[0], seed=3, **options).token_ids,
        decoder.generate(prompts[0], seed=3, policy=Static(0, 2), **options).token_ids,
        decoder.generate(prompts[0], seed=3, policy="none", **options).token_ids,
    ]
    assert texts[0] == texts[1] == texts[2]
    assert decoder.generate(prompts[0], seed=4, **options).token_ids != texts[0]


def test_without_a_seed_torch_decides(tiny_target: Folder) -> None:
    decoder = Decoder(Target(plain_model(tiny_target("llama"))))
    torch.manual_seed(5)
    first = decoder.generate([5], temperature=1.0).token_ids
    second = decoder.generate([5], temperature=1.0).token_ids
    torch.manual_seed(5)
    assert decoder.generate([5], temperature=1.0).token_ids == first != second


def test_numbers_of_numpy_and_tensors_are_numbers(tiny_target: Folder) -> None:
    model = plain_model(tiny_target("llama"))
    decoder = Decoder(Target(plain_model(tiny_target("llama"))), OracleDraft(model, noise=1.0), Static(np.int64(3), 20))
    (prompt,) = random_prompts(12, [7])
    plain: dict[str, Any] = {"max_new_tokens": 20, "temperature": 1.5, "top_k": 50, "top_p": 0.5, "seed": 3}
    others: dict[str, Any] = {"max_new_tokens": np.int32(20), "temperature": torch.tensor(1.5), "top_k": np.array([50]),
                              "top_p": np.float32(0.5), "seed": torch.tensor([3])}  # fmt: skip
    expected = decoder.generate(prompt, **plain).token_ids
    assert decoder.generate(np.array(prompt), **others).token_ids == expected
    for stop in (torch.tensor(expected[4:5]), {expected[4]}, [np.int64(expected[4])]):
        answer = decoder.generate(prompt, stop_token_ids=stop, **others).token_ids  # type: ignore[arg-type]
        assert answer == expected[: expected.index(expected[4]) + 1]


def test_statistics_are_of_the_stream_that_was_read_last(tiny_target: Folder) -> None:
    model = plain_model(tiny_target("llama"))
    decoder = Decoder(Target(plain_model(tiny_target("llama"))), OracleDraft(model, noise=1.0), Static(2, 9))
    lengths = [4, 9]
    streams = [decoder.stream(prompt, max_new_tokens=40) for prompt in random_prompts(3, lengths)]
    told = [0, 0]
    for turn in (0, 1, 0, 0, 1, 0, 1):
        told[turn] += len(next(streams[turn], []))
        statistics = decoder.last_statistics
        assert (statistics.prompt_tokens, statistics.new_tokens) == (lengths[turn], told[turn])
    list(streams[0])
    assert decoder.generate([5], max_new_tokens=2).statistics is decoder.last_statistics


def test_a_request_is_run_once(tiny_target: Folder) -> None:
    decoder = Decoder(Target(plain_model(tiny_target("llama"))))
    request = decoder.request([[5, 6]], CallOptions(4), None)
    running = decoder.run(request)
    for _ in range(2):  # neither before it has begun nor after its end
        with pytest.raises(ltd.InputError, match="this request has been run"):
            decoder.run(request)
        list(running)
    assert request.answers == [decoder.generate([5, 6], max_new_tokens=4).token_ids]


class Answers:
    """A policy that gives whatever answers it is told to give."""

    max_depth, max_size = 2, 9

    def __init__(self, speculate: object = True, continue_drafting: object = True, choose_size: object = 9) -> None:
        self.answers = speculate, continue_drafting, choose_size

    def start(self, batch: int) -> Answers:
        return self

    def keep(self, rows: list[int]) -> None:
        pass

    def speculate(self, lengths: torch.Tensor, gained: list[int]) -> Any:
        return self.answers[0]

    def continue_drafting(self, tree: DraftTree, depth: int) -> Any:
        return self.answers[1]

    def choose_size(self, tree: DraftTree, depth: int) -> Any:
        return self.answers[2]


class Beyond(Answers):
    """Its calls have other limits than it."""

    def __init__(self, limits: dict[str, int]) -> None:
        super().__init__()
        self.limits = limits

    def start(self, batch: int) -> Answers:
        call = Answers()
        vars(call).update(self.limits)
        return call


class Sized(Answers):
    """Says that it chooses these sizes."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes


class Startless(Answers):
    def start(self, batch: int) -> Any:
        return None


@pytest.fixture(scope="module")
def drafting(tiny_target: Folder, tiny_head: Folder) -> Decoder:
    return load(tiny_target("llama"), tiny_head("llama"), dtype="float32", device="cpu")


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        *[(Answers(speculate=wrong), "Answers.speculate answers .* True or False") for wrong in (None, 1, 2.5, "x")],
        *[
            (Answers(continue_drafting=wrong), "Answers.continue_drafting answers .* True or False")
            for wrong in (None, 0, 2.5, "x", torch.ones(2, dtype=torch.bool))
        ],
        *[
            (Answers(choose_size=wrong), "what Answers.choose_size answers is .* but must be a whole number")
            for wrong in (None, 2.5, "x", True, np.float64(3), torch.tensor([3, 4]))
        ],
        *[
            (Answers(choose_size=wrong), rf"size {wrong} is out of range; Answers\.choose_size must answer 0 … 9")
            for wrong in (10, -1, -3)
        ],
        *[
            (Beyond({name: wrong}), rf"the {name} of what Beyond\.start returns is {wrong}; it must be 0 … {most}")
            for name, most in (("max_depth", 2), ("max_size", 9))
            for wrong in (most + 1, -1)
        ],
        (Sized((0, 4, 10)), r"sizes are \(0, 4, 10\), but its max_size is 9"),
        (Startless(), "what Startless.start returns is None, but must be an object with .*choose_size"),
    ],
)
def test_answers_of_a_policy_that_are_none(drafting: Decoder, policy: Answers, message: str) -> None:
    with pytest.raises(ltd.InputError, match=message):
        drafting.generate([5, 6], max_new_tokens=8, policy=policy)
    assert len(drafting.generate([5, 6], max_new_tokens=8, policy=Answers()).token_ids) == 8  # nothing is left behind


@pytest.mark.parametrize(("size", "room", "wrong"), [(-1, 4, -1), (9, 0, 9), (2, -1, -1), (0, 9, 9)])
def test_a_tree_has_no_other_sizes_than_it_was_made_for(size: int, room: int, wrong: int) -> None:
    tree = DraftTree(1, 4, 0, 8, torch.device("cpu"))
    with pytest.raises(ltd.InputError, match=f"size {wrong} is out of range; this tree verifies 0 … 8 candidates"):
        tree.select(size, room)


def test_answers_of_a_policy_in_other_forms(drafting: Decoder) -> None:
    truth, size = torch.tensor([True]), np.int64(9)
    for policy in (Answers(truth, truth, size), Answers(np.bool_(True), np.bool_(True), torch.tensor(9))):
        statistics = drafting.generate([5, 6], max_new_tokens=8, policy=policy).statistics
        assert set(statistics.depths) == {2} and set(statistics.sizes) == {9}
