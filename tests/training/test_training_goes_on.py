"""`--start-from`: the training of a head goes on, on data that it has not seen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ltd.common.lock import LOCK
from ltd.drafts.eagle3.files import load_head, save_head
from ltd.drafts.eagle3.head import Eagle3Head
from ltd.drafts.weights import weights_hash
from ltd.errors import InputError
from ltd.training import TrainDraftConfig, train_draft
from ltd.training.data.conversations import load_conversations
from ltd.training.eagle3.words import word_ids
from ltd.training.train import learned_tokens
from ltd.training.vocabulary import known_vocabulary

Target = Callable[[str], Path]


def run(out: Path, target: Path, **changes: Any) -> TrainDraftConfig:
    values: dict[str, Any] = {
        "tokens": 700, "length": 90, "user_length": 12, "answer_length": 30, "rows": 8, "held_out_share": 0.3,
        "ttt_steps": 2, "batch": 4, "epochs": 1, "learning_rate": 1e-7, "dtype": "float32", "seed": 5,
        "trim_vocabulary": False, "mix": "chat=1",
    }  # fmt: skip
    return TrainDraftConfig(out=out, target=str(target), **{**values, **changes})


@pytest.fixture(scope="module")
def first(tiny_target: Target, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head of another layout than the defaults', whose words are in no order."""
    config = run(
        tmp_path_factory.mktemp("first") / "out", tiny_target("llama"), draft_vocab_size=40, fc_norm=True,
        norm_output=True, epochs=2, learning_rate=3e-3, feature_layers=(1, 5),
    )  # fmt: skip
    folder = train_draft(config)
    head = load_head(folder, torch.float32, "cpu")
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    ids = (head.d2t + torch.arange(40))[order]
    head.d2t = ids - torch.arange(40)
    head.lm_head.weight.data = head.lm_head.weight.data[order]
    report = json.loads((folder / "training.json").read_text())
    save_head(head, folder, report)
    return folder


def test_a_head_goes_on_from_its_weights(first: Path, tiny_target: Target, tmp_path: Path) -> None:
    before = load_head(first, torch.float32, "cpu")
    folder = train_draft(run(tmp_path / "second", tiny_target("llama"), start_from=first, seed=6))
    after = load_head(folder, torch.float32, "cpu")
    assert after.config == before.config
    assert torch.equal(after.d2t, before.d2t) and torch.equal(after.t2d, before.t2d)
    for name, weight in before.named_parameters():
        # A rate that moves no weight by more than the last place of bfloat16: it began where the first head ended.
        assert torch.allclose(after.get_parameter(name), weight, rtol=0.01, atol=1e-5), name
    report = json.loads((folder / "training.json").read_text())
    learned = json.loads((first / "training.json").read_text())
    assert report["started_from"]["head_sha256"] == weights_hash(first)
    assert report["started_from"]["learned_tokens"] == learned["learned_tokens"] > 0
    assert not {"fc_norm", "draft_vocab_size", "feature_layers", "start_from"} & report["choices"].keys()
    assert str(tmp_path) not in json.dumps(report)
    # What it learned before is told of the head after that, too.
    third = train_draft(run(tmp_path / "third", tiny_target("llama"), start_from=folder, seed=7))
    history = json.loads((third / "training.json").read_text())["started_from"]
    assert history["started_from"] == report["started_from"]


def test_it_learns_from_there(first: Path, tiny_target: Target, tmp_path: Path) -> None:
    target = tiny_target("llama")
    found = []
    for name, start in (("fresh", {"draft_vocab_size": 40}), ("on", {"start_from": first})):
        config = run(tmp_path / name, target, seed=6, learning_rate=1e-3, **start)
        report = json.loads((train_draft(config) / "training.json").read_text())
        found.append(report["curves"]["losses"][0]["losses"][0])
    assert found[1] < found[0]  # the first update's loss; what was learned before is still there


def test_words_are_chosen_anew(first: Path, tiny_target: Target, tmp_path: Path) -> None:
    before = load_head(first, torch.float32, "cpu")
    config = run(tmp_path / "out", tiny_target("llama"), start_from=first, seed=6, new_words=True)
    after = load_head(train_draft(config), torch.float32, "cpu")
    assert after.config == before.config
    old, new = (word_ids(head).tolist() for head in (before, after))
    assert new == sorted(set(new)) and 0 < len(set(old) & set(new)) < len(new)
    conversations = load_conversations(tmp_path / "out" / "data")
    learned = [each for each in conversations if not each.is_held_out(0.3)]
    counts = torch.bincount(learned_tokens(learned, user_turns=False), minlength=96)
    others = [word for word in range(96) if word not in new]
    assert min(counts[new]) >= max(counts[others])
    output = AutoModelForCausalLM.from_pretrained(tiny_target("llama")).get_output_embeddings().weight
    for place, word in enumerate(new):
        row = before.lm_head.weight[old.index(word)] if word in old else output[word]
        # A rate that moves no weight by more than the last place of bfloat16.
        assert torch.allclose(after.lm_head.weight[place], row, rtol=0.01, atol=1e-5), word
    report = json.loads((tmp_path / "out" / "head" / "training.json").read_text())
    assert report["choices"]["new_words"] is True


def test_new_words_need_rows_of_the_same_width(tiny_head: Target, tiny_target: Target, tmp_path: Path) -> None:
    head = load_head(tiny_head("llama"), torch.float32, "cpu")
    save_head(Eagle3Head(replace(head.config, hidden_size=16, head_dim=4)), tmp_path / "narrow")
    with pytest.raises(
        InputError, match=r"new_words: .* are 32 wide, but those of the head .* are 16; leave new_words"
    ):
        train_draft(run(tmp_path / "out", tiny_target("llama"), start_from=tmp_path / "narrow", new_words=True))
    with pytest.raises(
        InputError, match="new_words chooses anew the words of the head to start from; give start_from too"
    ):
        TrainDraftConfig(out="x", new_words=True)


def test_a_run_remembers_the_head(
    first: Path, tiny_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    start = tmp_path / "start"
    shutil.copytree(first, start)
    config = run(tmp_path / "second", tiny_target("llama"), start_from=start)
    with monkeypatch.context() as patch:
        patch.setattr("ltd.training.train.run_training", killed)
        with pytest.raises(KeyboardInterrupt):
            train_draft(config)
    head = load_head(start, torch.float32, "cpu")
    head.norm.weight.data *= 2
    save_head(head, start)
    with pytest.raises(InputError, match=r"the head that the run in .*second started from has changed"):
        train_draft(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fc_norm": True}, "fc_norm is that of the head to start from; leave it out beside start_from"),
        ({"draft_vocab_size": 40}, "draft_vocab_size is that of the head"),
        ({"feature_layers": (1, 2)}, "feature_layers is that of the head"),
        ({"start_from_target": False}, "start_from_target is that of the head"),
        ({"kind": "chain"}, "start_from is an option of kind eagle3 only"),
    ],
)
def test_what_the_head_brings_cannot_be_chosen(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainDraftConfig(out="x", start_from="y", **changes)


def _of_other_sizes(head: Eagle3Head) -> Eagle3Head:
    return Eagle3Head(replace(head.config, target_hidden_size=2 * head.config.target_hidden_size))


def _of_another_tokenizer(head: Eagle3Head) -> Eagle3Head:
    head.config = replace(head.config, tokenizer_fingerprint="0123456789abcdef")
    return head


def _with_an_embedding(head: Eagle3Head) -> Eagle3Head:
    return Eagle3Head(head.config, own_embedding=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_of_other_sizes, "the head reads hidden states of width"),
        (_of_another_tokenizer, "was trained for another tokenizer"),
        (_with_an_embedding, "brings its own embedding; training reads the target's"),
    ],
)
def test_a_head_that_does_not_suit_the_target(
    change: Callable[[Eagle3Head], Eagle3Head], message: str, tiny_head: Target, tiny_target: Target, tmp_path: Path
) -> None:
    folder = tmp_path / "head"
    shutil.copytree(tiny_head("llama"), folder)
    save_head(change(load_head(folder, torch.float32, "cpu")), folder)
    with pytest.raises(InputError, match=message):
        train_draft(run(tmp_path / "out", tiny_target("llama"), start_from=folder))
    assert not (tmp_path / "out" / "data").exists()
    with pytest.raises(InputError, match=message):  # the folder is still free for another command
        train_draft(run(tmp_path / "out", tiny_target("llama"), start_from=folder, seed=8))


def test_another_spelling_of_the_same_folders(first: Path, tiny_target: Target, tmp_path: Path) -> None:
    config = run(tmp_path, tiny_target("llama"), start_from=first)
    stored = config.to_dict() | {"start_from": f"{first}/", "target": f"{tiny_target('llama')}/"}
    config.check_same(stored)
    with pytest.raises(InputError, match="was started with start_from"):
        config.check_same(stored | {"start_from": f"{first}-2/"})


def test_a_folder_without_a_head(tiny_target: Target, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no draft head in .*nothing"):
        train_draft(run(tmp_path / "out", tmp_path / "no target either", start_from=tmp_path / "nothing"))
    assert [file.name for file in (tmp_path / "out").iterdir()] == [LOCK]


def test_what_known_words_cover() -> None:
    vocabulary = known_vocabulary(torch.tensor([5, 2, 9]), torch.tensor([2, 2, 5, 7]))
    assert vocabulary.target_ids.tolist() == [5, 2, 9] and vocabulary.coverage == 0.75
    assert known_vocabulary(torch.tensor([5]), torch.tensor([], dtype=torch.int64)).coverage == 0
