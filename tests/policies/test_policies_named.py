"""Policies by the names that users type."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from ltd.common.named_options import Named
from ltd.errors import InputError
from ltd.policies import DDD, SVIP, GammaTune, Static
from ltd.policies.by_name import NAMED, parse_policy


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("eagle3", Static(8, 60)),
        ("eagle3:size=9:depth=3", Static(3, 9)),
        ("ddd", DDD(-0.3, (5, 7, 9), 12, 60)),
        ("ddd:floor=-0.5:size=6", DDD(floor=-0.5, size=6)),
        ("ddd:levels=4:max_depth=5", DDD(levels=(4,), max_depth=5)),
        ("ddd:levels=2/3/12", DDD(levels=(2, 3, 12))),
        ("svip", SVIP(0.15, 0.7, 12, 60)),
        ("svip:bound=1:factor=2e-1", SVIP(bound=1.0, factor=0.2)),
        ("gammatune", GammaTune(8, 0.2, 60)),
        ("gammatune:rate=.5:depth=4", GammaTune(depth=4, rate=0.5)),
    ],
)
def test_names_and_options(text: str, policy: object) -> None:
    assert parse_policy(text) == policy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dd", "there is no policy 'dd'; there are eagle3, lookup, both, ddd, svip"),
        ("", "there is no policy ''"),
        ("svip:floor=1", "svip has no option 'floor'; it has factor, bound, max_depth, size"),
        ("ddd:floor", "'floor' in 'ddd:floor' is not of the form OPTION=VALUE"),
        ("ddd:", "'' in 'ddd:' is not of the form OPTION=VALUE"),
        ("ddd:size=6:size=6", "gives size twice; give it once"),
        ("ddd:floor=low", "ddd's floor is 'low'; it must be a number"),
        ("ddd:floor=nan", "ddd's floor is 'nan'; it must be a number"),
        ("ddd:size=6.5", "ddd's size is '6.5'; it must be a whole number"),
        ("ddd:levels=5,7", "ddd's levels is '5,7'; it must be whole numbers such as 5/7/9"),
        ("ddd:levels=9/7", "levels are 9/7; they must ascend within 1 … 12"),
        ("eagle3:depth=13", "depth 13 is out of range"),
    ],
)
def test_bad_text_is_named(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_policy(text)


@dataclass
class Learner:
    """What a policy with a folder looks like."""

    model: Path
    title: str = "x"


def test_options_without_a_default_paths_and_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(model: Path, depth: int = 3) -> Static:
        return Static(depth + len(model.parts))

    monkeypatch.setitem(NAMED, "learner", Named(Learner, "depth", "as it has learned"))
    monkeypatch.setitem(NAMED, "made", Named(made, "nothing", "as it is made"))
    assert parse_policy("learner:model=a/b:title=c=d") == Learner(Path("a/b"), "c=d")
    assert parse_policy("made:model=a/b:depth=4") == Static(6)
    for text, message in (
        ("learner", "learner needs its option model: learner:model=VALUE"),
        ("learner:model=", "learner's model is ''; it must be a path"),
        ("learner:model=a:title=", "learner's title is ''; it must be a text"),
    ):
        with pytest.raises(InputError, match=message):
            parse_policy(text)
    assert NAMED["learner"].options == "model=…:title=x"
    assert NAMED["made"].options == "model=…:depth=3"


def test_what_is_described_can_be_typed() -> None:
    for name, named in NAMED.items():
        typed = [option for option in named.options.split(":") if not option.endswith("…")]
        assert str(parse_policy(":".join([name, *typed]))) == str(parse_policy(name))
    assert NAMED["ddd"].options == "floor=-0.3:levels=5/7/9:max_depth=12:size=60"
