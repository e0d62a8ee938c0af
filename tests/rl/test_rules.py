"""The search for the rules' free numbers: its replays are the decoder's cycles, and what it finds is the best."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_traces import made_generations, made_latency
from recordings import DEPTH, NEW_TOKENS, Recorded
from safetensors.numpy import save_file

from ltd.common.arrays import Floats
from ltd.common.shards import shard_file
from ltd.drafts.base import DEFAULT_WIDTH, at_width
from ltd.drafts.opening import find_head, head_hash
from ltd.errors import InputError
from ltd.latency.cycle_costs import cycle_costs
from ltd.policies import DDD, SVIP, Budget, CaDDTree, GammaTune, Policy, Smart, Static
from ltd.policies.base import beam_width
from ltd.policies.baselines.acceptance_head import AcceptanceHead
from ltd.policies.baselines.c2t import C2T
from ltd.policies.baselines.classifier import Classifier
from ltd.policies.baselines.disco import Disco
from ltd.policies.baselines.files import Baseline, save_baseline
from ltd.policies.baselines.specdecpp import TreeSpecDecPP
from ltd.policies.by_name import parse_policy
from ltd.policies.cycle_costs_file import load_costs
from ltd.policies.rule_file import load_rule
from ltd_rl.baselines.rule_search import FoundRules, options_of, search_rules, text_of, write_rules
from ltd_rl.baselines.rules import FoundRule, Ground, chances_of, replayed, search, settings_of
from ltd_rl.baselines.signals import depths_of, obtain_signals, record_signals
from ltd_rl.traces.format import load_traces
from ltd_rl.traces.outcomes import Outcomes, outcomes_of, plain_total
from ltd_rl.traces.replay import replay
from ltd_rl.traces.sources import Source, latency_for

SIZES = (1, 3, 8)
COSTS = cycle_costs(made_latency())


def classifier(inputs: int) -> Classifier:
    torch.manual_seed(inputs)
    made = Classifier(inputs, 16)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3)
    return made.requires_grad_(False)


def acceptance(inputs: int) -> AcceptanceHead:
    torch.manual_seed(5)
    head = AcceptanceHead(inputs, 8)
    with torch.no_grad():
        head.out.bias.copy_(torch.tensor([0.0, 1.5]))
    return head.requires_grad_(False)


def stopping_rules(state_size: int) -> dict[str, Policy]:
    return {
        "ddd": DDD(levels=(1, 2, 4)),
        "svip": SVIP(),
        "disco": Disco(classifier(3)),
        "specdecpp": TreeSpecDecPP(acceptance(state_size)),
    }


def between(signals: Floats, share: float) -> float:
    """A number below about this share of the signals, as far from all of them as can be.

    Signals are recorded for many positions at a time, so the decoder's may differ by rounding.
    """
    values = np.sort(signals, axis=None)
    middle, reach = int(share * len(values)), max(len(values) // 10, 1)
    near = values[max(middle - reach, 0) : middle + reach + 1]
    place = int(np.diff(near).argmax())
    return float((near[place] + near[place + 1]) / 2)


PARAMETERS = {"ddd": "floor", "svip": "bound", "disco": "threshold", "specdecpp": "threshold"}


@pytest.mark.parametrize("name", PARAMETERS)
def test_depths_from_signals_are_the_decoders(recorded: Callable[[str], Recorded], name: str) -> None:
    """At thresholds among what was seen, so that rules stop at all depths."""
    run = recorded("llama")
    assert run.decoder.draft is not None
    rule, seen = stopping_rules(run.decoder.draft.state_size)[name], set()
    for generation in run.traces.generations:
        signals = record_signals(run.decoder, generation, {name: rule}, DEPTH)[name]
        assert signals.shape == (generation.positions, DEPTH)
        for share in (0.2, 0.5, 0.8):
            threshold = between(signals, share)
            if name == "svip":
                threshold = 1 - (0.15 * threshold) ** 0.5
            value = {PARAMETERS[name]: min(threshold, 1.0) if name != "ddd" else threshold}
            policy = replace(rule, **value, max_depth=DEPTH, size=12)  # type: ignore[type-var]
            prompt = generation.tokens[: generation.prompt_length].tolist()
            found = run.decoder.generate(prompt, max_new_tokens=NEW_TOKENS, policy=policy).statistics
            cycles = replay(generation, (depths_of(policy, signals), 12))
            assert (cycles.depths.tolist(), cycles.gains.tolist()) == (found.depths, found.gains)
            seen |= set(found.depths)
    assert len(seen) > 2


def test_signals_are_kept_and_belong_to_their_traces(recorded: Callable[[str], Recorded], tmp_path: Path) -> None:
    run = recorded("llama")
    rules = {"svip": SVIP()}
    once = obtain_signals(run.traces.generations, rules, DEPTH, tmp_path, {}, lambda: run.decoder)
    again = obtain_signals(run.traces.generations, rules, DEPTH, tmp_path, {}, lambda: pytest.fail("they are there"))
    assert np.array_equal(once["svip"], again["svip"])
    assert len(once["svip"]) == run.traces.positions
    with pytest.raises(InputError):
        obtain_signals(run.traces.generations[:-1], rules, DEPTH, tmp_path, {}, lambda: run.decoder)
    for signals in (once["svip"][1:], once["svip"].astype(np.float64), once["svip"][:, 1:].copy()):
        save_file({"svip": signals}, shard_file(tmp_path, 0))
        with pytest.raises(InputError, match=r"is damaged: .*; delete it, and run again"):
            obtain_signals(run.traces.generations, rules, DEPTH, tmp_path, {}, lambda: run.decoder)
    other = replace(run.traces.generations[0], scores=run.traces.generations[0].scores - 3)
    with pytest.raises(InputError, match="another draft"):
        record_signals(run.decoder, other, rules, DEPTH)


def test_signals_are_those_of_the_traces_beam_width(recorded: Callable[[str], Recorded]) -> None:
    run = recorded("llama")
    other = copy.copy(run.decoder)
    other.draft = at_width(other.draft, run.config.width + 3)
    generation = load_traces(run.config.out).generations[0]
    rules = stopping_rules(run.decoder.draft.state_size)
    found, expected = (record_signals(decoder, generation, rules, 3) for decoder in (other, run.decoder))
    for name, signals in expected.items():
        np.testing.assert_array_equal(found[name], signals)


def made_ground(seed: int, lengths: list[int], rule: Policy | None = None) -> Ground:
    generations, latency = made_generations(seed, lengths), made_latency()
    outcomes = outcomes_of(generations, latency, SIZES)
    generator = np.random.default_rng(seed)
    signals = {"svip": generator.exponential(1.0, (outcomes.positions, outcomes.depth)).astype(np.float32)}
    signals["ddd"] = -signals["svip"]
    if isinstance(rule, C2T):
        signals["c2t"] = chances_of(rule, outcomes)
    return Ground(generations, latency, outcomes, signals)


def asked(rule: Policy, ground: Ground) -> tuple[int, float]:
    """Cycles and seconds of a policy that is asked cycle by cycle."""
    cycles, seconds = 0, 0.0
    for generation in ground.generations:
        done = replay(generation, rule)
        lengths = generation.prompt_length + done.positions
        seconds += float(ground.latency.cycle(done.depths, done.sizes, lengths, done.gains).sum())
        cycles += len(done.gains)
    return cycles, seconds


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        *(("gammatune", GammaTune(depth, rate, size)) for depth, rate, size in ((1, 0.2, 3), (2, 0.5, 8), (2, 1.0, 1))),
        *(("c2t", C2T(classifier(2), chance, depth, 5)) for chance, depth in ((0.5, 3), (0.3, 2), (0.9, 1), (0.0, 3))),
        ("eagle3", Static(2, 8)),
        *(("smart", Smart(COSTS, share, depth, 6)) for share, depth in ((0.8, 3), (1.0, 2), (0.3, 1))),
        ("budget", Budget(COSTS, 2, 8)),
        ("caddtree", CaDDTree(COSTS, 3, 5)),
    ],
)
def test_fast_replays_are_those_of_the_policy(name: str, rule: Policy) -> None:
    ground = made_ground(4, [40, 25, 1], rule)
    found = replayed(rule, name, ground)
    cycles, seconds = asked(rule, ground)
    assert (found.cycles, found.tokens) == (cycles, 66)
    assert found.seconds == pytest.approx(seconds, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("eagle3", Static()),
        ("ddd", DDD()),
        ("svip", SVIP()),
        ("gammatune", GammaTune()),
        ("c2t", C2T(classifier(2))),
        ("smart", Smart(COSTS)),
        ("budget", Budget(COSTS)),
        ("caddtree", CaDDTree(COSTS)),
    ],
)
def test_the_best_setting_is_found(name: str, rule: Policy) -> None:
    training, held_out = made_ground(1, [30, 20], rule), made_ground(7, [25], rule)
    found = search(rule, name, training, held_out)
    every = list(settings_of(rule, name, training))
    rates = [replayed(replace(rule, **options), name, training).throughput for options in every]  # type: ignore[type-var]
    assert found.tried == len(every)
    assert found.training.throughput == max(rates)
    assert found.options == every[rates.index(max(rates))]
    assert found.held_out == replayed(found.policy, name, held_out)
    if name == "eagle3":
        outcomes: Outcomes = training.outcomes
        assert found.options["depth"] <= outcomes.depth and found.options["size"] in SIZES


def test_what_is_found_on_narrow_trees_names_their_width() -> None:
    rule = FoundRule(DDD(), {"floor": -0.5}, *[None] * 3)  # type: ignore[arg-type]
    assert options_of(rule, Path("costs.json"), 10) == {"floor": -0.5}
    assert beam_width(parse_policy(text_of("ddd", None, options_of(rule, Path("costs.json"), 4)))) == 4
    weighing = FoundRule(Budget(COSTS, 2, 8), {"size": 8}, *[None] * 3)  # type: ignore[arg-type]
    assert options_of(weighing, Path("costs.json"), 4) == {"costs": "costs.json", "size": 8}


def test_what_is_written_is_a_method(tmp_path: Path) -> None:
    training, held_out = made_ground(1, [30]), made_ground(2, [20])
    found = search(DDD(), "ddd", training, held_out)
    text = text_of("ddd", None, found.options)
    plain = plain_total(training.outcomes).throughput, plain_total(held_out.outcomes).throughput
    write_rules(FoundRules({"ddd": found}, {"ddd": text}, plain, {}), tmp_path, made_latency(), ["made"])
    assert load_rule(tmp_path / "ddd.json") == found.policy
    values = json.loads((tmp_path / "ddd.json").read_text())
    assert values["held_out"]["tokens_per_second"] == found.held_out.throughput
    assert values["made_for"] == {"width": 3} and (tmp_path / "latency.json").is_file()
    assert isinstance(found, FoundRule)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "missing"),
        ('{"format": "ltd-grid"}', "format"),
        ('{"format": "ltd-rule", "schema": 1, "policy": 3}', "must be a text"),
        ('{"format": "ltd-rule", "schema": 1, "policy": "ddd:bound=1"}', "has no option"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "rule.json").write_text(content)
    with pytest.raises(InputError, match=message):
        load_rule(tmp_path / "rule.json")


def test_texts_name_the_numbers() -> None:
    assert text_of("ddd", None, {"floor": -0.5, "levels": (1, 2), "size": 6}) == "ddd:floor=-0.5:levels=1/2:size=6"
    assert text_of("disco", "runs/disco", {"threshold": 0.4}) == "disco:model=runs/disco:threshold=0.4"
    assert text_of("disco", "shipped", {}) == "disco"


def must_not_load(*_: Any, **__: Any) -> Any:
    raise AssertionError("no model should have been loaded")


def test_costs_that_are_not_given_are_measured_at_the_traces_beam_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("ltd_rl.traces.sources.own_latency", lambda source, _: asked.append(source.width))
    latency_for(Source(tmp_path, traces=tmp_path), made_generations(0, [4]), must_not_load)
    assert asked == [3]


def test_the_whole_search_on_traces(
    recorded: Callable[[str], Recorded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shipped networks are another head's; one that fits is read from the folder, wherever a rule is used."""
    run = recorded("llama")
    monkeypatch.chdir(tmp_path)
    made_for = {"target": "tiny", "head_sha256": head_hash(find_head(run.config.draft))}
    save_baseline(Baseline("disco", classifier(3), made_for), tmp_path / "networks" / "disco")
    made_latency(width=DEFAULT_WIDTH).save(tmp_path / "latency.json")
    source = Source(tmp_path / "work", traces=run.config.out, latency=tmp_path / "latency.json", draft=run.config.draft)
    found = search_rules(source, tmp_path / "out", Path("networks"), lambda *_, **__: run.decoder)
    monkeypatch.chdir(tmp_path / "out")
    weighing = ["smart", "budget", "caddtree"]
    assert list(found.rules) == ["eagle3", "ddd", "svip", "gammatune", "disco", *weighing]
    assert list(found.left_out) == ["specdecpp", "c2t"] and "another draft head" in found.left_out["c2t"]
    for name, policy in found.policies.items():
        assert load_rule(tmp_path / "out" / f"{name}.json").max_size == found.rules[name].policy.max_size
        assert policy.startswith(name)
        assert ("costs=" in policy) == (name in weighing)
        width = beam_width(load_rule(tmp_path / "out" / f"{name}.json"))
        assert width == (DEFAULT_WIDTH if name in weighing else None)  # that of the costs, or the draft's own
    costs = load_costs(tmp_path / "out" / "costs.json")
    assert np.array_equal(costs.verifying, COSTS.verifying) and np.array_equal(costs.drafting, COSTS.drafting)
    static = found.rules["eagle3"].training.throughput
    assert all(rule.training.throughput > 0.9 * static for rule in found.rules.values())
    made_latency(width=4).save(tmp_path / "narrow.json")
    for changes in ({}, {"traces": None, "data_dir": tmp_path, "tasks": ("mine",)}):  # traces to be recorded likewise
        narrow = replace(source, latency=tmp_path / "narrow.json", **changes)
        with pytest.raises(InputError, match="measured with the beam width 4, and the traces have 10; measure them"):
            search_rules(narrow, tmp_path / "out", tmp_path / "networks", must_not_load)
    with pytest.raises(InputError, match="has a colon in its name"):
        search_rules(source, tmp_path / "a:b", tmp_path / "networks", lambda *_, **__: run.decoder)
    with pytest.raises(InputError, match="has a colon in its name"):
        search_rules(source, tmp_path / "out", tmp_path / "a:b", lambda *_, **__: run.decoder)
    with pytest.raises(InputError, match="holds none of the folders"):
        search_rules(source, tmp_path / "out", tmp_path / "nothing", lambda *_, **__: run.decoder)
    save_baseline(Baseline("c2t", classifier(2), {"head_sha256": "other"}), tmp_path / "networks" / "c2t")
    with pytest.raises(InputError, match="c2t does not fit"):
        search_rules(source, tmp_path / "out", tmp_path / "networks", lambda *_, **__: run.decoder)


@pytest.mark.parametrize(
    "rule", [Smart(COSTS, 1.0, DEPTH, 12), Budget(COSTS, DEPTH, 12), CaDDTree(COSTS, 2, 12)], ids=str
)
def test_rules_that_weigh_decide_in_the_decoder_as_in_a_replay(
    recorded: Callable[[str], Recorded], rule: Policy
) -> None:
    run = recorded("llama")
    rule = replace(rule, costs=replace(COSTS, made_for=replace(COSTS.made_for, width=run.config.width)))
    for generation in run.traces.generations:
        prompt = generation.tokens[: generation.prompt_length].tolist()
        found = run.decoder.generate(prompt, max_new_tokens=NEW_TOKENS, policy=rule).statistics
        cycles = replay(generation, rule)
        assert (cycles.depths.tolist(), cycles.gains.tolist()) == (found.depths, found.gains)
