"""Files of controllers, see `ltd.policies.controller`: JSON, of schema 1 for the draft alone, 2 with the text."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import ConfigDict

from ltd.common.files import write_text
from ltd.common.json_files import NOTHING_ELSE, Count, Real, Whole, read_json
from ltd.errors import InputError
from ltd.lookup.scores import TextScoresFile, text_scores_of, text_scores_values
from ltd.policies.controller import FEATURES, ExpectedGain
from ltd.policies.controller_parts import BINS, TextTables

FORMAT, HEAD_ALONE, BOTH_SOURCES = "ltd-controller", 1, 2


def save_controller(controller: ExpectedGain, file: Path, facts: dict[str, Any] | None = None) -> None:
    """Writes JSON; `facts`, for people, say what it was fitted to."""
    values = {
        entry.name: value.tolist() if isinstance(value, np.ndarray) else value
        for entry in fields(controller)
        if entry.init and entry.name != "text"
        for value in [getattr(controller, entry.name)]
    }
    schema, tables = HEAD_ALONE, controller.text
    if tables is not None:
        schema = BOTH_SOURCES
        values["text"] = {
            "most": tables.most,
            "scores": text_scores_values(tables.scores),
            "chances": tables.chances.tolist(),
            "more": tables.more.tolist(),
        }
    content = {"format": FORMAT, "schema": schema, "fitted": facts or {}, **values}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(content) + "\n")
    except OSError as error:
        raise InputError(f"cannot write the controller {file}: {error}") from error


@dataclass(frozen=True, slots=True)
class TextTablesFile:
    """What a controller knows of the text's candidates, as it is stored."""

    __pydantic_config__: ClassVar[ConfigDict] = NOTHING_ELSE

    most: Count
    scores: TextScoresFile
    chances: list[list[Real]]
    more: list[list[Real]]


@dataclass(frozen=True, slots=True)
class ControllerFile:
    """A controller as it is stored; tables are lists of rows. What it was fitted to is for people."""

    __pydantic_config__: ClassVar[ConfigDict] = NOTHING_ELSE

    format: str
    schema: int
    width: Count
    sizes: tuple[Whole, ...]
    chances: list[list[Real]]
    lengths: list[Real]
    ahead: list[list[Real]]
    trust: list[list[list[Real]]]
    costs: list[list[list[Real]]]
    rate: Real | None
    drafts: bool
    text: TextTablesFile | None = None
    fitted: dict[str, Any] | None = None


def load_controller(file: str | Path) -> ExpectedGain:
    """Reads what `save_controller` wrote.

    Raises:
        InputError: there is no such file, or it is no whole controller; the message names it and says why.
    """
    try:
        values = read_json(Path(file), dict[str, Any])
        schema = values.get("schema")
        if values.get("format") != FORMAT or schema not in (HEAD_ALONE, BOTH_SOURCES):
            raise ValueError(f"it is not of format {FORMAT!r}, schema {HEAD_ALONE} or {BOTH_SOURCES}")
        parts = read_json(Path(file), ControllerFile)
        if (parts.text is not None) != (schema == BOTH_SOURCES):
            raise ValueError(f"schema {schema} {'lacks text' if parts.text is None else 'knows no text'}")
        inputs = len(parts.ahead[0]) if parts.ahead else FEATURES
        tables = {
            name: np.array(getattr(parts, name), dtype=np.float64).reshape(shape)
            for name, shape in (("chances", (-1, BINS)), ("lengths", -1), ("ahead", (-1, inputs)))
        }
        return ExpectedGain(
            width=parts.width,
            sizes=parts.sizes,
            trust=np.array(parts.trust, dtype=np.float64),
            costs=np.array(parts.costs, dtype=np.float64),
            rate=parts.rate,
            drafts=parts.drafts,
            text=None if parts.text is None else text_tables_of(parts.text),
            **tables,
        )
    except ValueError as error:
        raise InputError(f"the controller {file} cannot be used: {error}") from error


def text_tables_of(parts: TextTablesFile) -> TextTables:
    """From what is stored; a ValueError says what is wrong."""
    chances, more = (np.array(table, dtype=np.float64) for table in (parts.chances, parts.more))
    return TextTables(parts.most, text_scores_of(parts.scores), chances, more)
