"""Questions that the target writes itself, to tune policies on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from ltd.errors import InputError
from ltd.evaluation.questions import load_questions
from ltd.training.data import own_questions
from ltd.training.data.conversation import ANSWER, TEMPLATE, USER, Conversation
from ltd.training.data.mix import KINDS
from ltd.training.data.own_questions import LENGTHS, OWN, OwnQuestionsConfig, asked, write_own_questions
from ltd.training.data.writers import Sheet, new_sheet
from ltd_rl.traces import training_questions
from ltd_rl.traces.training_questions import training_folder
from ltd_rl.tuning.config import TuneConfig

Target = Callable[[str], Path]


def with_positions(target: Path, folder: Path, positions: int) -> str:
    """A copy of a target that attends to so many tokens."""
    shutil.copytree(target, folder)
    settings = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": positions}
    (folder / "config.json").write_text(json.dumps(settings))
    return str(folder)


@pytest.fixture
def config(tiny_target: Target, tmp_path: Path) -> OwnQuestionsConfig:
    target = with_positions(tiny_target("llama"), tmp_path / "target", 512)
    return OwnQuestionsConfig(tmp_path / "data", each=3, target=target, dtype="float32")


def test_questions_of_all_kinds_in_turns(config: OwnQuestionsConfig) -> None:
    """But none about code, which this target does not write."""
    counts = write_own_questions(config)
    assert list(counts) == [kind.name for kind in KINDS]
    assert counts.pop("code") == 0 and set(counts.values()) == {3}
    questions = load_questions(config.data_dir, [OWN])
    assert [question.question_id for question in questions] == [f"{kind}-{n}" for n in range(3) for kind in counts]
    assert len({question.turns for question in questions}) == len(questions)
    assert all(1 <= len(question.turns) <= own_questions.TURNS for question in questions)
    frames = {kind.name: kind.frames for kind in KINDS if kind.given == "text"}
    words = AutoTokenizer.from_pretrained(config.target)
    for question in questions:
        kind = question.question_id.split("-")[0]
        known = [(str(words.decode(words(a)["input_ids"])).strip(), b) for a, b in frames.get(kind, [("", "")])]
        assert any(question.turns[0].startswith(before) for before, _ in known)


def test_given_texts_are_of_several_lengths(config: OwnQuestionsConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    sheets: list[Sheet] = []

    def sheet(*arguments: Any) -> Sheet:
        sheets.append(new_sheet(*arguments))
        return sheets[-1]

    monkeypatch.setattr("ltd.training.data.writing.new_sheet", sheet)
    assert write_own_questions(replace(config, each=8))["question"] == 8
    for kind in KINDS:
        lengths = [each.given for each in sheets if each.kind is kind]
        assert len(set(lengths)) == {"nothing": 1, "text": len(lengths), "code": 0}[kind.given]
        assert kind.given != "text" or len(lengths) >= LENGTHS


def test_goes_on_where_it_was_killed(
    config: OwnQuestionsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = replace(config, data_dir=tmp_path / "whole")
    write_own_questions(whole)
    rest = own_questions._rest

    def some(*arguments: Any) -> Iterator[Any]:
        for number, each in enumerate(rest(*arguments)):
            if number == 4:
                raise KeyboardInterrupt
            yield each

    with monkeypatch.context() as patch:
        patch.setattr(own_questions, "_rest", some)
        with pytest.raises(KeyboardInterrupt):
            write_own_questions(config)
    assert not config.file.exists()
    write_own_questions(config)
    assert config.file.read_bytes() == whole.file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(own_questions, "load_model", None)  # nothing is written again
        write_own_questions(config)


def test_wrong_questions_are_refused(config: OwnQuestionsConfig, tiny_target: Target, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="each is 0"):
        replace(config, each=0)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(
        InputError, match=r"cannot write .*file/own/written.jsonl: Not a directory; name a place that is writable"
    ):
        write_own_questions(replace(config, data_dir=tmp_path / "file"))
    write_own_questions(config)
    with pytest.raises(InputError, match="each"):
        write_own_questions(replace(config, each=4))
    target = with_positions(tiny_target("llama"), tmp_path / "short", 64)
    with pytest.raises(InputError, match="at most 64 tokens, but its own questions need"):
        write_own_questions(replace(config, data_dir=tmp_path / "other", target=target))


def test_the_folder_to_train_on(config: OwnQuestionsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for: list[OwnQuestionsConfig] = []

    def write(wanted: OwnQuestionsConfig) -> None:
        asked_for.append(wanted)
        write_own_questions(replace(wanted, each=1))

    monkeypatch.setattr(training_questions, "write_own_questions", write)
    models = TuneConfig(target=config.target, dtype="float32", threads=1)
    assert models.tasks == (OWN,)
    folder = training_folder(models, tmp_path / "work")
    assert folder == tmp_path / "work" and len(load_questions(folder, [OWN])) == len(KINDS) - 1
    assert (asked_for[0].target, asked_for[0].dtype, asked_for[0].threads) == (config.target, "float32", 1)
    named = replace(models, data_dir=tmp_path)
    assert training_folder(named, tmp_path / "unused") == tmp_path and len(asked_for) == 1


class Words:
    """Decodes a token as its number."""

    def decode(self, tokens: list[int]) -> str:
        return " ".join(str(token) for token in tokens if token)


@pytest.mark.parametrize(
    ("roles", "turns"),
    [
        ([USER, USER, TEMPLATE, ANSWER], ("1 2",)),
        ([USER, TEMPLATE, ANSWER, USER, ANSWER, USER], ("1", "4")),
        ([TEMPLATE, ANSWER], ()),
    ],
)
def test_what_is_asked(roles: list[int], turns: tuple[str, ...]) -> None:
    assert asked(Conversation(list(range(1, len(roles) + 1)), roles), Words()) == turns


def test_a_turn_without_words_is_no_question() -> None:
    assert asked(Conversation([5, 6, 0], [USER, ANSWER, USER]), Words()) == ()
