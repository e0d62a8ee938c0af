"""Disco, SpecDec++ and C2T against plain recomputations, and the folders that their networks lie in."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ltd.errors import InputError
from ltd.loading import load
from ltd.policies.baselines.acceptance_head import AcceptanceHead
from ltd.policies.baselines.c2t import C2T
from ltd.policies.baselines.classifier import ENTROPY_UNIT, Classifier
from ltd.policies.baselines.disco import Disco
from ltd.policies.baselines.files import INPUTS, Baseline, load_baseline, network_of, save_baseline
from ltd.policies.baselines.specdecpp import TreeSpecDecPP
from ltd.policies.by_name import parse_policy
from ltd.policies.grid import load_grid, write_grid
from ltd.policies.learned.observation import DEPTH_UNIT
from ltd.policies.lookup import Lookup
from ltd.policies.static import Static
from ltd.policy_choice import choose_policy, setting_of
from ltd.tree import DraftTree

WIDTH, WORDS, STATE, LEVELS = 3, 40, 6, 4
Folder = Callable[[str], Path]
SIZES: dict[str, dict[str, int]] = {
    "disco": {"inputs": 3, "hidden": 8},
    "c2t": {"inputs": 2, "hidden": 8},
    "specdecpp": {"inputs": STATE, "width": 10, "blocks": 3},
}


def network(kind: str, seed: int, spread: float = 1.0) -> Any:
    torch.manual_seed(seed)
    made = network_of(kind, SIZES[kind])
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(std=spread)
    return made


class Growing:
    """A tree that grows by random logits, and what it was grown from."""

    def __init__(self, seed: int, batch: int) -> None:
        torch.manual_seed(seed)
        self.batch, self.logits, self.states = batch, [], []
        self.tree = DraftTree(batch, WIDTH, LEVELS, 20, torch.device("cpu"))
        self.tree.begin(torch.zeros(batch, dtype=torch.int64), torch.full((batch,), 9, dtype=torch.int32))
        self.grow()

    def grow(self) -> None:
        rows = WIDTH if self.logits else 1
        self.logits.append(3 * torch.randn(self.batch, rows, WORDS))
        self.states.append(torch.randn(self.batch, rows, STATE))
        self.tree.states = self.states[-1]
        self.tree.expand(self.logits[-1], None)

    def level(self, node: int) -> int:
        return 0 if node < WIDTH else 1 + (node - WIDTH) // WIDTH**2

    def row(self, node: int) -> int:
        return 0 if node < WIDTH else (node - WIDTH) % WIDTH**2 // WIDTH

    def parent(self, sequence: int, node: int) -> int:
        return int(self.tree.parents[sequence, node])

    def distribution(self, sequence: int, node: int) -> torch.Tensor:
        """What a candidate was chosen from."""
        return self.logits[self.level(node)][sequence, self.row(node)].double().softmax(-1)

    def probability(self, sequence: int, node: int) -> float:
        return float(self.distribution(sequence, node)[self.tree.tokens[sequence, node]])

    def joint(self, sequence: int, node: int) -> float:
        above = self.parent(sequence, node)
        return self.probability(sequence, node) * (1.0 if above < 0 else self.joint(sequence, above))

    def state(self, sequence: int, node: int) -> torch.Tensor:
        """The draft's state at a candidate of a beam."""
        beam = self.tree.beam_nodes[sequence, self.level(node)].tolist()
        return self.states[self.level(node) + 1][sequence, beam.index(node)]


def by_hand(made: Classifier, features: list[float]) -> float:
    first, _, last = made.layers.requires_grad_(False)
    hidden = (first.weight.double() @ torch.tensor(features).double() + first.bias.double()).clamp(min=0)
    return 1 / (1 + math.exp(-float(last.weight.double()[0] @ hidden + last.bias.double()[0])))


@pytest.mark.parametrize("batch", [1, 3])
def test_disco_asks_about_the_newest_best(batch: int) -> None:
    answers = set()
    for seed in range(12):
        made, growing = network("disco", seed), Growing(seed, batch)
        for depth in range(LEVELS):
            chances = []
            for sequence in range(batch):
                nodes = range(growing.tree.newest_from, growing.tree.candidates)
                node = max(nodes, key=lambda n: float(growing.tree.scores[sequence, n]))
                p = growing.distribution(sequence, node)
                entropy = -float((p * p.log()).sum())
                features = [growing.probability(sequence, node), entropy / ENTROPY_UNIT, depth / DEPTH_UNIT]
                chances.append(by_hand(made, features))
            mean = sum(chances) / batch
            for threshold, goes_on in ((mean - 1e-4, True), (mean + 1e-4, False), (0.5, mean >= 0.5)):
                policy = Disco(made, min(max(threshold, 0.0), 1.0), LEVELS, 20)
                if abs(mean - threshold) > 1e-5 and 0 <= threshold <= 1:
                    assert policy.start(batch).continue_drafting(growing.tree, depth) == goes_on
            answers.add(mean >= 0.5)
            growing.grow()
    assert answers == {True, False}


@pytest.mark.parametrize("batch", [1, 3])
def test_specdecpp_multiplies_along_the_best_path(batch: int) -> None:
    answers = set()
    for seed in range(12):
        made = network("specdecpp", seed, 0.3).requires_grad_(False)
        policy = TreeSpecDecPP(made, 0.3, LEVELS, 20)
        call, growing = policy.start(batch), Growing(seed, batch)
        assert call.continue_drafting(growing.tree, 0)
        for depth in range(1, LEVELS):
            growing.grow()
            products = []
            for sequence in range(batch):
                beam = growing.tree.beam_nodes[sequence, depth - 1].tolist()
                node, product = max(beam, key=lambda n: float(growing.tree.scores[sequence, n])), 1.0
                while node >= 0:
                    state = growing.state(sequence, node)
                    logits = made(state / (state.square().mean() + 1e-6).sqrt()).double()
                    product *= float(logits.softmax(-1)[1])
                    node = growing.parent(sequence, node)
                products.append(product)
            rejection = 1 - sum(products) / batch
            found = call.continue_drafting(growing.tree, depth)
            assert found == (rejection <= 0.3) or abs(rejection - 0.3) < 1e-5
            assert call.continue_drafting(growing.tree, depth) == found  # asking again changes nothing
            answers.add(found)
        assert call.choose_size(growing.tree, depth) == 20
    assert answers == {True, False}


def test_specdecpp_needs_the_states_it_was_trained_on() -> None:
    growing, call = Growing(0, 1), TreeSpecDecPP(AcceptanceHead(STATE + 1, 4)).start(1)
    growing.grow()
    with pytest.raises(InputError, match="of size 7, but this draft has 6"):
        call.continue_drafting(growing.tree, 1)
    growing.tree.states = None
    with pytest.raises(InputError, match="has none"):
        call.continue_drafting(growing.tree, 1)


@pytest.mark.parametrize("batch", [1, 2])
def test_c2t_counts_those_that_will_probably_be_accepted(batch: int) -> None:
    found = set()
    for seed in range(12):
        made, growing = network("c2t", seed), Growing(seed, batch)
        for depth in range(LEVELS):
            if depth:
                growing.grow()
            policy = C2T(made, 0.5, LEVELS, 20).start(batch)
            chances = [
                by_hand(made, [growing.joint(sequence, node), growing.level(node) / DEPTH_UNIT])
                for sequence in range(batch)
                for node in range(growing.tree.candidates)
            ]
            if min(abs(chance - 0.5) for chance in chances) < 1e-4:
                continue
            count = sum(chance > 0.5 for chance in chances) / batch
            assert policy.choose_size(growing.tree, depth) == min(max(round(count), 1), 20)
            found.add(min(max(round(count), 1), 20))
            assert policy.continue_drafting(growing.tree, depth) == (depth < LEVELS)
        assert not policy.continue_drafting(growing.tree, LEVELS)
    assert {1, 20} <= found and len(found) > 2


@pytest.mark.parametrize("kind", list(SIZES))
def test_a_folder_is_read_as_it_was_written(tmp_path: Path, kind: str) -> None:
    facts = {"made_for": {"target": "t", "head_sha256": "abc"}, "training": {"epochs": 3}, "validation": {"auc": 0.9}}
    written = Baseline(kind, network(kind, 0), **facts)
    save_baseline(written, tmp_path / "deep" / kind)
    read = load_baseline(tmp_path / "deep" / kind, kind)
    assert {name: getattr(read, name) for name in facts} == facts and read.versions == written.versions
    for name, tensor in written.network.state_dict().items():
        assert torch.equal(read.network.state_dict()[name], tensor)
    policy = parse_policy(f"{kind}:model={tmp_path / 'deep' / kind}:threshold=0.25:size=7")
    assert policy.max_size == 7 and "threshold 0.25" in str(policy)


Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(schema=2), "schema is 2"),
        (lambda v: v.update(format="x"), "does not say"),
        (lambda v: v.pop("sizes"), "lacks sizes"),
        (lambda v: v.update(kind="c2t"), "of kind 'c2t', not disco"),
        (lambda v: v.update(bound=0.5), "baseline.json holds what .* does not know: bound"),
        (lambda v: v.update(sizes={"inputs": 3}), "must be inputs, hidden"),
        (lambda v: v["sizes"].update(hidden=0), "hidden is 0"),
        (lambda v: v["sizes"].update(hidden=9), "does not hold the tensors"),
        (lambda v: v["sizes"].update(inputs=2), "disco reads 3 numbers"),
        (lambda v: v.update(weights_sha256="0"), "is not the file that"),
        (lambda v: v.update(training=[]), "training in baseline.json must be an object"),
    ],
)
def test_damaged_facts(tmp_path: Path, change: Change, message: str) -> None:
    save_baseline(Baseline("disco", network("disco", 0), {}), tmp_path)
    values = json.loads((tmp_path / "baseline.json").read_text())
    change(values)
    (tmp_path / "baseline.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=message):
        load_baseline(tmp_path, "disco")


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"baseline\.json is missing"):
        load_baseline(tmp_path, "disco")
    save_baseline(Baseline("disco", network("disco", 0), {}), tmp_path)
    (tmp_path / "baseline.safetensors").unlink()
    with pytest.raises(InputError, match=r"baseline\.safetensors is missing"):
        load_baseline(tmp_path, "disco")
    (tmp_path / "baseline.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_baseline(tmp_path, "disco")


@pytest.mark.parametrize("kind", list(SIZES))
@pytest.mark.parametrize(("option", "message"), [("threshold=1.5", "threshold 1.5"), ("max_depth=13", "depth 13")])
def test_bad_options(tmp_path: Path, kind: str, option: str, message: str) -> None:
    save_baseline(Baseline(kind, network(kind, 0), {}), tmp_path)
    with pytest.raises(InputError, match=message):
        parse_policy(f"{kind}:model={tmp_path}:{option}")


def test_without_a_shipped_one_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltd.common.assets.SHIPPED_FOR", "nothing")
    with pytest.raises(InputError, match="ltd train-baseline disco --out FOLDER"):
        parse_policy("disco")


def test_a_grid_search_is_read_as_a_static_policy(tmp_path: Path) -> None:
    file = tmp_path / "grid.json"
    file.write_text(json.dumps({"format": "ltd-grid", "schema": 1, "depth": 3, "size": 12}))
    assert (load_grid(file).max_depth, load_grid(file).max_size) == (3, 12)
    for wrong, message in (({"depth": "3"}, "depth is '3'"), ({"size": 900}, "900"), ({"schema": 0}, "schema is 0")):
        file.write_text(json.dumps({"format": "ltd-grid", "schema": 1, "depth": 3, "size": 12, **wrong}))
        with pytest.raises(InputError, match=message):
            load_grid(file)
    with pytest.raises(InputError, match="is missing"):
        load_grid(tmp_path / "other.json")


def test_without_a_draft_a_grid_is_a_way_to_look_up(tmp_path: Path) -> None:
    for policy in (Lookup(5, 0.3), Lookup(64, 0.0), Static(0, 0), Static(3, 12)):
        write_grid(policy, {"tasks": ["a"]}, tmp_path)
        assert load_grid(tmp_path / "grid.json") == policy
    values = {"format": "ltd-grid", "schema": 1, "depth": -1, "size": 5}
    empty: dict[str, Any] = {"size": 0, "least": 0}
    for wrong, message in (({}, "least is None"), ({"least": 2}, "least is 2"), (empty, "at least 1")):
        (tmp_path / "grid.json").write_text(json.dumps({**values, **wrong}))
        with pytest.raises(InputError, match=message):
            load_grid(tmp_path / "grid.json")


def test_the_text_stays_the_same(tiny_target: Folder, tiny_head: Folder) -> None:
    """Batches that shrink, too."""
    decoder = load(tiny_target("llama"), tiny_head("llama"), dtype="float32", device="cpu")
    prompts = [[5, 9, 33, 60], [7, 8, 9], [4]]
    options: dict[str, Any] = {"max_new_tokens": 24, "stop_token_ids": [11, 12, 13, 14]}
    plain = [answer.token_ids for answer in decoder.generate(prompts, policy="none", **options)]
    torch.manual_seed(0)
    policies = [
        Disco(network("disco", 1), 0.5, 5),
        TreeSpecDecPP(AcceptanceHead(32, 16), 0.8, 5),
        C2T(network("c2t", 3), 0.5, 3),
    ]
    for policy in policies:
        answers = decoder.generate(prompts, policy=policy, **options)
        assert [answer.token_ids for answer in answers] == plain


@pytest.mark.parametrize("kind", ["disco", "c2t", "specdecpp"])
def test_networks_trained_for_another_head_are_refused(
    kind: str, tiny_target: Folder, tiny_head: Folder, tmp_path: Path
) -> None:
    decoder = load(tiny_target("llama"), tiny_head("llama"), dtype="float32", device="cpu")
    sizes = {"inputs": 32, "width": 8, "blocks": 2} if kind == "specdecpp" else {"inputs": INPUTS[kind], "hidden": 4}
    for head, fits in (("0" * 64, False), (setting_of(decoder).head_sha256, True)):
        save_baseline(Baseline(kind, network_of(kind, sizes), {"head_sha256": head}), tmp_path / head)
        policy = parse_policy(f"{kind}:model={tmp_path / head}")
        if fits:
            assert choose_policy(policy, lambda: setting_of(decoder), decoder.target.device).policy is policy
        else:
            with pytest.raises(InputError, match="another draft head"):
                choose_policy(policy, lambda: setting_of(decoder), decoder.target.device)


@pytest.mark.parametrize("wrong", ["0.5", None, True, [0.5]])
@pytest.mark.parametrize("make", [C2T, Disco, TreeSpecDecPP])
def test_thresholds_of_the_wrong_type(make: Callable[..., Any], wrong: object) -> None:
    kind = {C2T: "c2t", Disco: "disco", TreeSpecDecPP: "specdecpp"}[make]
    with pytest.raises(InputError, match=r"threshold is .*, but must be a number"):
        make(network(kind, 0), wrong)
    with pytest.raises(InputError, match=r"size is 2\.5, but must be a whole number"):
        make(network(kind, 0), size=2.5)
