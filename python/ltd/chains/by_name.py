"""Rules for the length of a chain by name, as users type them: `4`, `heuristic`, `specdecpp:threshold=0.5`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ltd.chains.constant import Constant
from ltd.chains.heuristic import Heuristic
from ltd.chains.length import Length
from ltd.chains.specdecpp import SpecDecPP
from ltd.common.assets import shipped_chain
from ltd.common.named_options import make_named

ACCEPTANCE = "acceptance"  # the folder of the head that is shipped with a chain draft, inside the draft's


def specdecpp(threshold: float = 0.3, least: int = 2, most: int = 20, model: str | None = None) -> SpecDecPP:
    """SpecDec++ with the trained head in a folder; None is the head of the shipped chain draft."""
    return SpecDecPP(
        shipped_chain() / ACCEPTANCE if model is None else Path(model).expanduser(), threshold, least, most
    )


NAMED: dict[str, Callable[..., Length]] = {"heuristic": Heuristic, "specdecpp": specdecpp}


def parse_length(text: str) -> Length:
    """The rule that a name stands for, or chains of one length for a number; `ltd.common.named_options.make_named`."""
    if text.isdecimal():
        return Constant(int(text))
    return make_named(text, NAMED, "rule for the length of a chain, beside a number,")
