"""An append-only file of records, so that long work can be killed at any time and go on where it was."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from ltd.common.differences import difference
from ltd.common.files import errors_about
from ltd.common.json_files import parse_json
from ltd.common.lock import LOCK, only_user
from ltd.errors import InputError

Record = dict[str, Any]
BEGINNING = b'{"settings"'


class Journal:
    """JSON lines: first the settings of the work, then one record per finished piece.

    A record is written with its newline in one go and flushed, so a kill leaves at most one incomplete last line, which
    is cut off when the journal is opened again. While it is open, no other run can open it. Settings of a run that
    finished nothing hold no place: other work may begin there.

    Attributes:
        records: everything recorded so far, in order.
    """

    def __init__(self, path: Path, settings: Record, results: str = "") -> None:
        """Opens or creates the journal of work with these settings.

        Args:
            path: the file.
            settings: what the records depend on; JSON values only.
            results: a pattern of the files beside it that hold what is finished; none for a journal that holds all.

        Raises:
            InputError: the file cannot be written or read, another run has it open, it holds the records of work
                with other settings (the message names the first difference), or its settings are lost.
        """
        self.path = path
        self.records: list[Record] = []
        with ExitStack() as opened:
            opened.enter_context(only_user(path.with_name(f".{path.name}{LOCK}"), path))
            try:
                self._file = opened.enter_context(path.open("a+b", buffering=0))
            except OSError as error:
                raise InputError(f"cannot write {path}: {error.strerror}; name a place that is writable") from error
            self._resume(settings, results)
            self._opened = opened.pop_all()

    def append(self, record: Record) -> None:
        """Writes one record; it survives the end of this process from here on."""
        self._write(record)
        self.records.append(record)

    def _write(self, record: Record) -> None:
        rest = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        with errors_about(self.path):
            while rest:  # a disk that is nearly full takes a part; the next run cuts it off
                rest = rest[self._file.write(rest) :]

    def _resume(self, settings: Record, results: str) -> None:
        self._file.seek(0)
        content = self._file.read()
        complete = content.rfind(b"\n") + 1
        lines = content[:complete].splitlines()
        if not lines:
            self._check_begun(BEGINNING.startswith(content[: len(BEGINNING)]))
            self._file.truncate(0)
            self._check_new(results)
            self._write({"settings": settings})
            return
        entries = [self._parse(number, line) for number, line in enumerate(lines, 1)]
        self._check_begun(is_settings(entries[0]))
        self._file.truncate(complete)
        told = [entry["settings"] for entry in entries if is_settings(entry)]
        self.records = [entry for entry in entries if not is_settings(entry)]
        if self.records or found_results(self.path, results):
            for recorded in told:  # two, where two runs began at the same moment
                self._compare(recorded, settings)
        elif any(difference(recorded, settings) for recorded in told):  # that run was refused, or killed, at once
            self._file.truncate(0)
            self._write({"settings": settings})

    def _check_begun(self, with_settings: bool) -> None:
        """Nothing is cut off a file that does not begin as a journal does: it may be somebody's."""
        if not with_settings:
            raise InputError(
                f"{self.path} does not begin with the settings of a run: its first line is lost, or ltd did not write "
                "it; delete the file, or name another place"
            )

    def _check_new(self, results: str) -> None:
        """Nothing can be finished before the settings are written, so what is there is of a run that nobody knows."""
        if found := found_results(self.path, results):
            raise InputError(
                f"{self.path.parent} holds {found[0].name}, but {self.path.name} does not say of which run; delete "
                "both to begin anew, or name another place"
            )

    def _parse(self, number: int, line: bytes) -> Record:
        try:
            return parse_json(line, dict[str, Any], "it")
        except InputError as error:
            damaged = f"{self.path} line {number} is damaged; delete the file, or name another place"
            raise InputError(damaged) from error

    def _compare(self, recorded: Record, settings: Record) -> None:
        if (found := difference(recorded, settings)) is not None:
            raise InputError(
                f"{self.path} holds a run {found}; use the same settings to go on with it, or name another place"
            )

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()


def found_results(journal: Path, results: str) -> list[Path]:
    """The files beside a journal that a pattern names; none where that is empty."""
    return sorted(journal.parent.glob(results)) if results else []


def settings_of(path: Path) -> Record:
    """The settings of a run, as its journal says.

    Raises:
        InputError: there is no journal, or it does not begin with settings.
    """
    try:
        first = path.read_bytes().split(b"\n", 1)[0]
        entry = parse_json(first, dict[str, Any], f"the first line of {path}")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; it says whose the files beside it are") from error
    if not is_settings(entry):
        raise InputError(f"{path} does not begin with the settings of a run, so nobody knows of what its files are")
    settings: Record = entry["settings"]
    return settings


def is_settings(entry: Record) -> bool:
    """Whether a line is one of settings and no record."""
    return entry.keys() == {"settings"} and isinstance(entry["settings"], dict)
