"""How likely looked-up tokens are: the file, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from made_lookups import NO_KNOTS, even_scores, text_scores

from ltd.common.assets import shipped_text_scores
from ltd.errors import InputError
from ltd.lookup import TextScores
from ltd.lookup.scores import default_text_scores, load_text_scores, save_text_scores

SHAPE = (16, 6, 3)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scores=text_scores())
def test_what_is_written_is_read(scores: TextScores, tmp_path: Path) -> None:
    file = tmp_path / "new" / "lookup.json"
    save_text_scores(scores, file, {"positions": 3})
    found = load_text_scores(file)
    for name in ("chances", "head_scores", "head_log_chances"):
        part, wanted = getattr(found, name), getattr(scores, name)
        assert part.dtype == np.float32 and part.shape == wanted.shape and np.array_equal(part, wanted), name
    assert json.loads(file.read_text())["facts"] == {"positions": 3}


def test_the_limits_of_chances_survive_a_file(tmp_path: Path) -> None:
    for chance in (0.001, 0.999):
        save_text_scores(even_scores(chance), tmp_path / "lookup.json", {})
        assert np.all(load_text_scores(tmp_path / "lookup.json").chances == np.float32(chance))


def test_those_shipped() -> None:
    """A long match makes a token more likely, places that disagree make it less so."""
    chances = default_text_scores().chances
    assert chances[15, 0, 1] > chances[0, 0, 1]
    assert np.all(chances[:, 5].mean(axis=0) < chances[:, 0].mean(axis=0))
    assert json.loads(shipped_text_scores().read_text())["facts"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chances": np.full(SHAPE, 0.5)}, "chances must be of type float32, but are of float64"),
        ({"chances": np.full((16, 6, 2), 0.5, np.float32)}, r"chances must be of shape \(16, 6, 3\), but are of"),
        ({"chances": np.full(SHAPE, 0.0009, np.float32)}, "chances must be 0.001 … 0.999, but one is not"),
        ({"chances": np.full(SHAPE, 0.9995, np.float32)}, "chances must be 0.001 … 0.999, but one is not"),
        ({"chances": np.full(SHAPE, np.nan, np.float32)}, "chances must be 0.001 … 0.999, but one is not"),
        ({"head_scores": np.zeros(1)}, "head_scores must be of type float32"),
        ({"head_scores": np.zeros(1, np.float32)}, "must be as many numbers as each other"),
        ({"head_scores": np.zeros((1, 1), np.float32)}, "must be as many numbers as each other"),
        (
            {"head_scores": np.zeros(2, np.float32), "head_log_chances": np.arange(2, dtype=np.float32)},
            "head_scores must be finite and ascend strictly",
        ),
        (
            {"head_scores": np.arange(2, dtype=np.float32), "head_log_chances": np.float32([-np.inf, 0])},
            "head_log_chances must be finite and ascend strictly",
        ),
    ],
)
def test_bad_scores_are_refused(changes: dict[str, Any], message: str) -> None:
    parts = {"chances": np.full(SHAPE, 0.5, np.float32), "head_scores": NO_KNOTS, "head_log_chances": NO_KNOTS}
    TextScores(**parts)
    with pytest.raises(InputError, match=message):
        TextScores(**{**parts, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "ltd-grid"}, 'does not say "format": "ltd-lookup"'),
        ({"schema": 2}, "its schema is 2, but this version of ltd reads 1"),
        ({"chances": None}, "says chances = None"),
        ({"chances": [[[0.5] * 3] * 6] * 15}, r"chances must be of shape \(16, 6, 3\), but are of \(15, 6, 3\)"),
        ({"chances": [[[0.5] * 3] * 6] * 15 + [[[0.5]]]}, "cannot be used"),
        ({"head_scores": [1e300], "head_log_chances": [0.0]}, "head_scores must be finite"),
        ({"head_scores": ["a"]}, "says head_scores.0 = 'a'"),
    ],
)
def test_damaged_files_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "lookup.json"
    values = json.loads(shipped_text_scores().read_text())
    file.write_text(json.dumps({**values, **changes}))
    with pytest.raises(InputError, match=message) as caught:
        load_text_scores(file)
    assert str(file) in str(caught.value)
    file.write_text(json.dumps({key: value for key, value in values.items() if key not in changes}))
    with pytest.raises(InputError):
        load_text_scores(file)


def test_what_is_not_known_is_refused_by_name(tmp_path: Path) -> None:
    file, values = tmp_path / "lookup.json", json.loads(shipped_text_scores().read_text())
    sampled = {name: values[name] for name in ("chances", "head_scores", "head_log_chances", "facts")}
    file.write_text(json.dumps({**values, "chance": 1, "sampled": sampled, "top_p": 0.5}))
    with pytest.raises(InputError, match="does not know: ") as caught:
        load_text_scores(file)
    assert set(str(caught.value).partition("does not know: ")[2].split(", ")) == {"chance", "sampled.facts", "top_p"}


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lookup.json is missing"):
        load_text_scores(tmp_path / "lookup.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write the lookup's scores"):
        save_text_scores(even_scores(0.5), tmp_path / "file" / "lookup.json", {})
