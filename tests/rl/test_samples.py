"""Labelled samples against what the answer itself says: a candidate is accepted if its path is how the text goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recordings import Recorded, load_bigrams
from safetensors.torch import load, save_file

from ltd.common.shards import shard_files
from ltd.errors import InputError
from ltd.tree import DraftTree
from ltd_rl.baselines import samples as module
from ltd_rl.baselines.samples import SampleConfig, answer_samples, balanced, load_samples, record_samples

NEW = 16
Kept = tuple[DraftTree, Any, torch.Tensor, torch.Tensor]


def test_labels_follow_the_text(recorded: Callable[[str], Recorded], monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, judged, accepted_counts = recorded("llama").decoder, [], []
    prompt = decoder.encode("Hi there")
    text = decoder.generate(prompt, max_new_tokens=NEW + 12, stop_token_ids=(), policy="none").token_ids
    make = module.cycle_samples

    def look(tree: DraftTree, seen: Any, verified: torch.Tensor, accepted: torch.Tensor, generator: Any) -> Any:
        here = int(tree.lengths[0]) - len(prompt)  # as the commit has moved it: the place of the next root
        judged.append((tree.tokens[0].clone(), tree.parents[0].clone(), verified, accepted, here))
        found = make(tree, seen, verified, accepted, generator)
        accepted_counts.append((int(found["accepted"].sum()), int(accepted.sum()), len(found["accepted"])))
        return found

    monkeypatch.setattr(module, "cycle_samples", look)
    monkeypatch.setattr(decoder, "stop_ids", ())
    answer: list[int] = []
    made = list(answer_samples(decoder, prompt, NEW, torch.Generator().manual_seed(0), answer))
    assert answer == text[:NEW] and len(made) == len(judged) > 2
    root = 0
    for tokens, parents, verified, accepted, _ in judged:
        expected = []
        for node in verified.tolist():
            path, at = [], node
            while at >= 0:
                path.append(int(tokens[at]))
                at = int(parents[at])
            expected.append(path[::-1] == text[root + 1 : root + 1 + len(path)])
        assert accepted[verified].tolist() == expected and int(accepted.sum()) == sum(expected)
        root += 1 + sum(expected)
    assert any(total > 1 for _, total, _ in accepted_counts)
    for kept, total, count in accepted_counts:
        assert kept == total and count == total + max(total, 1)


def test_features_are_those_of_the_draft(recorded: Callable[[str], Recorded], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every candidate is kept, and found again by its joint probability and level."""
    decoder = recorded("llama").decoder
    monkeypatch.setattr(module, "balanced", lambda accepted, generator: torch.arange(len(accepted)))
    levels: list[tuple[torch.Tensor, torch.Tensor]] = []
    trees: list[DraftTree] = []
    grown = DraftTree.grown

    def watched(tree: DraftTree, logits: torch.Tensor) -> None:
        if tree.levels == 0:
            levels.clear()
        trees.append(tree)
        states = torch.zeros(0) if tree.states is None else tree.states[0].clone()
        levels.append((logits[0].double().log_softmax(-1), states))
        grown(tree, logits)

    monkeypatch.setattr(DraftTree, "grown", watched)
    prompt = decoder.encode("What now?")
    cycles = answer_samples(decoder, prompt, NEW, torch.Generator().manual_seed(0), [])
    found = next(cycles)
    tree = trees[-1]
    assert len(found["level"]) == 60
    nodes = tree.nodes.candidates[0, 1:61].tolist()
    for place, node in enumerate(nodes):
        level = 0 if node < tree.width else 1 + (node - tree.width) // tree.width**2
        row = 0 if level == 0 else (node - tree.width) % tree.width**2 // tree.width
        logs, above = levels[level][0][row], int(tree.parents[0, node])
        score = tree.scores[0, node] - (0.0 if above < 0 else tree.scores[0, above])
        assert int(found["level"][place]) == level
        torch.testing.assert_close(found["joint"][place], tree.scores[0, node].exp())
        torch.testing.assert_close(found["probability"][place], score.exp())
        assert torch.isclose(logs.exp(), score.exp().double(), rtol=1e-3).any()
        entropy = -(logs.exp() * logs).sum().float()
        torch.testing.assert_close(found["entropy"][place], entropy, rtol=1e-4, atol=1e-4)
    known = {tuple(row.to(torch.float16).tolist()) for _, states in levels[1:] for row in states}
    assert len(found["states"]) and all(tuple(row.tolist()) in known for row in found["states"])
    cycles.close()


def test_the_draw_is_balanced_and_seeded() -> None:
    accepted = torch.tensor([True, False, False, True, False, False, False])
    draws = set()
    for seed in range(20):
        rows = balanced(accepted, torch.Generator().manual_seed(seed))
        assert torch.equal(rows, balanced(accepted, torch.Generator().manual_seed(seed)))
        assert len(rows) == 4 and accepted[rows].sum() == 2 and rows.tolist() == sorted(set(rows.tolist()))
        draws.add(tuple(rows.tolist()))
    assert len(draws) > 3
    assert len(balanced(torch.zeros(5, dtype=torch.bool), torch.Generator())) == 1


@pytest.fixture
def config(recorded: Callable[[str], Recorded], tmp_path: Path) -> SampleConfig:
    made = recorded("llama").config
    return SampleConfig(
        data_dir=made.data_dir,
        out=tmp_path / "samples",
        tasks=("second",),
        max_new_tokens=8,
        target=made.target,
        draft=made.draft,
        dtype="float32",
        shard_questions=1,
    )


def test_a_stopped_recording_goes_on(config: SampleConfig) -> None:
    record_samples(config, load_bigrams)
    files = shard_files(config.out)
    whole = load_samples(files)
    assert whole["question"].unique().tolist() == [0, 1] and len(whole["states"]) == len(whole["state_question"])
    assert whole["accepted"].any() and not whole["accepted"].all()
    files[1].unlink()
    record_samples(config, load_bigrams)
    again = load_samples(shard_files(config.out))
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)
    record_samples(config, lambda *_, **__: pytest.fail("nothing is missing"))
    with pytest.raises(InputError, match="seed 0, and this one has 1"):
        record_samples(replace(config, seed=1), load_bigrams)


def test_bad_folders(tmp_path: Path, config: SampleConfig) -> None:
    with pytest.raises(InputError, match="there are no samples"):
        load_samples([])
    (tmp_path / "00000.safetensors").write_text("x")
    with pytest.raises(InputError, match="cannot be read"):
        load_samples(shard_files(tmp_path))
    record_samples(config, load_bigrams)
    file = shard_files(config.out)[0]
    whole = load(file.read_bytes())  # a copy, as the file is written anew
    for name, tensor, complaint in [
        ("level", whole["level"].long(), "holds no level as it should"),
        ("states", whole["states"][:, 0].contiguous(), "holds no states as it should"),
        ("entropy", whole["entropy"][1:], "of entropy, .*which must be as many"),
        ("state_accepted", whole["state_accepted"][1:], "of state_accepted, .*which must be as many"),
    ]:
        save_file({**whole, name: tensor}, file)
        with pytest.raises(InputError, match=f"is damaged: .*{complaint}"):
            load_samples([file])
    with pytest.raises(InputError, match="samples are of a draft"):
        replace(config, draft="none")
