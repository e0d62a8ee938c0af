"""The table of methods: it lists what can be typed, and the documentation shows it."""

from __future__ import annotations

import inspect
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from ltd.chains.by_name import ACCEPTANCE, parse_length
from ltd.chains.by_name import NAMED as CHAINS
from ltd.chains.specdecpp import SpecDecPP
from ltd.cli import main
from ltd.common.assets import shipped_chain
from ltd.common.named_options import Named
from ltd.errors import InputError
from ltd.evaluation.method_table import FILES, LOOKUP, PAPER_METHODS, WORDS, MethodRow, markdown, rows
from ltd.evaluation.methods import Method, TransformersMethod, TreeMethod
from ltd.policies.by_name import NAMED as POLICIES

DOCUMENT = Path(__file__).parents[2] / "docs" / "methods.md"
NAMES = {row.method: row for row in rows()}


def test_the_documentation_shows_the_table() -> None:
    """`ltd methods --markdown` prints what belongs between the marks."""
    shown = re.findall("<!-- methods -->(.*?)<!-- /methods -->", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert [table.strip() for table in shown] == [markdown().strip()]


def test_all_that_is_understood_is_listed_once() -> None:
    kinds = [row.method.removeprefix("chain:").partition(":")[0] for row in rows() if row.method.startswith("chain:")]
    assert kinds == ["K", *CHAINS]
    listed = [row.method for row in rows()]
    assert len(set(listed)) == len(listed)
    assert {*WORDS, *POLICIES, *PAPER_METHODS} <= set(listed)
    assert {f"{kind}:{'FOLDER' if kind == 'bundle' else 'FILE'}" for kind in FILES} <= set(listed)
    assert {row.decides for row in rows()} == {
        "nothing", "depth", "size", "depth or size", "draft or not", "both", "length"
    }  # fmt: skip
    assert all(row.rule and not row.rule.endswith(".") for row in rows())


@pytest.mark.parametrize(
    "row", [row for row in rows() if not re.search("[A-Z]", row.method)], ids=lambda row: row.method
)
def test_what_is_listed_can_be_typed_with_and_without_its_options(row: MethodRow) -> None:
    plain = Method.parse(row.method)
    if row.options:
        typed = [option for option in row.options.split(":") if not option.endswith("…")]
        assert type(Method.parse(":".join([row.method, *typed]))) is type(plain)
    else:
        with pytest.raises(InputError):
            Method.parse(f"{row.method}:size=3:size=3")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("chain:3:sampler=coin", "no sampler 'coin'"),
        ("chain:3:sampler=noise:sampler=noise", "sampler twice"),
        ("static:1:4:sampler=coin", "no sampler 'coin' of trees; there are noise, rejection"),
        ("static:1:4:sampler=noise:sampler=rejection", "sampler twice"),
        ("static:3:2:sampler=rejection", "depth 3 needs a size of at least 4"),
        ("static:1:sampler=rejection", "unknown method 'static:1'"),
        ("eagle3:sampler=rejection", "eagle3 has no option 'sampler'"),
        ("static:2:6:width=0", "beam width 0 is out of range"),
        ("static:2:6:width=x", "static's width is 'x'; it must be a whole number"),
        ("both:1:3:8:width=2:width=3", "width twice"),
        ("lookup:3:width=4", "unknown method"),
        ("static:2:6:width=17", "beam width 17"),
    ],
)
def test_an_option_that_cannot_work_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Method.parse(name)


def test_what_is_to_be_filled_in_can_be_filled_in(tmp_path: Path) -> None:
    assert Method.parse("static:4:16").name == "static:4:16"
    assert Method.parse("chain:3").needs_chain and not Method.parse("chain:3:sampler=residual").repeats_plain
    for name in ("chain:3:sampler=noise", "chain:heuristic:sampler=noise:most=9"):
        assert Method.parse(name).repeats_plain
    for name, repeats in {"": True, ":sampler=noise": True, ":sampler=rejection": False}.items():
        assert Method.parse(f"static:1:4{name}").repeats_plain is repeats
    for name, width in {"static:2:6": None, "static:2:6:width=3": 3, "both:1:3:8:width=4": 4}.items():
        method = Method.parse(name)
        assert isinstance(method, TreeMethod) and method.policy.width == width
    for kind in FILES:
        with pytest.raises(InputError, match=re.escape(str(tmp_path / "nothing"))):
            Method.parse(f"{kind}:{tmp_path / 'nothing'}")


@pytest.mark.parametrize(("prefix", "table"), [("", POLICIES), ("chain:", CHAINS)], ids=["policies", "chains"])
def test_defaults_are_those_of_the_signature(prefix: str, table: dict[str, Named[Any]]) -> None:
    for name, named in table.items():
        given = dict(option.split("=") for option in NAMES[prefix + name].options.split(":"))
        parameters = inspect.signature(named.make).parameters
        assert list(given) == list(parameters)
        for option, text in given.items():
            default = parameters[option].default
            shown = "/".join(map(str, default)) if isinstance(default, tuple) else str(default)
            assert text == ("…" if default is None else shown)


def test_the_options_of_a_chain_and_of_lookup_say_what_is_taken() -> None:
    assert str(parse_length(f"heuristic:{NAMES['chain:heuristic'].options}")) == str(parse_length("heuristic"))
    default, typed = parse_length("specdecpp"), parse_length(f"specdecpp:{NAMES['chain:specdecpp'].options}")
    assert isinstance(default, SpecDecPP) and isinstance(typed, SpecDecPP)
    assert (typed.folder, typed.threshold, typed.least) == (default.folder, default.threshold, default.least)
    typed_lookup, lookup = Method.parse(f"{LOOKUP}:{NAMES[LOOKUP].options}"), Method.parse(LOOKUP)
    assert isinstance(typed_lookup, TransformersMethod) and isinstance(lookup, TransformersMethod)
    assert typed_lookup.lookup == lookup.lookup


@pytest.mark.parametrize("name", ["disco", "c2t", "chain:specdecpp"])
def test_the_shipped_network_is_the_same_files_when_it_is_named(name: str) -> None:
    files = Method.parse(name).files
    assert files and Method.parse(f"{name}:model=shipped").files == files


@pytest.mark.parametrize("order", ["specdecpp:{0}", "{0}:specdecpp"])
def test_a_chains_options_are_in_any_order(order: str, tmp_path: Path) -> None:
    """Where the network's files are among what decides a run, wherever the sampler stands."""
    assert Method.parse("chain:" + order.format("sampler=noise")).files == Method.parse("chain:specdecpp").files
    shutil.copytree(shipped_chain() / ACCEPTANCE, tmp_path / "own")
    found = Method.parse("chain:" + order.format("sampler=noise") + f":model={tmp_path / 'own'}").files
    assert found and {file.parent for file in found} == {tmp_path / "own"}


def test_an_unknown_method_is_told_what_there_is() -> None:
    with pytest.raises(InputError, match="unknown method 'magic'") as caught:
        Method.parse("magic")
    assert all(row.method in str(caught.value) for row in rows())


def test_the_command_prints_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    printed = capsys.readouterr().out
    for row in rows():
        assert (f"{row.method}:{row.options}" if row.options else row.method) in printed.splitlines()
        assert f"decides {row.decides}: {row.rule}" in printed
    assert main(["methods", "--markdown"]) == 0
    assert capsys.readouterr().out == markdown()


@pytest.mark.parametrize("command", ["eval", "check"])
def test_help_says_where_they_are_listed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "ltd methods" in " ".join(re.sub(r"[│\n]", " ", capsys.readouterr().out).split())
