"""The policies that come with the package: whole, for the shipped head, and deciding by what they see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import every_kernel

from ltd.common.assets import shipped_head, shipped_policies
from ltd.drafts.opening import head_hash
from ltd.lookup import TextSource, default_text_scores
from ltd.policies.learned.bundle import FACTS, load_bundle
from ltd.policies.learned.policy import Learned
from ltd.training.data.own_questions import OWN
from ltd.tree import DraftTree
from ltd_rl.traces.human_eval import TASK

BUNDLES = sorted(file.parent for file in shipped_policies().glob(f"*/{FACTS}"))


def test_there_is_one() -> None:
    assert BUNDLES


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda folder: folder.name)
def test_it_is_for_the_shipped_head_and_says_where_it_comes_from(folder: Path) -> None:
    bundle = load_bundle(folder)
    made_for = bundle.policy.made_for
    assert made_for.head_sha256 == head_hash(shipped_head())
    assert made_for.hardware and made_for.dtype and made_for.threads
    assert bundle.policy.costs is not None
    assert bundle.training["tasks"] in ([OWN], [TASK])
    assert {"plain decoding", "learned"} <= set(bundle.validation)


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda folder: folder.name)
def test_a_confident_draft_gets_a_deeper_tree_than_a_doubtful_one(folder: Path) -> None:
    policy = load_bundle(folder).policy
    # The best token has a chance of 0.98, and of 0.37; nearly equal ones come from no trained head.
    assert drafted_depth(policy, 20.0, 200) > drafted_depth(policy, 4.0, 200)


def drafted_depth(policy: Learned, sharpness: float, length: int) -> int:
    """How deep it drafts with a draft whose logits are random, times a factor: at 1 all tokens are about as likely.

    Args:
        length: of the context, whose text proposes nothing.
    """
    tree, call, generator = empty_tree(policy, length), policy.start(1), torch.Generator().manual_seed(0)
    assert call.continue_drafting(tree, -1)
    depth = 0
    tree.expand(sharpness * torch.randn(1, 1, 2000, generator=generator), None)
    while depth < policy.max_depth and call.continue_drafting(tree, depth):
        tree.expand(sharpness * torch.randn(1, tree.width, 2000, generator=generator), None)
        depth += 1
    return depth


def empty_tree(policy: Learned, length: int, text: Sequence[int] = ()) -> DraftTree:
    """A tree at the end of a context of this length, with what a text proposes, by default nothing."""
    size, device = (policy.made_for.width, policy.max_depth, policy.max_size), torch.device("cpu")
    tree, proposed = DraftTree(1, *size, device, policy.max_text), None
    if policy.max_text:
        source = TextSource(1, policy.text_scores or default_text_scores(), policy.max_text)
        source.extend(0, text)
        proposed = source.propose()
    tree.begin(torch.tensor([5]), torch.tensor([length], dtype=torch.int32), proposed)
    return tree


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda folder: folder.name)
def test_where_the_text_is_sure_it_is_enough(folder: Path) -> None:
    policy = load_bundle(folder).policy
    assert policy.max_text
    for text, asks in (([*range(20)] * 4, False), ([*range(80)], True)):
        call, tree = policy.start(1), empty_tree(policy, 200, text)
        assert call.continue_drafting(tree, -1) == asks
        assert asks or call.choose_size(tree, -1) >= 4


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda folder: folder.name)
def test_it_says_which_lengths_it_was_trained_on(folder: Path) -> None:
    bundle = load_bundle(folder)
    assert bundle.policy.depth_network is not None and bundle.policy.size_network is not None
    assert bundle.policy.depth_network.layout.length_range == bundle.policy.size_network.layout.length_range
    shortest, longest = bundle.policy.depth_network.layout.length_range
    # Its questions are some dozens to hundreds of tokens long, and the last token of an answer begins no cycle.
    assert 20 < shortest < 100 and 300 < longest < 400 + bundle.training["max_new_tokens"]


@pytest.mark.parametrize("length", [4000, 8000])
@pytest.mark.parametrize("folder", BUNDLES, ids=lambda folder: folder.name)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), depth=st.integers(0, 10), spread=st.sampled_from([0.1, 1.0, 4.0, 15.0]))
def test_long_contexts_are_decided_as_the_longest_that_it_knows(
    folder: Path, length: int, seed: int, depth: int, spread: float
) -> None:
    policy = load_bundle(folder).policy
    assert policy.depth_network is not None
    _, longest = policy.depth_network.layout.length_range
    scores = -spread * torch.rand(1, 2048, generator=torch.Generator().manual_seed(seed))

    def decide(at: int) -> tuple[bool, int]:
        tree, call = empty_tree(policy, at), policy.start(1)
        drafted = min(depth, policy.max_depth - 1)
        tree.levels = drafted + 1
        tree.scores[:] = scores[:, : tree.scores.shape[1]]
        return call.continue_drafting(tree, drafted), call.choose_size(tree, drafted)

    for _ in every_kernel():
        assert decide(length) == decide(longest)


@pytest.mark.parametrize("length", [4000, 8000])
@pytest.mark.parametrize("folder", BUNDLES, ids=lambda folder: folder.name)
def test_a_confident_draft_gets_a_deep_tree_behind_long_contexts_too(folder: Path, length: int) -> None:
    policy = load_bundle(folder).policy
    for _ in every_kernel():
        assert drafted_depth(policy, 20.0, length) > max(0, drafted_depth(policy, 1.0, length))
