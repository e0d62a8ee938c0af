"""The methods by the names that a user types: what each decides, how, and its options.

What is listed here is what `ltd.evaluation.methods` understands, what `ltd methods` prints, and the table in
docs/methods.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltd.chains.by_name import NAMED as CHAINS
from ltd.common.named_options import Named, options_of
from ltd.common.table import Table
from ltd.decoding.decoder import PolicyChoice
from ltd.policies import Policy
from ltd.policies.by_name import NAMED as POLICIES
from ltd.policies.controller_file import load_controller
from ltd.policies.grid import load_grid
from ltd.policies.learned.bundle import load_bundle
from ltd.policies.rule_file import load_rule

BASELINE, TUNED, TUNED_GRID, STATIC = "none", "tuned", "grid", "static"
CHAIN, TRANSFORMERS, ASSISTED, LOOKUP = "chain", "transformers", "transformers:assisted", "transformers:lookup"
RULE = "rule"
LOOKED_UP, BOTH = "lookup", "both"
WIDTH = "width"  # an option of fixed trees
LOOKUP_TOKENS = 10  # the usual number in prompt lookup
PAPER = "paper"
PAPER_METHODS = (BASELINE, "eagle3", "ddd", "svip", "gammatune", "c2t", "disco", "specdecpp", TUNED_GRID, TUNED)
COLUMNS = ["method", "decides", "rule", "options"]


def bundle_policy(folder: Path) -> Policy:
    """The policy of a bundle."""
    return load_bundle(folder).policy


def known_here() -> PolicyChoice:
    """What `ltd.policy_choice` makes of no request."""
    return None


def plain() -> PolicyChoice:
    """Plain decoding."""
    return "none"


WORDS: dict[str, Named[PolicyChoice]] = {
    BASELINE: Named(plain, "nothing", "plain decoding"),
    TUNED: Named(known_here, "both", "the learned policies that ltd uses here by default, as ltd tune makes them"),
    TUNED_GRID: Named(known_here, "nothing", "the best static tree here, as ltd tune found it"),
}
# Read from a path, behind a colon.
FILES: dict[str, Named[Policy]] = {
    "grid": Named(load_grid, "nothing", "the best static tree of a search by ltd train-baseline grid"),
    RULE: Named(
        load_rule, "depth or size", "a published rule with the numbers that ltd train-baseline rules found here"
    ),
    "controller": Named(
        load_controller, "both", "calibrated expected gain against measured cost, fitted by ltd analyze --fit"
    ),
    "bundle": Named(bundle_policy, "both", "learned policies"),
}


@dataclass(frozen=True, slots=True)
class MethodRow:
    """A method, for people.

    Attributes:
        method: as it is typed; capitals stand for what is to be filled in.
        decides: nothing, depth, size, both, or the length of a chain.
        rule: how, in a line.
        options: with their defaults, as they are typed behind the method and a colon.
    """

    method: str
    decides: str
    rule: str
    options: str = ""


def rows() -> list[MethodRow]:
    """All methods, those that decide nothing first."""
    words = {name: MethodRow(name, named.decides, named.rule) for name, named in WORDS.items()}
    files = {
        kind: MethodRow(f"{kind}:{placeholder(named.make)}", named.decides, named.rule) for kind, named in FILES.items()
    }
    return [
        words[BASELINE],
        MethodRow(
            f"{STATIC}:D:V",
            "nothing",
            "the static tree of depth D and size V, for example static:4:16; samples with sampler=noise, the noise of "
            "the place, or sampler=rejection, a drawn tree of fixed shape and recursive rejection; width=W is another "
            "beam width than the draft's",
            "sampler=noise:width=…",
        ),
        words[TUNED_GRID],
        files["grid"],
        MethodRow(f"{LOOKED_UP}:N", "nothing", "no draft: the N likeliest tokens that the text so far proposes"),
        MethodRow(
            f"{BOTH}:D:V:N",
            "nothing",
            "the static tree of depth D and size V, with N looked-up tokens more to verify, the best of both",
            "width=…",
        ),
        *(MethodRow(name, named.decides, named.rule, named.options) for name, named in POLICIES.items()),
        files[RULE],
        files["controller"],
        words[TUNED],
        files["bundle"],
        MethodRow(
            f"{CHAIN}:K",
            "nothing",
            "a separate small model drafts chains, of K tokens; all chains take sampler=residual, p/q acceptance, or "
            "sampler=noise, which draws as trees do",
            "sampler=residual",
        ),
        *(MethodRow(f"{CHAIN}:{name}", named.decides, named.rule, named.options) for name, named in CHAINS.items()),
        MethodRow(TRANSFORMERS, "nothing", "generate of transformers itself"),
        MethodRow(ASSISTED, "length", "the same, with the chain draft as its assistant"),
        MethodRow(LOOKUP, "nothing", "the same, with prompt lookup", f"tokens={LOOKUP_TOKENS}"),
    ]


def placeholder(make: Callable[..., Any]) -> str:
    """What stands for the path that a method is read from: the name of the one parameter, in capitals."""
    (name,) = options_of(make)
    return name.upper()


def markdown() -> str:
    """The table as it stands in docs/methods.md."""
    cells = [[f"`{row.method}`", row.decides, row.rule, row.options and f"`{row.options}`"] for row in rows()]
    return Table("", COLUMNS, cells, numbers=False).markdown()
