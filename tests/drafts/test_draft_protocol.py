"""What every draft promises, whatever its kind: it can go back, be copied, and be timed without a text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle_draft import OracleDraft
from small_models import VOCABULARY
from torch import nn
from transformers import AutoModelForCausalLM

from ltd.drafts import Draft, DraftSession
from ltd.drafts.eagle3.draft import Eagle3Draft
from ltd.drafts.eagle3.files import load_head
from ltd.drafts.opening import make_draft
from ltd.tree import DraftTree

Folder = Callable[[str], Path]
KINDS = ("eagle3", "eagle3 on the engine", "oracle")
LONGEST, DEPTH, HIDDEN = 20, 2, 32


@pytest.fixture(scope="module")
def drafts(tiny_target: Folder, tiny_head: Folder) -> dict[str, Draft]:
    """One of every kind."""
    torch.manual_seed(0)
    embedding = nn.Embedding(VOCABULARY, HIDDEN)
    heads = [load_head(tiny_head("llama"), torch.float32, "cpu") for _ in range(2)]
    model = AutoModelForCausalLM.from_pretrained(tiny_target("llama"), dtype=torch.float32).eval()
    made = Eagle3Draft(heads[0], embedding), make_draft(heads[1], embedding), OracleDraft(model, noise=0.0)
    return dict(zip(KINDS, made, strict=True))


def text(draft: Draft, seed: int) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Features (1, n, F * Ht), if the draft reads any, and tokens int64 (n,)."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCABULARY, (LONGEST + 1,), generator=generator)
    width = len(draft.feature_layers) * HIDDEN
    return torch.randn(1, LONGEST + 1, width, generator=generator) if width else None, tokens


def tree_at(
    draft: Draft, session: DraftSession, features: torch.Tensor | None, tokens: torch.Tensor, places: list[int]
) -> DraftTree:
    """Drafts from roots at these places of the text, which the sequences know up to there."""
    at = torch.tensor(places)
    tree = DraftTree(len(places), draft.width, DEPTH, 0, torch.device("cpu"))
    tree.begin(tokens[at], at.int())
    newest = None if features is None else features[0, at - 1][:, None]
    tree.expand(session.begin(newest, tokens[at][:, None], None), draft.d2t)
    session.note([1] * len(places))
    assert (session.root_states is None) == (draft.state_size == 0)
    for _ in range(DEPTH):
        tree.expand(session.expand(tree), draft.d2t)
        for states, rows in ((session.root_states, 1), (session.beam_states, draft.width)):
            assert states is None or states.shape == (len(places), rows, draft.state_size)
    return tree


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), places=st.lists(st.integers(1, LONGEST), min_size=1, max_size=4))
@torch.inference_mode()
def test_going_back_is_having_read_no_more(drafts: dict[str, Draft], kind: str, seed: int, places: list[int]) -> None:
    """One text, copied to several sequences which go back to different places, and further back after they drafted."""
    draft = drafts[kind]
    features, tokens = text(draft, seed)
    alone = []
    for place in places:
        session = draft.start(1, 64)
        session.read_prompt(0, None if features is None else features[:, :place], tokens[:place])
        alone.append(tree_at(draft, session, features, tokens, [place]))
    session = draft.start(len(places), 64)
    session.read_prompt(0, None if features is None else features[:, :-1], tokens[:-1])
    session.spread()
    for goal in ([LONGEST] * len(places), places):
        session.rewind(goal)
        together = tree_at(draft, session, features, tokens, goal)
    for row, tree in enumerate(alone):
        torch.testing.assert_close(together.scores[row], tree.scores[0], rtol=1e-4, atol=1e-4)
        assert torch.equal(together.tokens[row, : draft.width], tree.tokens[0, : draft.width])


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_what_was_not_read_is_drafted_from_all_the_same(drafts: dict[str, Draft], kind: str) -> None:
    """A pretended text carries a tree as a real one does, and leaves nothing behind."""
    draft = drafts[kind]
    features, tokens = text(draft, 1)

    def real() -> torch.Tensor:
        session = draft.start(1, 64)
        session.read_prompt(0, None if features is None else features[:, :7], tokens[:7])
        scores = tree_at(draft, session, features, tokens, [7]).scores
        session.close()
        return scores

    before = real()
    session = draft.start(1, 64)
    session.pretend_read([7])
    pretended = tree_at(draft, session, features, tokens, [7])
    assert pretended.levels == DEPTH + 1 and bool(pretended.scores.isfinite().all())
    session.rewind([7])  # as much as it pretended to have read
    session.close()
    assert torch.equal(real(), before)
