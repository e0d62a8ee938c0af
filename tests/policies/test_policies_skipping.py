"""Cycles without a draft: the same text, and the same draft scores when drafting goes on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle_draft import OracleDraft
from small_models import VOCABULARY
from transformers import AutoModelForCausalLM, PreTrainedModel

from ltd.decoding.decoder import Decoder
from ltd.decoding.gain import Gain, in_runs, joined
from ltd.decoding.report import Report
from ltd.drafts.eagle3.draft import Eagle3Draft, Eagle3Session
from ltd.drafts.eagle3.engine import HeadEngine
from ltd.drafts.eagle3.files import load_head
from ltd.engine.cpu import Engine
from ltd.loading import load
from ltd.target.target import Target
from ltd.tree import MAX_GAIN, NOT_ASKED, DraftTree

Folder = Callable[[str], Path]
Seen = dict[tuple[int, ...], torch.Tensor]
NEW = 24


class Skipping:
    """Drafts in the cycles that a pattern says, over and over; keeps the scores of every tree by context lengths."""

    max_depth = 2

    def __init__(self, pattern: list[bool], size: int) -> None:
        self.pattern, self.max_size, self.asked = pattern, size, 0
        self.seen: Seen = {}

    def start(self, batch: int) -> Skipping:
        return self

    def keep(self, rows: list[int]) -> None:
        pass

    def speculate(self, lengths: torch.Tensor, gained: list[int]) -> bool:
        self.asked += 1
        return self.pattern[(self.asked - 1) % len(self.pattern)]

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        return True

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        self.seen[tuple(tree.lengths.tolist())] = tree.scores[:, : tree.candidates].clone()
        return self.max_size


def random_prompts(seed: int, lengths: list[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


@pytest.fixture(scope="module")
def engine_decoder(tiny_target: Folder, tiny_head: Folder) -> Decoder:
    decoder = load(tiny_target("llama"), tiny_head("llama"), dtype="float32", device="cpu")
    assert isinstance(decoder.target.forward, Engine) and isinstance(decoder.draft.forward, HeadEngine)
    return decoder


@pytest.fixture(scope="module")
def layers_decoder(tiny_target: Folder, tiny_head: Folder) -> Decoder:
    """On the layers of `transformers` and of the head."""
    model = AutoModelForCausalLM.from_pretrained(tiny_target("llama"), dtype=torch.float32).eval()
    head = load_head(tiny_head("llama"), torch.float32, "cpu")
    target = Target(model, head.config.feature_layers)
    return Decoder(target, Eagle3Draft(head, target.embedding), stop_ids=[2])


def answers(decoder: Decoder, prompts: list[list[int]], policy: Skipping | str, **options: Any) -> list[list[int]]:
    options = {"max_new_tokens": NEW, **options}
    return [answer.token_ids for answer in decoder.generate(prompts, policy=policy, **options)]


def check_scores(decoder: Decoder, prompts: list[list[int]], pattern: list[bool], rtol: float, atol: float) -> None:
    """With size 0 every cycle gains one token, so that trees grow at every context length there is."""
    every, skipping = Skipping([True], 0), Skipping(pattern, 0)
    texts = answers(decoder, prompts, every, stop_token_ids=[])
    assert answers(decoder, prompts, skipping, stop_token_ids=[]) == texts
    assert skipping.seen.keys() <= every.seen.keys() and len(skipping.seen) < len(every.seen) == NEW - 1
    for lengths, scores in skipping.seen.items():
        torch.testing.assert_close(scores, every.seen[lengths], rtol=rtol, atol=atol)


patterns = st.lists(st.booleans(), min_size=1, max_size=6).map(lambda pattern: [False, *pattern])


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), lengths=st.lists(st.integers(1, 40), min_size=1, max_size=3), pattern=patterns)
def test_scores_on_the_engine_are_the_same_to_the_last_bit(
    engine_decoder: Decoder, seed: int, lengths: list[int], pattern: list[bool]
) -> None:
    check_scores(engine_decoder, random_prompts(seed, lengths), pattern, rtol=0, atol=0)


def test_scores_on_plain_layers_are_the_same(layers_decoder: Decoder) -> None:
    check_scores(layers_decoder, random_prompts(1, [9, 3]), [False, False, True], rtol=1e-4, atol=1e-4)


def test_a_draft_catches_up_with_many_tokens_at_once(engine_decoder: Decoder) -> None:
    draft = engine_decoder.draft
    features = torch.randn(1, 700, len(draft.feature_layers) * 32, generator=torch.Generator().manual_seed(0))
    tokens = torch.arange(700)[None] % VOCABULARY
    with torch.inference_mode():
        late = draft.start(1, 800).begin(features, tokens, None)
        session = draft.start(1, 800)
        # A prompt's first token has no feature before it, so the draft does not look at it.
        session.read_prompt(0, features, torch.cat([torch.zeros(1, dtype=torch.int64), tokens[0, :699]]))
        assert torch.equal(session.begin(features[:, 699:], tokens[:, 699:], None), late)


def test_gains_of_several_cycles_are_joined_sequence_by_sequence() -> None:
    def gain(counts: list[int], first: int) -> Gain:
        tokens = torch.arange(first, first + 6).reshape(2, 3)
        rows = [row[:count] for row, count in zip(tokens.tolist(), counts, strict=True)]
        accepted = Report(range(2), tokens.device).known(rows)
        return Gain(accepted, accepted.tokens[:, :, None].float())

    unread = joined([gain([1, 3], 0), gain([2, 1], 10)])
    assert unread.counts == [3, 4] and unread.gained is not None and unread.gained.tolist() == unread.counts
    rows = [row[:count].tolist() for row, count in zip(unread.tokens, unread.counts, strict=True)]
    assert rows == [[0, 10, 11], [3, 4, 5, 13]]
    assert unread.features is not None and torch.equal(unread.features[..., 0].long(), unread.tokens)


@given(gained=st.lists(st.lists(st.integers(1, MAX_GAIN), min_size=3, max_size=3), min_size=1, max_size=40))
def test_gains_are_read_in_runs_for_which_a_cache_has_room(gained: list[list[int]]) -> None:
    tokens = [[[0] * count for count in counts] for counts in gained]
    gains = [Gain(Report(range(3), torch.device("cpu")).known(rows), None) for rows in tokens]
    runs = in_runs(gains)
    assert [gain for run in runs for gain in run] == gains
    totals = [joined(run).counts for run in runs]
    assert all(max(total) - min(total) <= MAX_GAIN for total in totals)
    for total, following in zip(totals, runs[1:], strict=False):  # one gain more would have been too many
        more = [sum(counts) for counts in zip(total, following[0].accepted.counts, strict=True)]
        assert max(more) - min(more) > MAX_GAIN


class LookingUpAtFirst:
    """Asks the draft only once so many cycles have taken tokens from the text alone."""

    max_depth, max_size, max_text = 0, 16, 16

    def __init__(self, cycles: int) -> None:
        self.cycles = cycles

    def start(self, batch: int) -> LookingUpAtFirst:
        return self

    def keep(self, rows: list[int]) -> None:
        pass

    def speculate(self, lengths: torch.Tensor, gained: list[int]) -> bool:
        self.cycles -= 1
        return True

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        return self.cycles < 0

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        return self.max_size


@pytest.mark.parametrize("kind", ["engine_decoder", "layers_decoder"])
def test_a_sequence_at_its_limit_has_room_beside_one_that_gained_much(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """The caches have 256 rows, all of them of use: 222 of text, a gain's 17 behind it and a tree's 17."""
    decoder = copy.copy(request.getfixturevalue(kind))
    decoder.max_length = 222
    prompts = random_prompts(3, [10, 200])
    options = {"max_new_tokens": 200, "stop_token_ids": []}
    texts = answers(decoder, prompts, "none", **options)
    decoder.history = [*prompts[0], *texts[0]]
    found = decoder.generate(prompts, policy=LookingUpAtFirst(8), **options)
    assert [answer.token_ids for answer in found] == texts
    statistics = found[0].statistics
    assert statistics.depths[:9] == [NOT_ASKED] * 8 + [0]
    assert sum(statistics.gains[:16:2]) > 100 and sum(statistics.gains[1:16:2]) < 22


@pytest.fixture(scope="module")
def two_models(tiny_target: Folder) -> list[PreTrainedModel]:
    """The target twice: once to decode with, once for the oracle."""
    folder = tiny_target("llama")
    return [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for _ in range(2)]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**31),
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    pattern=patterns,
    size=st.integers(0, 20),
    noise=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_any_pattern_gives_the_same_text(
    two_models: list[PreTrainedModel], seed: int, lengths: list[int], pattern: list[bool], size: int, noise: float
) -> None:
    model, copy = two_models
    prompts = random_prompts(seed, lengths)
    decoder = Decoder(Target(model), OracleDraft(copy, noise=noise), stop_ids=[2])
    assert answers(decoder, prompts, Skipping(pattern, size)) == answers(decoder, prompts, "none")


def test_a_cycle_without_a_draft_gains_one_token_and_never_calls_the_draft(
    engine_decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Eagle3Session, "begin", lambda *arguments: pytest.fail("the draft was used"))
    (prompt,) = random_prompts(3, [7])
    answer = engine_decoder.generate(prompt, max_new_tokens=NEW, policy=Skipping([False], 20))
    assert set(answer.statistics.sizes) == {0} and set(answer.statistics.depths) == {-1}
    assert set(answer.statistics.gains) == {1}


def test_what_an_abandoned_call_left_unread_is_forgotten(engine_decoder: Decoder) -> None:
    prompts = random_prompts(4, [6, 11])
    wanted = Skipping([True], 0)
    texts = answers(engine_decoder, prompts[1:], wanted)
    for _ in zip(range(3), engine_decoder.stream(prompts[0], policy=Skipping([False], 0)), strict=False):
        pass
    again = Skipping([False, True], 0)
    assert answers(engine_decoder, prompts[1:], again) == texts
    for lengths, scores in again.seen.items():
        assert torch.equal(scores, wanted.seen[lengths])
