"""The text's own candidates in the cycle: whatever is looked up, the text is plain decoding's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle_draft import OracleDraft
from small_models import FAMILIES, VOCABULARY
from transformers import AutoModelForCausalLM, PreTrainedModel

import ltd
from ltd.decoding.decoder import Decoder, Generation
from ltd.decoding.speculation import Speculation
from ltd.evaluation.compare import EvalConfig, evaluate
from ltd.loading import make_target
from ltd.lookup import MAX_TEXT_DEPTH
from ltd.policies import Learned, Policy
from ltd.policies.base import PolicyCall
from ltd.policies.by_name import parse_policy
from ltd.policies.learned.setting import Setting
from ltd.target.target import Target
from ltd.tree import DraftTree

Folder = Callable[[str], Path]


@cache
def model_in(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@cache
def target_in(folder: Path) -> Target:
    """On the engine, whose forwards are row-exact: sampled texts are the same to the last bit, and not only nearly."""
    return make_target(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), (), takes_weights=True)


def repetitive(seed: int, length: int, words: int) -> list[int]:
    """A prompt of few different tokens, in which there is much to look up."""
    generator = torch.Generator().manual_seed(seed)
    return (3 + torch.randint(words, (length,), generator=generator)).tolist()


def answer_of(decoder: Decoder, prompt: list[int], **options: object) -> Generation:
    answer = decoder.generate(prompt, **options)  # type: ignore[arg-type]
    assert isinstance(answer, Generation)
    return answer


policies = st.one_of(
    st.builds(ltd.Lookup, st.integers(1, 64)),
    st.builds(ltd.Both, st.integers(0, 4), st.integers(0, 20), st.integers(1, 64), st.floats(0.0, 1.0)),
)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**31),
    length=st.integers(1, 80),
    words=st.integers(1, 40),
    policy=policies,
    noise=st.sampled_from([0.0, 3.0, 30.0]),
    temperature=st.sampled_from([0.0, 1.0]),
    knows_the_answer=st.booleans(),
)
def test_the_text_is_plain_decodings(
    tiny_target: Folder,
    family: str,
    seed: int,
    length: int,
    words: int,
    policy: Policy,
    noise: float,
    temperature: float,
    knows_the_answer: bool,
) -> None:
    folder, prompt = tiny_target(family), repetitive(seed, length, words)
    model, target = model_in(folder), target_in(folder)
    options = {"max_new_tokens": 40, "temperature": temperature, "seed": seed}
    expected = answer_of(Decoder(target, stop_ids=[2]), prompt, **options)
    history = [*prompt, *expected.token_ids] if knows_the_answer else []
    draft = OracleDraft(model, noise=noise)
    found = answer_of(Decoder(target, draft, policy, stop_ids=[2], history=history), prompt, **options)
    assert found.token_ids == expected.token_ids
    accepted = sum(found.statistics.gains) - found.statistics.cycles
    # A cycle's last token is the target's own, unless the answer ends before it.
    assert accepted <= sum(found.statistics.sources.values()) <= accepted + 1


def test_a_known_text_is_copied_without_a_draft(tiny_target: Folder) -> None:
    decoder = ltd.load(tiny_target("llama"), "lookup", policy=ltd.Lookup(16), dtype="float32", device="cpu")
    prompt = repetitive(1, 30, 90)
    expected = answer_of(decoder, prompt, max_new_tokens=100, policy="none").token_ids
    decoder.history = (*prompt, *expected)
    found = answer_of(decoder, prompt, max_new_tokens=100)
    assert found.token_ids == expected
    assert decoder.draft is None and found.statistics.seconds["draft"] == 0.0
    assert max(found.statistics.gains) == MAX_TEXT_DEPTH + 1
    assert set(found.statistics.depths) == {-1}
    assert found.statistics.sources["text"] > 0 == found.statistics.sources["draft"]


def test_both_sources_are_told_apart(tiny_target: Folder) -> None:
    model, prompt = model_in(tiny_target("llama")), repetitive(2, 30, 90)
    target = target_in(tiny_target("llama"))
    expected = answer_of(Decoder(target), prompt, max_new_tokens=60).token_ids
    history = [*prompt, *expected]
    oracle = OracleDraft(model, sharpness=20.0)
    both = answer_of(Decoder(target, oracle, ltd.Both(3, 8, 16), history=history), prompt, max_new_tokens=60)
    assert both.token_ids == expected
    sources = both.statistics.sources
    assert sources["both"] > 0 and sources["text"] > 0  # the draft is as right, but not as deep
    blind = OracleDraft(model, noise=1e4)
    text = answer_of(Decoder(target, blind, ltd.Both(3, 8, 16), history=history), prompt, max_new_tokens=60)
    assert text.token_ids == expected and text.statistics.sources["text"] > sources["text"]
    alone = answer_of(
        Decoder(target, oracle, ltd.Both(3, 8, 16, alone=0.3), history=history), prompt, max_new_tokens=60
    )
    assert alone.token_ids == expected and alone.statistics.depths.count(-1) > len(alone.statistics.depths) / 2


def test_rows_of_a_batch_look_up_apart(tiny_target: Folder) -> None:
    model = model_in(tiny_target("qwen2"))
    target = target_in(tiny_target("qwen2"))
    prompts = [repetitive(seed, length, words) for seed, length, words in ((1, 5, 2), (2, 60, 90), (3, 33, 7))]
    plain = Decoder(target, stop_ids=[2])
    decoder = Decoder(target, OracleDraft(model, noise=2.0), ltd.Both(1, 4, 12), stop_ids=[2])
    alone = Decoder(target, None, ltd.Lookup(12), stop_ids=[2])
    for temperature in (0.0, 1.0):
        options = {"max_new_tokens": 50, "temperature": temperature, "seed": 5}
        expected = [answer.token_ids for answer in plain.generate(prompts, **options)]  # type: ignore[union-attr]
        for each in (decoder, alone):
            together = each.generate(prompts, **options)
            assert isinstance(together, list) and [answer.token_ids for answer in together] == expected


def test_two_streams_of_one_decoder_look_up_apart(tiny_target: Folder) -> None:
    decoder = ltd.load(tiny_target("llama"), "lookup", dtype="float32", device="cpu")
    prompts = [repetitive(seed, 40, 4) for seed in (8, 9)]
    expected = [answer_of(decoder, prompt, max_new_tokens=30, policy="none").token_ids for prompt in prompts]
    streams = [decoder.stream(prompt, max_new_tokens=30) for prompt in prompts]
    found: list[list[int]] = [[], []]
    going = [0, 1]
    while going:
        for row in list(going):
            news = next(streams[row], None)
            if news is None:
                going.remove(row)
            else:
                found[row] += news
    assert found == expected


class AsksOnce(ltd.Both):
    """Writes down what it is asked."""

    asked: list[tuple[str, int]] = []  # noqa: RUF012

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        assert tree.text is not None and tree.levels == depth + 1
        self.asked.append(("deeper", depth))
        return super().continue_drafting(tree, depth)

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        self.asked.append(("size", depth))
        return super().choose_size(tree, depth)


def test_a_policy_of_both_is_asked_before_anything_is_drafted(tiny_target: Folder) -> None:
    model = model_in(tiny_target("llama"))
    target = target_in(tiny_target("llama"))
    policy = AsksOnce(2, 4, 4)
    policy.asked.clear()
    answer_of(Decoder(target, OracleDraft(model), policy), [5, 6, 7], max_new_tokens=2)
    assert policy.asked == [("deeper", -1), ("deeper", 0), ("deeper", 1), ("size", 2)]


def test_a_lookup_leaves_the_draft_alone(tiny_target: Folder) -> None:
    model = model_in(tiny_target("llama"))
    decoder = Decoder(target_in(tiny_target("llama")), OracleDraft(model), ltd.Lookup(4))
    speculation = decoder.speculation()
    assert speculation is not None and speculation.draft is None
    assert answer_of(decoder, [5] * 20, max_new_tokens=20).statistics.seconds["draft"] == 0.0


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ([5, VOCABULARY], f"history holds the token id {VOCABULARY}"),
        ([-2], "history holds the token id -2"),
        ("abc", "history is 'abc', but must be a list of whole numbers"),
        ([1.5], "a number in history is 1.5"),
        (5, "history is 5"),
        (None, "history is None"),
        ([2**70], "history holds the token id 1180591620717411303424"),
    ],
)
def test_a_history_that_is_none_is_told_at_once(tiny_target: Folder, history: Any, message: str) -> None:
    target = target_in(tiny_target("llama"))
    with pytest.raises(ltd.InputError, match=message):
        Decoder(target, None, ltd.Lookup(4), history=history)
    decoder = Decoder(target, None, ltd.Lookup(4), history=[5, -1, 6])
    with pytest.raises(ltd.InputError, match=message):
        decoder.history = history
    assert decoder.history == (5, -1, 6)


@dataclass(frozen=True)
class KnowingText:
    """A rule for the draft, made to know what the text proposes."""

    rule: Policy
    max_text: int = 8

    @property
    def max_depth(self) -> int:
        return self.rule.max_depth

    @property
    def max_size(self) -> int:
        return self.rule.max_size

    def start(self, batch: int) -> PolicyCall:
        return self.rule.start(batch)


@pytest.mark.parametrize("name", ["eagle3", "ddd:levels=1/2", "svip:size=6", "gammatune", "disco", "c2t"])
def test_a_rule_for_the_draft_asks_it_where_it_knows_the_text(tiny_target: Folder, name: str) -> None:
    """Before anything is drafted there is no level for its signal, so it drafts; the text's candidates are beside."""
    model = model_in(tiny_target("llama"))
    target, prompt = target_in(tiny_target("llama")), repetitive(3, 40, 4)
    expected = answer_of(Decoder(target), prompt, max_new_tokens=30).token_ids
    rule = parse_policy(name)
    found = answer_of(Decoder(target, OracleDraft(model), KnowingText(rule)), prompt, max_new_tokens=30)
    assert found.token_ids == expected and min(found.statistics.depths) >= 0
    assert sum(found.statistics.sources.values()) > 0


def test_policies_that_know_the_draft_alone_look_nothing_up(tiny_target: Folder) -> None:
    model = model_in(tiny_target("llama"))
    target = target_in(tiny_target("llama"))
    answer = answer_of(Decoder(target, OracleDraft(model), ltd.Static(1, 4)), [5] * 20, max_new_tokens=20)
    assert answer.statistics.sources == {} and answer.statistics.seconds["lookup"] == 0.0


def test_without_a_draft_a_policy_must_know_the_text(tiny_target: Folder) -> None:
    target = target_in(tiny_target("llama"))
    with pytest.raises(ltd.InputError, match=r"there is none.*ltd\.Lookup"):
        Decoder(target, None, ltd.Static(1, 4))
    assert Speculation(None, ltd.Lookup(5)).limits == (1, 0, 5)


NO_DRAFT = r"both, depth 0, size 2 and 8 of the text decides about a draft, and there is none; .* lookup:N"


def test_both_sources_need_a_draft(tiny_target: Folder, tmp_path: Path) -> None:
    """It would be the text alone without a word, so it is refused: of a call, when loading, in comparisons, inside."""
    folder, policy = tiny_target("llama"), ltd.Both()
    with pytest.raises(ltd.InputError, match=NO_DRAFT):
        ltd.load(folder, policy=policy, dtype="float32", device="cpu")
    decoder = ltd.load(folder, dtype="float32", device="cpu")
    with pytest.raises(ltd.InputError, match=NO_DRAFT):
        decoder.generate([5, 6], policy=policy)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "question.jsonl").write_text('{"question_id": 1, "turns": ["Why?"]}\n')
    config = EvalConfig(tmp_path, tmp_path / "out", ("mine",), target=str(folder), methods=("none", "both:0:2:8"))
    with pytest.raises(ltd.InputError, match=NO_DRAFT):
        evaluate(config)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with pytest.raises(ltd.InputError, match=NO_DRAFT):
        model.generate(torch.tensor([[5, 6]]), custom_generate=ltd.CustomGenerate(policy=policy), max_new_tokens=3)


def test_learned_policies_with_a_depth_need_a_draft(tiny_target: Folder) -> None:
    """Whatever text they read beside it; without a depth to choose they may have been made for the text alone."""
    target, deep = target_in(tiny_target("llama")), Learned(Setting(10), 2, (3,), max_text=8)
    with pytest.raises(ltd.InputError, match=r"depth 2, size 3, .* decides about a draft, and there is none"):
        Decoder(target, None, deep)
    with pytest.raises(ltd.InputError, match="decides about a draft, and there is none"):
        ltd.load(tiny_target("llama"), "lookup", policy=deep, dtype="float32", device="cpu")
    assert Speculation(None, replace(deep, depth_limit=0)).limits == (1, 0, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ltd.Lookup(0), "0 candidates of the text"),
        (lambda: ltd.Lookup(65), "65 is out of range"),
        (lambda: ltd.Both(text=0), "0 candidates of the text"),
        (lambda: ltd.Both(depth=13), "depth 13"),
        (lambda: ltd.Both(size=500, text=60), "size 560"),
        (lambda: ltd.Both(alone=1.5), "alone 1.5"),
        (lambda: ltd.Lookup("8"), "size is '8', but must be a whole number"),  # type: ignore[arg-type]
        (lambda: ltd.Lookup(8, "8"), "least is '8', but must be a number"),  # type: ignore[arg-type]
        (lambda: ltd.Both(text=2.5), "text is 2.5, but must be a whole number"),  # type: ignore[arg-type]
        (lambda: ltd.Both(alone=None), "alone is None, but must be a number"),  # type: ignore[arg-type]
    ],
)
def test_numbers_out_of_range(make: Callable[[], Policy], message: str) -> None:
    with pytest.raises(ltd.InputError, match=message):
        make()


def test_a_target_without_a_head_is_looked_up_in(tiny_target: Folder) -> None:
    assert VOCABULARY != 49152  # the shipped head's
    decoder = ltd.load(tiny_target("llama"), dtype="float32", device="cpu")
    assert decoder.draft is None and isinstance(decoder.policy, ltd.Lookup)
    assert isinstance(ltd.load(tiny_target("llama"), policy="static", dtype="float32").policy, ltd.Lookup)
    plain = ltd.load(tiny_target("llama"), policy="none", dtype="float32", device="cpu")
    assert plain.draft is None and plain.policy is None
    prompt = repetitive(4, 50, 5)
    expected = answer_of(plain, prompt, max_new_tokens=40).token_ids
    assert answer_of(decoder, prompt, max_new_tokens=40).token_ids == expected


@pytest.mark.parametrize("draft", ["lookup", None])
def test_inside_generate_of_transformers(tiny_target: Folder, draft: str | None) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_target("mistral"), dtype=torch.float32).eval()
    ids = torch.tensor([repetitive(6, 40, 3), repetitive(7, 40, 3)])
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 30, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(ids, **options)
    custom = ltd.CustomGenerate(draft)
    assert torch.equal(model.generate(ids, custom_generate=custom, **options), expected)
    assert sum(custom.last_statistics.sources.values()) > 0
