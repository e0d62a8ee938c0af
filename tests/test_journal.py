"""The journal of long work: what a kill leaves, and what it refuses to go on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltd.common.journal import Journal
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


def test_a_journal_of_other_settings_names_the_difference(tmp_path: Path) -> None:
    Journal(tmp_path / "j", {"limit": 3, "seed": 0}).__exit__(None, None, None)
    with pytest.raises(InputError, match="limit 3, and this one has 4"):
        Journal(tmp_path / "j", {"limit": 4, "seed": 0})
    with pytest.raises(InputError, match="more None, and this one has 1"):
        Journal(tmp_path / "j", {"limit": 3, "seed": 0, "more": 1})


@pytest.mark.parametrize("content", [b'{"settings": {}}\nnot json\n{}\n', b"\xff\n", b"[1]\n"])
def test_a_damaged_journal_is_not_used(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(InputError, match=r"line \d is damaged"):
        Journal(tmp_path / "j", {})
    assert (tmp_path / "j").read_bytes() == content


def test_a_foreign_file_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "j").write_text('{"some": "thing"}\n')
    with pytest.raises(InputError, match="not written by ltd"):
        Journal(tmp_path / "j", {})
