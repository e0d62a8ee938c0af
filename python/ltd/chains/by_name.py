"""Rules for the length of a chain by name, as users type them: `4`, `heuristic`, `specdecpp:threshold=0.5`."""

from __future__ import annotations

from ltd.chains.constant import Constant
from ltd.chains.heuristic import Heuristic
from ltd.chains.length import Length
from ltd.chains.samplers import RESIDUAL, check_sampler
from ltd.chains.specdecpp import SpecDecPP
from ltd.common.assets import shipped_chain
from ltd.common.files import expand_user
from ltd.common.named_options import Named, make_named, split_option, whole_number
from ltd.policies.baselines.files import SHIPPED

SAMPLER = "sampler"
ACCEPTANCE = "acceptance"  # the folder of the head that is shipped with a chain draft, inside the draft's


def specdecpp(model: str = SHIPPED, threshold: float = 0.3, least: int = 2, most: int = 20) -> SpecDecPP:
    """SpecDec++ with the trained head in a folder, or the one that comes with the shipped chain draft."""
    folder = shipped_chain() / ACCEPTANCE if model == SHIPPED else expand_user(model)
    return SpecDecPP(folder, threshold, least, most)


NAMED: dict[str, Named[Length]] = {
    "heuristic": Named(Heuristic, "length", "two more after a wholly accepted chain, else one less"),
    "specdecpp": Named(
        specdecpp,
        "length",
        "SpecDec++ in its own setting: stop when an acceptance head finds P(some rejection) above the threshold",
    ),
}


def split_sampler(text: str) -> tuple[str, str]:
    """The name of a rule with its own options, and the sampler, which is an option of every rule.

    Raises:
        InputError: no such sampler, or two of them.
    """
    rule, sampler = split_option(text, SAMPLER)
    return rule, RESIDUAL if sampler is None else check_sampler(sampler)


def parse_length(text: str) -> Length:
    """The rule that a name stands for, or chains of one length for a number; `ltd.common.named_options.make_named`."""
    number = whole_number(text)
    if number is not None:
        return Constant(number)
    return make_named(text, NAMED, "rule for the length of a chain, beside a number,")
