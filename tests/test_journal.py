"""The journal of long work: what a kill leaves, and what it refuses to go on with."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltd.common.differences import MARKS, difference, is_same
from ltd.common.journal import Journal
from ltd.common.lock import LOCK, holds_nothing, only_run
from ltd.common.shards import SHARDS, shard_file
from ltd.errors import InputError


@given(st.lists(st.dictionaries(st.text(), st.integers() | st.text(), max_size=3)), st.integers(0, 200))
def test_a_killed_journal_keeps_all_complete_records(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]], lost: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "records.jsonl"
    with Journal(path, {"a": 1}) as journal:
        for record in records:
            journal.append(record)
    lines = path.read_bytes().splitlines(keepends=True)
    kept = path.read_bytes()[: max(len(lines[0]), path.stat().st_size - lost)]
    path.write_bytes(kept)
    with Journal(path, {"a": 1}) as journal:
        assert journal.records == records[: kept.count(b"\n") - 1]
        journal.append({"new": True})
    with Journal(path, {"a": 1}) as journal:
        assert journal.records[-1] == {"new": True}


def begun(file: Path, settings: dict[str, Any]) -> None:
    """A journal of a run that has finished a piece."""
    with Journal(file, settings) as journal:
        journal.append({"piece": 1})


def test_a_journal_of_other_settings_names_the_difference(tmp_path: Path) -> None:
    begun(tmp_path / "j", {"limit": 3, "seed": 0})
    with pytest.raises(InputError, match="limit 3, and this one has 4"):
        Journal(tmp_path / "j", {"limit": 4, "seed": 0})
    with pytest.raises(InputError, match="more None, and this one has 1"):
        Journal(tmp_path / "j", {"limit": 3, "seed": 0, "more": 1})


@pytest.mark.parametrize("mark", MARKS)
def test_what_nobody_gave_is_told_in_words(tmp_path: Path, mark: str) -> None:
    begun(tmp_path / "j", {"a": 1, mark: "5f0e"})
    with pytest.raises(InputError, match=f"holds a run with {MARKS[mark]} than this one's; use the same") as told:
        Journal(tmp_path / "j", {"a": 1, mark: "77ab"})
    assert "_" not in str(told.value).replace(str(tmp_path), "") and "5f0e" not in str(told.value)
    with pytest.raises(InputError, match="holds a run with methods None, and this one has 2"):  # which explains it
        Journal(tmp_path / "j", {"a": 1, "methods": 2})


JSON = st.recursive(st.none() | st.integers() | st.text(), lambda parts: st.lists(parts, max_size=2))
SETTINGS = st.dictionaries(st.sampled_from([*MARKS, "a", "z"]), JSON)


@given(SETTINGS, SETTINGS)
def test_a_difference_is_told_where_there_is_one(before: dict[str, Any], now: dict[str, Any]) -> None:
    different = sorted(name for name in before | now if not is_same(before.get(name), now.get(name)))
    named = [name for name in different if name not in MARKS]
    found = difference(before, now)
    assert (found is None) == (not different)
    if found is not None:
        assert found.startswith(f"with {named[0]} " if named else f"with {MARKS[different[0]]} ")


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [("a", "a/", True), ("a/b//", "a/b", True), ("/", "", False), (None, "", False), ("a", "b/", False), (1, 1, True)],
)
def test_a_folder_is_the_same_with_a_slash_at_its_end(tmp_path: Path, before: Any, now: Any, same: bool) -> None:
    begun(tmp_path / "j", {"draft": before})
    assert is_same(before, now) == same and (difference({"draft": before}, {"draft": now}) is None) == same
    with contextlib.nullcontext() if same else pytest.raises(InputError, match="holds a run with draft"):
        Journal(tmp_path / "j", {"draft": now}).__exit__(None, None, None)


def test_a_run_that_finished_nothing_holds_no_place(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    Journal(file, {"a": 1}, SHARDS).__exit__(None, None, None)
    Journal(file, {"a": 2}, SHARDS).__exit__(None, None, None)  # as the first was refused, or killed at once
    assert file.read_text() == '{"settings": {"a": 2}}\n'
    shard_file(tmp_path, 0).touch()
    with pytest.raises(InputError, match="holds a run with a 2, and this one has 3"):
        Journal(file, {"a": 3}, SHARDS)
    assert file.read_text() == '{"settings": {"a": 2}}\n'
    Journal(file, {"a": 3}).__exit__(None, None, None)  # whose results are records alone, and there is none
    begun(file, {"a": 3})
    with pytest.raises(InputError, match="holds a run with a 3, and this one has 4"):
        Journal(file, {"a": 4})


@pytest.mark.parametrize("content", [b'{"settings": {}}\nnot json\n{}\n', b"\xff\n", b"[1]\n"])
def test_a_damaged_journal_is_not_used(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(InputError, match=r"line \d is damaged"):
        Journal(tmp_path / "j", {})
    assert (tmp_path / "j").read_bytes() == content


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("content", ['{"some": "thing"}', '{"question_id": 1}\n{"question_id": 2}', "words", "[1"])
def test_a_foreign_file_is_not_used_and_stays_whole(tmp_path: Path, content: str, end: str) -> None:
    (tmp_path / "j").write_text(content + end)
    with pytest.raises(InputError, match=r"its first line is lost, or ltd did not write it|line 1 is damaged"):
        Journal(tmp_path / "j", {})
    assert (tmp_path / "j").read_text() == content + end


def test_a_journal_without_its_first_line_is_not_used(tmp_path: Path) -> None:
    file = tmp_path / "j"
    with Journal(file, {"a": 1}) as journal:
        for number in range(2):
            journal.append({"task": "qa", "number": number})
    rest = b"".join(file.read_bytes().splitlines(keepends=True)[1:])
    file.write_bytes(rest)
    with pytest.raises(InputError, match=r"does not begin with the settings of a run: .* delete the file, or name"):
        Journal(file, {"a": 1})
    assert file.read_bytes() == rest


@pytest.mark.parametrize("content", [None, b"", b'{"settings": {"a"'], ids=["missing", "empty", "cut"])
def test_results_without_the_settings_they_are_of_are_not_gone_on_with(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "run.jsonl"
    Journal(file, {"a": 1}, SHARDS).__exit__(None, None, None)
    for number in range(2):
        shard_file(tmp_path, number).touch()
    Journal(file, {"a": 1}, SHARDS).__exit__(None, None, None)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    for _ in range(2):  # what was refused once is not taken for known then
        with pytest.raises(InputError, match=r"holds 00000.safetensors, but run.jsonl does not say of which run"):
            Journal(file, {"a": 1}, SHARDS)
    for number in range(2):
        shard_file(tmp_path, number).unlink()
    Journal(file, {"a": 1}, SHARDS).__exit__(None, None, None)


HOLDER = """
import sys
from pathlib import Path
from ltd.common.journal import Journal
from ltd.common.lock import only_run
journal = Journal(Path(sys.argv[1]), {"a": 1})
journal.append({"from": "the other process"})
with only_run(Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("ends", ["by itself", "killed"])
def test_a_second_process_is_told_and_may_go_on_when_the_first_has_ended(tmp_path: Path, ends: str) -> None:
    file, folder = tmp_path / "work" / "journal", tmp_path / "folder"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-c", HOLDER, str(file), str(folder)]
    with subprocess.Popen(arguments, stdin=PIPE, stdout=PIPE, text=True, env=environment) as first:
        assert first.stdout is not None and first.stdin is not None and first.stdout.readline() == "held\n"
        before = file.read_bytes()
        with pytest.raises(InputError, match=f"another run is at work in {file}; wait until it ends"):
            Journal(file, {"a": 1})
        with pytest.raises(InputError, match=f"another run is at work in {folder}"), only_run(folder):
            pytest.fail("two runs in one folder")
        assert file.read_bytes() == before
        if ends == "killed":
            first.kill()
        else:
            first.stdin.close()
        first.wait(60)
    with Journal(file, {"a": 1}) as journal, only_run(folder):
        assert journal.records == [{"from": "the other process"}]


def test_two_runs_in_one_process_are_told_too(tmp_path: Path) -> None:
    first = Journal(tmp_path / "j", {})
    with pytest.raises(InputError, match="another run"):
        Journal(tmp_path / "j", {})
    first.append({"still": "writes"})
    first.__exit__(None, None, None)
    with Journal(tmp_path / "j", {}) as journal:
        assert journal.records == [{"still": "writes"}]


def test_a_run_that_fails_to_begin_holds_nothing(tmp_path: Path) -> None:
    begun(tmp_path / "j", {"a": 1})
    for _ in range(2):
        with pytest.raises(InputError, match="a 1, and this one has 2"):
            Journal(tmp_path / "j", {"a": 2})
    with Journal(tmp_path / "j", {"a": 1}):
        pass


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_settings_line_twice_does_no_harm(tmp_path: Path, place: int) -> None:
    """As two runs of before there was a lock left it."""
    lines = ['{"n": 1}', '{"n": 2}']
    lines.insert(place, '{"settings": {"a": 1}}')
    (tmp_path / "j").write_text("\n".join(['{"settings": {"a": 1}}', *lines, ""]))
    with Journal(tmp_path / "j", {"a": 1}) as journal:
        assert journal.records == [{"n": 1}, {"n": 2}]


def test_a_second_settings_line_that_differs_is_told(tmp_path: Path) -> None:
    (tmp_path / "j").write_text('{"settings": {"a": 1}}\n{"n": 1}\n{"settings": {"a": 2}}\n')
    with pytest.raises(InputError, match="a 2, and this one has 1"):
        Journal(tmp_path / "j", {"a": 1})


def test_a_place_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file"), only_run(tmp_path / "file"):
        pytest.fail("a file is no folder")
    with pytest.raises(InputError, match=r"cannot write .*file"):
        Journal(tmp_path / "file" / "j", {})


def test_a_folder_with_a_lock_alone_is_free(tmp_path: Path) -> None:
    assert holds_nothing(tmp_path) and holds_nothing(tmp_path / "none")
    (tmp_path / LOCK).write_text("")
    assert holds_nothing(tmp_path) and not holds_nothing(tmp_path / LOCK)
    (tmp_path / "more").write_text("")
    assert not holds_nothing(tmp_path)
