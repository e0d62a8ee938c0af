"""The head inside the cycle against one forward over the whole sequence with a plain mask."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import ltd
from ltd.drafts.eagle3.device import HeadDeviceEngine
from ltd.drafts.eagle3.draft import Eagle3Draft, Eagle3Session
from ltd.drafts.eagle3.engine import HeadEngine
from ltd.drafts.eagle3.files import load_head
from ltd.drafts.eagle3.head import Eagle3Head
from ltd.tree import DraftTree

Folder = Callable[[str], Path]
WIDTH = 3
Engine = type[HeadEngine] | type[HeadDeviceEngine] | None
ENGINES: list[Engine] = [None, HeadEngine, HeadDeviceEngine]


def masked_forward(
    head: Eagle3Head, embedding: nn.Embedding, states: torch.Tensor, tokens: torch.Tensor, positions: torch.Tensor,
    visible: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """The head over (n,) slots at once, each seeing those that `visible` (n, n) says."""

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible, enable_gqa=True)
        return mixed.transpose(1, 2)

    return head(embedding(tokens)[None], states[None], positions[None], attend)[0]


def expected_levels(
    head: Eagle3Head, embedding: nn.Embedding, features: torch.Tensor, following: torch.Tensor, tree: DraftTree
) -> list[torch.Tensor]:
    """Logits of every level, from true features for the sequence and the head's own states inside the tree."""
    count = len(following)
    states, tokens = head.fuse(features[None])[0], following
    positions, visible = torch.arange(count), torch.ones(count, count, dtype=torch.bool).tril()
    outputs = masked_forward(head, embedding, states, tokens, positions, visible)
    levels = [head.logits(outputs[-1:])]
    slots = {-1: count - 1}
    for level in range(tree.levels - 1):
        for node in tree.beam_nodes[0, level].tolist():
            parent = slots[int(tree.parents[0, node])]
            slots[node] = len(tokens)
            states = torch.cat([states, outputs[parent][None]])
            tokens = torch.cat([tokens, tree.tokens[0, node][None]])
            positions = torch.cat([positions, torch.tensor([count + level])])
            row = torch.cat([visible[parent], torch.zeros(len(tokens) - 1 - len(visible[parent]), dtype=torch.bool)])
            grown = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
            grown[:-1, :-1], grown[-1, :-1], grown[-1, -1] = visible, row, True
            visible = grown
        outputs = masked_forward(head, embedding, states, tokens, positions, visible)
        levels.append(head.logits(outputs[-WIDTH:]))
    return levels


def draft_of(head: Eagle3Head, embedding: nn.Embedding, engine: Engine) -> Eagle3Draft:
    """A draft on the head's own layer, or on an engine with a copy of it."""
    forward = None if engine is None else engine(copy.deepcopy(head))
    return Eagle3Draft(head, embedding, width=WIDTH, forward=forward)


def read_prompt(session: Eagle3Session, row: int, features: torch.Tensor, following: torch.Tensor) -> None:
    """Features (n, F * H) with the tokens (n,) after them; the first token and the last feature do not count."""
    left_out = torch.full_like(features[:1], torch.nan)
    tokens = torch.cat([torch.zeros(1, dtype=torch.int64), following])
    session.read_prompt(row, torch.cat([features, left_out])[None], tokens)


@pytest.mark.parametrize(
    "options",
    [{}, {"norm_before_residual": True, "attention_bias": True}, {"norm_output": True, "fc_norm": True}],
)
@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), gains=st.lists(st.integers(1, 5), min_size=1, max_size=4), depth=st.integers(0, 4))
def test_every_cycle_equals_one_forward_over_true_features(
    tiny_head: Folder, engine: Engine, options: dict[str, bool], seed: int, gains: list[int], depth: int
) -> None:
    torch.manual_seed(seed)
    trained = load_head(tiny_head("llama"), torch.float32, torch.device("cpu"))
    head = Eagle3Head(replace(trained.config, **options))
    head.load_state_dict(trained.state_dict(), strict=False)
    nn.init.uniform_(head.norm.weight, 0.5, 1.5)
    config = head.config
    embedding = nn.Embedding(config.vocab_size, config.target_hidden_size)
    prompt_length = 6
    total = prompt_length + sum(gains)
    features = torch.randn(total, len(config.feature_layers) * config.target_hidden_size)
    following = torch.randint(0, config.vocab_size, (total,))
    draft = draft_of(head, embedding, engine)
    with torch.inference_mode():
        session = draft.start(1, 128)
        read_prompt(session, 0, features[:prompt_length], following[:prompt_length])
        seen = prompt_length
        for gain in gains:
            new = slice(seen, seen + gain)
            seen += gain
            tree = DraftTree(1, WIDTH, depth, 8, torch.device("cpu"))
            tree.begin(following[seen - 1][None], torch.tensor([seen], dtype=torch.int32))
            levels = [session.begin(features[None, new], following[None, new], None)]
            session.note([gain])
            tree.expand(levels[0], draft.d2t)
            for _ in range(depth):
                levels.append(session.expand(tree))
                tree.expand(levels[-1], draft.d2t)
            expected = expected_levels(head, embedding, features[:seen], following[:seen], tree)
            for level, logits in enumerate(levels):
                torch.testing.assert_close(logits[0], expected[level], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_batch_rows_do_not_disturb_each_other(tiny_head: Folder, engine: Engine) -> None:
    torch.manual_seed(0)
    head = load_head(tiny_head("llama"), torch.float32, torch.device("cpu"))
    config = head.config
    embedding = nn.Embedding(config.vocab_size, config.target_hidden_size)
    width = len(config.feature_layers) * config.target_hidden_size
    features, following = torch.randn(2, 4, width), torch.randint(0, config.vocab_size, (2, 4))
    prompts = [torch.randn(9, width), torch.randn(2, width)]
    tokens = [torch.randint(0, config.vocab_size, (9,)), torch.randint(0, config.vocab_size, (2,))]
    counts = [1, 4]

    def run(rows: list[int]) -> list[torch.Tensor]:
        draft = draft_of(head, embedding, engine)
        session = draft.start(len(rows), 64)
        for index, row in enumerate(rows):
            read_prompt(session, index, prompts[row], tokens[row])
        tree = DraftTree(len(rows), WIDTH, 2, 8, torch.device("cpu"))
        chosen = torch.tensor([counts[row] for row in rows], dtype=torch.int32)
        tree.begin(following[rows, 0], session.cache.lengths)
        logits = [session.begin(features[rows], following[rows], chosen)]
        session.note(chosen.tolist())
        tree.expand(logits[-1], draft.d2t)
        for _ in range(2):
            logits.append(session.expand(tree))
            tree.expand(logits[-1], draft.d2t)
        return logits

    with torch.inference_mode():
        together, alone = run([0, 1]), [run([0]), run([1])]
    for level, logits in enumerate(together):
        for row in (0, 1):
            torch.testing.assert_close(logits[row], alone[row][level][0])


@pytest.mark.parametrize(("words", "width", "message"), [(95, 32, "vocabulary of 96"), (96, 31, "width 32")])
def test_a_head_for_another_target_is_refused(tiny_head: Folder, words: int, width: int, message: str) -> None:
    head = load_head(tiny_head("llama"), torch.float32, torch.device("cpu"))
    with pytest.raises(ltd.InputError, match=message):
        Eagle3Draft(head, nn.Embedding(words, width))
