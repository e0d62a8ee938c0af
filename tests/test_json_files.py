"""JSON of others: what it must be is said in our words, and it is read in one place."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from ltd.common.json_files import Count, Real, Whole, parse_json, read_json
from ltd.errors import InputError

ROOT = Path(__file__).parents[1]
# Makes the environment that the reader is a part of.
BEFORE_THE_READER = {ROOT / "bench" / name for name in ("gpu_place.py", "vllm_engine.py")}  # import nothing of ours


@dataclass
class Everything:
    """A value of every kind that files hold."""

    count: Count = 1
    whole: Whole = 0
    real: Real = 0.0
    text: str = ""
    flag: bool = False
    choice: Literal["a", "b"] = "a"
    several: tuple[Whole, ...] = ()
    pair: tuple[int, int] = (0, 0)
    named: dict[str, Real] | None = None
    small: Annotated[float, Field(gt=0, lt=1)] = 0.5
    few: Annotated[list[int], Field(min_length=1, max_length=2)] = field(default_factory=lambda: [1])


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("count", "many", " = 'many', but it must be a whole number"),
        ("count", 1.5, " = 1.5, but it must be a whole number"),
        ("count", 0, " = 0, but it must be at least 1"),
        ("count", 2**31, f" = {2**31}, but it must be below {2**31}"),
        ("whole", None, " = None, but it must be a whole number"),
        ("real", "x", " = 'x', but it must be a number"),
        ("real", float("inf"), " = inf, but it must be a finite number"),
        ("text", 3, " = 3, but it must be a text"),
        ("flag", "yes", " = 'yes', but it must be true or false"),
        ("choice", "c", " = 'c', but it must be 'a' or 'b'"),
        ("several", 1, " = 1, but it must be a list"),
        ("several", [1, "x"], ".1 = 'x', but it must be a whole number"),
        ("small", 0, " = 0, but it must be above 0"),
        ("few", [], " = [], but it must be a list of at least 1"),
        ("few", [1, 2, 3], " = [1, 2, 3], but it must be a list of at most 2"),
    ],
)
def test_a_wrong_value_is_told_in_our_words(name: str, value: Any, wanted: str) -> None:
    with pytest.raises(InputError) as told:
        parse_json(json.dumps({name: value}), Everything, "the file")
    assert str(told.value).startswith(f"the file says {name}{wanted}")


@given(st.sampled_from(sorted(Everything.__dataclass_fields__)), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=3), parts, max_size=2)))  # fmt: skip
def test_no_value_is_answered_in_the_words_of_pydantic(name: str, value: Any) -> None:
    try:
        parse_json(json.dumps({name: value}), Everything, "the file")
    except InputError as error:
        said = str(error).replace(repr(value)[:60], "")
        assert "nput should" not in said and "alid " not in said and "\n" not in said, said


def test_what_holds_another_kind_of_thing_altogether(tmp_path: Path) -> None:
    for content, told in (("[]", "holds no JSON object"), ("{", "is not valid JSON"), (None, "is missing")):
        if content is not None:
            (tmp_path / "it").write_text(content)
        elif (tmp_path / "it").exists():
            (tmp_path / "it").unlink()
        with pytest.raises(InputError, match=f"it {told}"):
            read_json(tmp_path / "it", Everything)


def reads_json(file: Path) -> list[int]:
    """The lines where a source reads JSON itself. To read what was written in the same breath is no such thing."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.load", "json.loads"):
            written = (
                node.args and isinstance(node.args[0], ast.Call) and ast.unparse(node.args[0].func) == "json.dumps"
            )
            if not written:
                found.append(node.lineno)
    return found


def test_json_is_read_in_one_place() -> None:
    sources = [file for folder in ("python", "rl", "bench", "examples") for file in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 100
    assert {file for file in sources if reads_json(file)} == BEFORE_THE_READER
