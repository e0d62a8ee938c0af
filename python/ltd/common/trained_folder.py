"""What the folders of trained networks have in common: facts in JSON, and weights that these facts name by hash."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ltd.common.files import content_hash, read_content, write_bytes
from ltd.common.json_files import check_known, read_json
from ltd.common.tensor_files import read_tensors
from ltd.errors import InputError


def read_facts(
    file: Path, kind: str, schema: int, keys: Iterable[str], others: Iterable[str] | None = None
) -> dict[str, Any]:
    """The facts in a JSON file.

    Args:
        file: to read.
        kind: what its "format" must be.
        schema: what its "schema" must be.
        keys: that it must have.
        others: that it may have beside them, and nothing else; None is any, for people.

    Raises:
        InputError: it is missing, or not such a file.
    """
    values = read_json(file, dict[str, Any])
    if values.get("format") != kind:
        raise InputError(f'{file.name} does not say "format": "{kind}"')
    if values.get("schema") != schema:
        raise InputError(f"its schema is {values.get('schema')!r}, but this version of ltd reads {schema}")
    if missing := set(keys) - values.keys():
        raise InputError(f"{file.name} lacks {', '.join(sorted(missing))}")
    if others is not None:
        check_known(values, ("format", "schema", *keys, *others), file.name)
    return values


def write_facts(file: Path, kind: str, schema: int, values: Mapping[str, Any]) -> dict[str, Any]:
    """Writes a JSON file that `read_facts` reads, in a folder that is made if need be; returns what it holds.

    Raises:
        InputError: it cannot be written.
    """
    facts = {"format": kind, "schema": schema, **values}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, facts_file(facts))
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror}; name a place that is writable") from error
    return facts


def read_weights(file: Path, sha256: str, named_by: str) -> dict[str, Tensor]:
    """The tensors in a safetensors file, on the CPU.

    Args:
        file: to read.
        sha256: of its content.
        named_by: the file that says so.

    Raises:
        InputError: it is missing, damaged or another file.
    """
    content = read_content(file, file.name)
    if content_hash(content) != sha256:
        raise InputError(f"{file.name} is not the file that {named_by} was written for")
    return read_tensors(content, file.name)


def facts_file(values: Mapping[str, Any]) -> bytes:
    """The content of a JSON file of facts."""
    return (json.dumps(values, indent=1) + "\n").encode()


def write_trained(folder: Path, files: Mapping[str, bytes], what: str) -> None:
    """Writes a folder, which is made if need be; every file under a temporary name first.

    Args:
        folder: to write.
        files: their contents by name, in the order in which they are written: last the facts, which name the others by
            hash, so that a folder with facts is whole.
        what: it is, for messages.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_bytes(folder / name, content)
    except OSError as error:
        raise InputError(f"cannot write {what} {folder}: {error}") from error
