"""Policies by name, as users type them: `ddd`, or `ddd:floor=-0.5:size=6` with options."""

from __future__ import annotations

from typing import Any

from ltd.common.named_options import Named, make_named, options_of, read_value, split_option
from ltd.errors import InputError
from ltd.policies.at_width import AtWidth
from ltd.policies.base import Policy
from ltd.policies.baselines.c2t import c2t
from ltd.policies.baselines.disco import disco
from ltd.policies.baselines.specdecpp import tree_specdecpp
from ltd.policies.beside_text import BesideText
from ltd.policies.budget import budget
from ltd.policies.caddtree import caddtree
from ltd.policies.ddd import DDD
from ltd.policies.gammatune import GammaTune
from ltd.policies.lookup import Both, Lookup
from ltd.policies.smart import smart
from ltd.policies.static import Static
from ltd.policies.svip import SVIP

NAMED: dict[str, Named[Policy]] = {
    "eagle3": Named(Static, "nothing", "EAGLE-3's own static tree"),
    "lookup": Named(Lookup, "nothing", "no draft: the text's likeliest tokens, if each is likely enough"),
    "both": Named(
        Both,
        "draft or not",
        "a fixed tree of the draft and the text's candidates; the text alone where its first token is likely enough",
    ),
    "ddd": Named(
        DDD,
        "depth",
        "stop when the beam holds too little probability, looked at after these levels only (the root's children are "
        "level 1)",
    ),
    "svip": Named(
        SVIP,
        "depth",
        "stop when the draft's entropy H is high: 1 - sqrt(factor · H) below a bound",
    ),
    "gammatune": Named(GammaTune, "depth", "moving average of accepted lengths"),
    "disco": Named(disco, "depth", "a small network on probability, entropy, depth of the best new candidate"),
    "specdecpp": Named(
        tree_specdecpp,
        "depth",
        "an acceptance head on the draft's states: stop when P(some rejection) on the best path is above the threshold",
    ),
    "c2t": Named(c2t, "size", "a small network on probability and depth of every candidate"),
    "smart": Named(
        smart,
        "both",
        "keep a node if its chance over its measured cost is above the tree's expected tokens over its own; stop when "
        "none of a level is kept",
    ),
    "budget": Named(budget, "size", "the size with the most expected tokens over measured cost"),
    "caddtree": Named(
        caddtree, "size", "one candidate more while that raises expected tokens over convex measured cost"
    ),
}


LOOK_UP = ("lookup", "both")  # by themselves
TEXT_OPTIONS = ("text", "alone", "least")  # of `BesideText`, behind any rule that has none of its own
WIDTH = "width"  # of `AtWidth`, likewise


def parse_policy(text: str) -> Policy:
    """The policy that a name stands for; see `ltd.common.named_options.make_named`.

    Every rule for the draft's tree also takes a beam width and the options of `BesideText`:
    `ddd:size=6:width=4:text=8:alone=0.4`.
    """
    kind = text.partition(":")[0]
    if kind not in NAMED or kind in LOOK_UP:
        return make_named(text, NAMED, "policy")
    rule, options = text, dict[str, Any]()
    for option in TEXT_OPTIONS:
        rule, value = split_option(rule, option)
        if value is not None:
            options[option] = read_value(kind, options_of(BesideText)[option], value)
    if options and "text" not in options:
        raise InputError(
            f"{text!r} looks nothing up; say how many tokens with text=8, or leave out {', '.join(options)}"
        )
    made = named_rule(kind, rule)
    return BesideText(made, **options) if options else made


def named_rule(kind: str, text: str) -> Policy:
    """A rule for the draft's tree, with a beam width where one is given."""
    others = (WIDTH, *TEXT_OPTIONS)
    if WIDTH in options_of(NAMED[kind].make):
        return make_named(text, NAMED, "policy", others)
    rule, width = split_option(text, WIDTH)
    made = make_named(rule, NAMED, "policy", others)
    return made if width is None else AtWidth(made, read_value(kind, options_of(AtWidth)[WIDTH], width))
