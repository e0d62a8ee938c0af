"""An append-only file of records, so that long work can be killed at any time and go on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from ltd.common.json_files import parse_json
from ltd.errors import InputError

Record = dict[str, Any]


class Journal:
    """JSON lines: first the settings of the work, then one record per finished piece.

    A record is written with its newline in one go and flushed, so a kill leaves at most one incomplete last line, which
    is cut off when the journal is opened again.

    Attributes:
        records: everything recorded so far, in order.
    """

    def __init__(self, path: Path, settings: Record) -> None:
        """Opens or creates the journal of work with these settings.

        Args:
            path: the file.
            settings: what the records depend on; JSON values only.

        Raises:
            InputError: the file cannot be written or read, or holds the records of work with other settings (the
                message names the first difference).
        """
        self.path = path
        self.records: list[Record] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}; name a place that is writable") from error
        try:
            self._resume(settings)
        except BaseException:
            self._file.close()
            raise

    def append(self, record: Record) -> None:
        """Writes one record; it survives the end of this process from here on."""
        self._file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        self.records.append(record)

    def _resume(self, settings: Record) -> None:
        self._file.seek(0)
        content = self._file.read()
        complete = content.rfind(b"\n") + 1
        self._file.truncate(complete)
        lines = content[:complete].splitlines()
        if not lines:
            self._file.write(json.dumps({"settings": settings}, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
            return
        entries = [self._parse(number, line) for number, line in enumerate(lines, 1)]
        self._compare(entries[0].get("settings"), settings)
        self.records = entries[1:]

    def _parse(self, number: int, line: bytes) -> Record:
        try:
            return parse_json(line, dict[str, Any], "it")
        except InputError as error:
            damaged = f"{self.path} line {number} is damaged; delete the file, or name another place"
            raise InputError(damaged) from error

    def _compare(self, recorded: Any, settings: Record) -> None:
        if not isinstance(recorded, dict):
            raise InputError(f"{self.path} was not written by ltd; name another place")
        for name in sorted(recorded.keys() | settings.keys()):
            before, now = recorded.get(name), settings.get(name)
            if before != now:
                raise InputError(
                    f"{self.path} holds a run with {name} {before!r}, and this one has {now!r}; "
                    "use the same settings to go on with it, or name another place"
                )

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
