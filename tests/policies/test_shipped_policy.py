"""The policies that come with the package: whole, for the shipped head, and deciding by what they see."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ltd.common.assets import shipped_head, shipped_policies
from ltd.drafts.opening import head_hash
from ltd.policies.learned.bundle import FACTS, load_bundle
from ltd.tree import DraftTree

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
    assert bundle.training["tasks"] == ["humaneval"]
    assert {"plain decoding", "learned"} <= set(bundle.validation)


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda folder: folder.name)
def test_a_confident_draft_gets_a_deeper_tree_than_a_doubtful_one(folder: Path) -> None:
    policy = load_bundle(folder).policy
    call, depths = policy.start(1), {}
    for name, own in (("confident", -0.01), ("doubtful", -4.0)):
        tree = DraftTree(1, policy.made_for.width, policy.max_depth, policy.max_size, torch.device("cpu"))
        tree.begin(torch.tensor([5]), torch.tensor([200], dtype=torch.int32))
        # One child of every level's best has this log-probability, all others are hopeless.
        tree.scores.fill_(-15.0)
        tree.levels, depth = 1, 0
        tree.scores[0, 0] = own
        while depth < policy.max_depth and call.continue_drafting(tree, depth):
            before = tree.candidates
            tree.levels, depth = tree.levels + 1, depth + 1
            tree.scores[0, before] = own * (depth + 1)
        depths[name] = depth
    assert depths["confident"] > depths["doubtful"]
