"""What a tuning keeps, and what it says of it: the last stage."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ltd.common.journal import Record
from ltd.common.json_files import read_json
from ltd.policies import Both, Lookup, Policy
from ltd.policies.grid import write_grid
from ltd.policies.learned.bundle import Bundle, save_bundle
from ltd.policies.learned.policy import Learned
from ltd.policies.learned.store import QUICK, bundle_folder, remove_kept
from ltd.policies.rule_file import RULE, write_rule
from ltd.policies.static import Static
from ltd_rl.tuning.fixed import constant, method_of
from ltd_rl.tuning.winner import together, validation_of, winner
from ltd_rl.tuning.work import DEFAULT, LEARNED, SHIPPED, TRAINING, Work, announce


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """What came out.

    Attributes:
        kept: the policy whose bundle or rule is in the cache; None if nothing was surely faster than what is used
            without one.
        folder: for that, in the cache; it also holds the best static tree of the draft, or without one the best way to
            look tokens up, for the method `grid`.
        names: method names of `ltd eval`, by what they are for people.
        incumbent: the one that is used without a bundle, as such a name for people.
        results: of these methods by temperature, in real decoding of questions that nothing was learned or chosen with.
    """

    kept: Policy | None
    folder: Path
    names: dict[str, str]
    incumbent: str
    results: dict[float, Record]

    @property
    def learned(self) -> bool:
        """Whether the learned policies were kept."""
        return isinstance(self.kept, Learned) and self.kept.size_network is not None


def keep(
    work: Work,
    policy: Learned,
    static: Static | None,
    rule: Both | Lookup,
    results: dict[float, Record],
    names: dict[str, str],
) -> Tuned:
    """Writes the winner into the cache, unless that is what is used without; see `ltd_rl.tuning.winner.winner`.

    It is the one of all temperatures together.

    The result of an earlier tuning is replaced, or taken away if nothing is kept.
    """
    folder = bundle_folder(work.setting)
    trees = [] if static is None else [static]
    fixed: dict[str, Policy] = {method_of(each): each for each in (rule, *trees, work.default)}
    incumbent = next((name for name in (QUICK, SHIPPED) if name in names), DEFAULT)
    best = winner(together(results), [names[LEARNED], *fixed], names[incumbent])
    kept = None if best == names[incumbent] else {names[LEARNED]: policy, **fixed}[best]
    what = "nothing" if kept is None else "the learned policies" if kept is policy else "a fixed setting"
    announce(5, f"writing {what} to {folder}")
    settings = read_json(work.folder / TRAINING, dict[str, Any], str(work.folder / TRAINING))
    searched = {"made_for": asdict(work.setting), "tasks": list(work.config.tasks)}
    write_grid(rule if isinstance(rule, Lookup) else trees[0], searched, folder)
    validation = validation_of(results, names, names[LEARNED])
    remove_kept(folder)
    if isinstance(kept, Static):
        kept = constant(policy, kept.depth, kept.size)
    if isinstance(kept, Learned):
        save_bundle(Bundle(kept, work.config.reward, settings, validation), folder)
    elif kept is not None:
        facts = {"made_for": asdict(work.setting), "training": settings, "validation": validation}
        write_rule(method_of(kept), facts, folder / RULE)
    return Tuned(kept, folder, names, incumbent, results)
