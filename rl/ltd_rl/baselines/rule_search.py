"""`ltd train-baseline rules`: records what is missing, searches every rule's free numbers, and writes them as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ltd.common.files import file_hash
from ltd.decoding.decoder import Decoder
from ltd.drafts.opening import find_head, head_hash
from ltd.errors import InputError
from ltd.latency.cycle_costs import cycle_costs
from ltd.latency.model import LatencyModel
from ltd.loading import load as load_decoder
from ltd.policies import Policy
from ltd.policies.base import MadeForHead, StopsBySignal, text_limit
from ltd.policies.baselines.c2t import C2T
from ltd.policies.baselines.files import NETWORKS, SHIPPED, WEIGHTS, find_baseline
from ltd.policies.by_name import NAMED, parse_policy
from ltd.policies.cost_aware import CostAware
from ltd.policies.cycle_costs import CycleCosts
from ltd.policies.cycle_costs_file import COSTS, save_costs
from ltd.policies.rule_file import write_rule
from ltd_rl.baselines.rules import FoundRule, Ground, chances_of, search
from ltd_rl.baselines.signals import Signals, obtain_signals
from ltd_rl.traces.format import RecordedGeneration
from ltd_rl.traces.limits import worthwhile
from ltd_rl.traces.opening import open_decoder
from ltd_rl.traces.outcomes import named_width, outcomes_of, plain_total
from ltd_rl.traces.sources import LATENCY, Source, given_latency, latency_for, obtain_generations
from ltd_rl.traces.splits import split_generations

SIGNALS = "signals"


@dataclass(frozen=True, slots=True, eq=False)
class FoundRules:
    """What came out.

    Attributes:
        rules: by name.
        policies: the same as a user types them.
        plain: tokens per second of plain decoding, on the training and on the held-out generations.
        left_out: rules that could not be searched, and why.
    """

    rules: dict[str, FoundRule]
    policies: dict[str, str]
    plain: tuple[float, float]
    left_out: dict[str, str]


def search_rules(
    source: Source, out: Path, networks: Path | None = None, load: Callable[..., Decoder] = load_decoder
) -> FoundRules:
    """Searches all rules that steer a tree, and writes `NAME.json` for each, with the machine's `latency.json` and the
    `costs.json` that rules weigh.

    Args:
        source: traces and latencies, or what to make them from.
        out: folder of the results.
        networks: folder with the trained networks, in folders named as their rules; those that it lacks, or None, are
            the shipped ones.
        load: stands in for `ltd.load`.

    Raises:
        InputError: something is missing or does not fit, or the folder cannot be written.
    """
    rules, models, left_out = rules_here(source, None if networks is None else in_options(networks))
    costs_file = in_options(out) / COSTS
    latency = given_latency(source)
    if latency is not None:
        cycle_costs(latency)  # raises before anything is long
    generations = [g for g in obtain_generations(source, load) if g.positions > 0]
    sides = split_generations(generations)
    latency = latency or latency_for(source, generations, load)
    rules = with_costs(rules, cycle_costs(latency))
    sizes, depth = worthwhile(sides[0], latency)
    signals = rules_signals(source, generations, rules, models, depth, load)
    grounds = [ground_of(side, generations, signals, rules, latency, sizes[1:], depth) for side in sides]
    found = {}
    with tqdm(rules.items(), unit="rule", desc="searching") as progress:
        for name, rule in progress:
            progress.set_postfix_str(name)
            found[name] = search(rule, name, *grounds)
    width = generations[0].width
    policies = {
        name: text_of(name, models.get(name), options_of(rule, costs_file, width)) for name, rule in found.items()
    }
    plain = plain_total(grounds[0].outcomes).throughput, plain_total(grounds[1].outcomes).throughput
    done = FoundRules(found, policies, plain, left_out)
    write_rules(done, out, latency, sorted({g.task for g in generations}))
    return done


def rules_here(source: Source, networks: Path | None) -> tuple[dict[str, Policy], dict[str, str], dict[str, str]]:
    """The rules with their published numbers, the folders of their networks, and which do not fit the draft, and why.

    Raises:
        InputError: no draft, or a network in the folder is damaged or of another head.
    """
    source.check_drafts()
    head = find_head(source.draft)
    assert head is not None
    if networks is not None and not any((networks / name).is_dir() for name in NETWORKS):
        raise InputError(
            f"{networks} holds none of the folders {', '.join(NETWORKS)}; name the folder that they are in"
        )
    sha256, rules, models, left_out = head_hash(head), {}, {}, {}
    for name in NAMED:
        own = networks is not None and (networks / name).is_dir()
        if name in NETWORKS:
            models[name] = str(networks / name) if own and networks is not None else SHIPPED
        rule = parse_policy(text_of(name, models.get(name), {}))
        if text_limit(rule):  # searched for elsewhere: the rules here steer the draft alone
            continue
        if isinstance(rule, MadeForHead) and rule.head_sha256 not in (None, sha256):
            reason = f"its network was trained for another draft head; make one with ltd train-baseline {name}"
            if own:
                raise InputError(f"{models[name]} does not fit: {reason}")
            left_out[name] = f"{reason}, and name its folder's parent with --networks"
        else:
            rules[name] = rule
    return rules, models, left_out


def in_options(folder: Path) -> Path:
    """A folder as a rule's options can name it, wherever the rule is used; raises InputError if they cannot."""
    whole = folder.expanduser().resolve()
    if ":" in str(whole):
        raise InputError(f"the folder {whole} has a colon in its name, which ends a rule's option; name another")
    return whole


def with_costs(rules: dict[str, Policy], costs: CycleCosts) -> dict[str, Policy]:
    """The same rules with these costs, where they weigh any."""
    weighing = {name: rule for name, rule in rules.items() if isinstance(rule, CostAware)}
    return rules | {name: replace(rule, costs=costs) for name, rule in weighing.items()}  # type: ignore[type-var]


def options_of(rule: FoundRule, costs_file: Path, width: int) -> dict[str, Any]:
    """What was found; and where the costs are that the rule weighs, or else the traces' beam width. Costs have one."""
    if isinstance(rule.policy, CostAware):
        return {"costs": str(costs_file)} | rule.options
    named = named_width(width)
    return rule.options if named is None else rule.options | {"width": named}


def rules_signals(
    source: Source,
    generations: Sequence[RecordedGeneration],
    rules: dict[str, Policy],
    models: dict[str, str],
    depth: int,
    load: Callable[..., Decoder],
) -> Signals:
    """What the rules that stop by a signal see, at all positions."""
    stopping = {name: rule for name, rule in rules.items() if isinstance(rule.start(1), StopsBySignal)}
    used = {name: network_hash(name, models[name]) for name in stopping if name in models}
    head = find_head(source.draft)
    assert head is not None
    identity = {"networks": used, "head_sha256": head_hash(head), "dtype": source.dtype}

    opened = partial(open_decoder, source, load)
    return obtain_signals(generations, stopping, depth, source.folder / SIGNALS, identity, opened)


def network_hash(name: str, model: str) -> str:
    """By which a network is known: of its numbers."""
    if model != SHIPPED:
        return str(file_hash(Path(model) / WEIGHTS))
    return f"shipped, {find_baseline(name, SHIPPED).versions}"


def ground_of(
    side: Sequence[RecordedGeneration],
    generations: Sequence[RecordedGeneration],
    signals: Signals,
    rules: dict[str, Policy],
    latency: LatencyModel,
    sizes: Sequence[int],
    depth: int,
) -> Ground:
    """The part of the traces that is on one side of the split."""
    outcomes = outcomes_of(side, latency, sizes, depth)
    chosen = {id(generation) for generation in side}
    own = rows_of(generations, chosen)
    mine = {name: values[own] for name, values in signals.items()}
    mine |= {name: chances_of(rule, outcomes) for name, rule in rules.items() if isinstance(rule, C2T)}
    return Ground(side, latency, outcomes, mine)


def rows_of(generations: Sequence[RecordedGeneration], chosen: set[int]) -> list[int]:
    """The positions, numbered over all generations, of those whose id is chosen."""
    rows: list[int] = []
    first = 0
    for generation in generations:
        if id(generation) in chosen:
            rows += range(first, first + generation.positions)
        first += generation.positions
    return rows


def text_of(name: str, model: str | None, options: dict[str, Any]) -> str:
    """A policy as a user types it."""
    given = ({} if model in (None, SHIPPED) else {"model": model}) | options
    shown = {key: "/".join(map(str, value)) if isinstance(value, tuple) else value for key, value in given.items()}
    return ":".join([name, *(f"{key}={value}" for key, value in shown.items())])


def write_rules(found: FoundRules, out: Path, latency: LatencyModel, tasks: list[str]) -> None:
    """Writes a file for every rule, and the latencies that they were found with."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        latency.save(out / LATENCY)
        save_costs(cycle_costs(latency), out / COSTS)
        for name, rule in found.rules.items():
            sides = zip(("training", "held_out"), (rule.training, rule.held_out), found.plain, strict=True)
            facts = {
                "made_for": dict(latency.setup),
                "latency": LATENCY,
                "tasks": tasks,
                "settings_tried": rule.tried,
                **{
                    side: {
                        "tokens": spent.tokens,
                        "tokens_per_second": spent.throughput,
                        "plain_tokens_per_second": plain,
                        "acceptance_length": spent.acceptance_length,
                    }
                    for side, spent, plain in sides
                },
            }
            write_rule(found.policies[name], facts, out / f"{name}.json")
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}; name a place that is writable") from error
