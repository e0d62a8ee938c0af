"""What a learned policy remembers within a call, and what it reads of the draft."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import ltd
from ltd._C import SummaryAsker
from ltd.loading import load
from ltd.lookup import TEXT_FEATURES, TextCandidates
from ltd.policies.learned import asking
from ltd.policies.learned.allowance import CREDIT, SHARE, Costs
from ltd.policies.learned.network import Network
from ltd.policies.learned.observation import ANY_LENGTH, Layout, Summary, depth_layout, size_layout
from ltd.policies.learned.policy import Learned, LearnedCall
from ltd.policies.learned.setting import Setting
from ltd.tree import DraftTree

Folder = Callable[[str], Path]
WIDTH, STATES = 3, 4
LAYOUT = Summary(best=5, newest=2, states=STATES)
TEXT_LAYOUT = replace(LAYOUT, text=TEXT_FEATURES)


def random_network(layout: Layout | Summary, outputs: int, seed: int) -> Network:
    generator = torch.Generator().manual_seed(seed)
    return Network(layout, (torch.randn(outputs, layout.width, generator=generator), torch.zeros(outputs)))


def tree(depth: int, batch: int = 2, states: int | None = STATES) -> DraftTree:
    """A random tree after so many expansions."""
    grown = DraftTree(batch, WIDTH, 4, 30, torch.device("cpu"))
    grown.begin(torch.zeros(batch, dtype=torch.int64), torch.arange(100, 100 + batch, dtype=torch.int32))
    grown.levels = depth + 1
    grown.scores[:] = -6 * torch.rand(grown.scores.shape)
    grown.root_states = None if states is None else torch.randn(batch, 1, states)
    return grown


def looked_up(grown: DraftTree) -> DraftTree:
    """The same tree, where the text was looked up too."""
    batch, features = len(grown.roots), 5 * torch.randn(len(grown.roots), TEXT_FEATURES)
    none, scores = torch.zeros(batch, 0, dtype=torch.int32), torch.zeros(batch, 0)
    counts = torch.zeros(batch, dtype=torch.int32)
    grown.text = TextCandidates(none.long(), none, scores, scores.clone(), counts, [0] * batch, features, none)
    return grown


def expected_actions(network: Network, grown: DraftTree, depth: int) -> list[int]:
    assert isinstance(network.layout, Summary)
    scores, states = grown.scores[:, : grown.candidates], grown.root_states
    text = grown.text.features if network.layout.text and grown.text is not None else None
    built = network.layout.build(
        scores, grown.newest_from, grown.lengths, depth, None if states is None else states[:, 0], text
    )
    return torch.addmm(network.weights[1], built, network.weights[0].T).argmax(1).tolist()


def learned(**changes: Any) -> Learned:
    parts: dict[str, Any] = {
        "made_for": Setting(WIDTH),
        "depth_limit": 4,
        "sizes": (2, 4, 8),
        "depth_network": random_network(LAYOUT, 2, 0),
        "size_network": random_network(LAYOUT, 3, 1),
    }
    return Learned(**{**parts, **changes})


def test_summaries_show_scores_and_states() -> None:
    torch.manual_seed(0)
    policy = learned()
    call = policy.start(2)
    assert policy.depth_network is not None and policy.size_network is not None
    assert call.speculate(torch.tensor([5, 6]), [1, 1])
    seen: set[tuple[Any, ...]] = set()
    for cycle in range(60):
        depth = cycle % 5
        grown = tree(depth)
        goes = sorted(expected_actions(policy.depth_network, grown, depth))[1] == 1
        step = sorted(expected_actions(policy.size_network, grown, depth))[1]
        assert call.continue_drafting(grown, depth) == goes
        assert call.choose_size(grown, depth) == policy.sizes[step]
        seen.add((goes, step))
        call.speculate(torch.tensor([5, 6]), [1 + cycle % 3, 1 + cycle % 4])
    assert len(seen) > 3


def test_the_prefill_and_plain_cycles_say_nothing_of_the_draft() -> None:
    call = learned(costs=Costs(100.0, 0.0, (1.0, 1.0, 1.0))).start(1)
    assert call.speculate(torch.tensor([5]), [1]) and call.allowance.balance == CREDIT
    call.choose_size(tree(0, batch=1), 0)
    assert not call.speculate(torch.tensor([5]), [3])  # it cost 101
    after = call.allowance.balance
    assert after == pytest.approx(CREDIT + 3 * (1 + SHARE) - 101)
    for _ in range(5):
        assert not call.speculate(torch.tensor([5]), [1])
    assert call.allowance.balance == pytest.approx(after + 5 * SHARE)


def test_the_cost_is_that_of_what_was_decided_and_the_gain_the_mean() -> None:
    policy = learned(costs=Costs(0.5, 0.25, (1.0, 2.0, 3.0)))
    call = policy.start(2)
    for depth, gained in ((0, [1, 2]), (3, [4, 1])):
        call.speculate(torch.tensor([5, 6]), [1, 1])
        step = policy.sizes.index(call.choose_size(tree(depth), depth))
        call.allowance.balance = 0.0
        call.speculate(torch.tensor([5, 6]), gained)
        assert call.allowance.balance == pytest.approx(1.01 * sum(gained) / 2 - 0.5 - 0.25 * depth - 1.0 - step)


def test_what_drafting_lost_counts_in_later_calls_too() -> None:
    policy = learned(costs=Costs(5.0, 0.0, (1.0, 1.0, 1.0)))
    cycles = 0
    while (call := policy.start(1)).speculate(torch.tensor([5]), [1]):
        call.choose_size(tree(0, 1), 0)
        call.speculate(torch.tensor([6]), [1])
        cycles += 1
    assert cycles == 1  # it cost more than the credit
    assert replace(policy).start(1).speculate(torch.tensor([5]), [1])


def test_every_call_begins_anew_and_keeps_the_rows_that_stay() -> None:
    policy = learned()
    call = policy.start(3)
    call.speculate(torch.tensor([5, 6, 7]), [1, 1, 1])
    call.choose_size(tree(0, batch=3), 0)
    call.keep([0, 2])
    call.speculate(torch.tensor([5, 7]), [2, 5])
    assert call.choose_size(tree(0), 0) in policy.sizes
    assert policy.start(1) is not policy.start(1)


def test_no_states() -> None:
    bare = random_network(Summary(best=5, newest=2), 3, 2)
    call = learned(size_network=bare, depth_network=None).start(2)
    assert call.choose_size(tree(1, states=None), 1) in (2, 4, 8)


@pytest.mark.parametrize("make", [asking._direct_asker, asking._operator_asker])
def test_states_are_worked_out_once_a_cycle(make: Callable[..., asking.Asker]) -> None:
    """And again when the tree has others, were they in the same memory."""
    torch.manual_seed(3)
    network = random_network(LAYOUT, 3, 1)
    network.weights[0][:, : LAYOUT.width - STATES] = 0.0  # reads nothing else
    weights = torch.cat([tensor.flatten() for tensor in network.weights])
    ask = make(LAYOUT, weights, [], [3], False, *([1] if make is asking._operator_asker else []))
    grown, answers = tree(0, 1), set()
    assert grown.root_states is not None
    for _ in range(40):
        grown.root_states = grown.root_states.copy_(torch.randn(1, 1, STATES))
        said = ask(grown, 0)
        assert said == (0, expected_actions(network, grown, 0)[0])
        grown.root_states.fill_(float("nan"))  # nobody looks
        assert ask(grown, 0) == said
        other = tree(0, 1)
        assert ask(other, 0) == (0, expected_actions(network, other, 0)[0])
        answers.add(said)
    assert len(answers) > 1


def count_questions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Depths at which policies that start from now on ask."""
    depths: list[int] = []

    class Counting:
        def __init__(self, *arguments: Any) -> None:
            self.asker = SummaryAsker(*arguments)

        def ask(self, *question: Any) -> tuple[int, int]:
            depths.append(question[4])
            return self.asker.ask(*question)

    monkeypatch.setattr(asking, "SummaryAsker", Counting)
    return depths


def both_askers(layout: Summary, batch: int) -> tuple[tuple[Network, Network], asking.Asker, asking.Asker]:
    """Random networks for depth and size; what asks them directly, and what does by the operator."""
    torch.manual_seed(batch)
    networks = random_network(layout, 2, 0), random_network(layout, 3, 1)
    weights = torch.cat([tensor.flatten() for network in networks for tensor in network.weights])
    direct = asking._direct_asker(layout, weights, [2], [3], False)
    return networks, direct, asking._operator_asker(layout, weights, [2], [3], False, batch)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_the_operator_answers_as_the_asker_does(batch: int) -> None:
    """For devices that have no asker."""
    _, direct, operator = both_askers(LAYOUT, batch)
    answers = set()
    for cycle in range(40):
        grown = tree(cycle % 5, batch)
        assert direct(grown, cycle % 5) == operator(grown, cycle % 5)
        answers.add(direct(grown, cycle % 5))
    assert len(answers) > 2


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_networks_that_read_the_text_are_asked_before_drafting_too(batch: int) -> None:
    """The operator and the asker answer what the networks say, also where the draft has no state to show yet."""
    networks, direct, operator = both_askers(TEXT_LAYOUT, batch)
    answers = set()
    for cycle in range(60):
        depth = cycle % 6 - 1
        grown = looked_up(tree(depth, batch, STATES if depth >= 0 else None))
        said = tuple(asking.upper_median(expected_actions(network, grown, depth)) for network in networks)
        assert direct(grown, depth) == operator(grown, depth) == said
        answers.add((depth, said))
    assert len([said for depth, said in answers if depth < 0]) > 1 and len({said for _, said in answers}) > 2


def test_a_policy_that_reads_the_text_says_where_there_is_none() -> None:
    networks = random_network(TEXT_LAYOUT, 2, 0), random_network(TEXT_LAYOUT, 3, 1)
    call = learned(depth_network=networks[0], size_network=networks[1], max_text=8).start(2)
    with pytest.raises(ltd.InputError, match="reads what the text itself proposes, but nothing was looked up"):
        call.continue_drafting(tree(1), 1)


def at_length(grown: DraftTree, length: int) -> DraftTree:
    """The same tree behind contexts of this length."""
    grown.lengths = torch.full_like(grown.lengths, length)
    return grown


@pytest.mark.parametrize("of_summaries", [True, False])
def test_lengths_beyond_the_range_are_its_ends(of_summaries: bool) -> None:
    """Policies and what asks for them on other devices; of networks that read little but the length."""
    torch.manual_seed(0)
    layouts = (LAYOUT, LAYOUT) if of_summaries else (depth_layout(WIDTH), size_layout(WIDTH, 4))

    def decide(grown: DraftTree, depth: int, length_range: tuple[int, int]) -> list[tuple[Any, ...]]:
        ranged = [replace(layout, length_range=length_range) for layout in layouts]
        depth_network, size_network = (random_network(ranged[place], 2 + place, 5 + place) for place in (0, 1))
        call = learned(depth_network=depth_network, size_network=size_network).start(2)
        decided: list[tuple[Any, ...]] = [(call.continue_drafting(grown, depth), call.choose_size(grown, depth))]
        if of_summaries:
            weights = torch.cat([tensor.flatten() for net in (depth_network, size_network) for tensor in net.weights])
            assert isinstance(ranged[0], Summary)
            decided.append(asking._operator_asker(ranged[0], weights, [2], [3], False, 2)(grown, depth))
        return decided

    differs = False
    for cycle in range(20):
        depth = cycle % 5
        grown = tree(depth)
        for far, end in ((3, 100), (10**6, 5000)):
            seen = decide(at_length(grown, far), depth, (100, 5000))
            assert seen == decide(at_length(grown, end), depth, (100, 5000))
            assert seen == decide(at_length(grown, end), depth, ANY_LENGTH)
            differs |= seen != decide(at_length(grown, far), depth, ANY_LENGTH)
    assert differs


def test_a_cycle_asks_once_per_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the network stops drafting, it has said the size; at the limit it is asked for it, and after any doubt."""
    stop_at = torch.zeros(2, LAYOUT.width)
    stop_at[0, 2 * LAYOUT.ranked + 3 + 2] = 1.0  # the place of depth 2
    policy = learned(depth_network=Network(LAYOUT, (stop_at, torch.tensor([0.0, 0.5]))))
    assert policy.size_network is not None
    depths = count_questions(monkeypatch)
    call, trees = policy.start(1), [tree(depth, batch=1) for depth in range(5)]
    sizes = [policy.sizes[expected_actions(policy.size_network, trees[depth], depth)[0]] for depth in (2, 4)]
    call.speculate(torch.tensor([5]), [1])
    assert [call.continue_drafting(trees[depth], depth) for depth in range(3)] == [True, True, False]
    assert call.choose_size(trees[2], 2) == sizes[0] and depths == [0, 1, 2]
    assert call.choose_size(trees[2], 2) == sizes[0] and depths == [0, 1, 2, 2]  # it does not take old answers
    call.continue_drafting(trees[2], 2)
    assert call.choose_size(trees[4], 4) == sizes[1] and depths == [0, 1, 2, 2, 2, 4]
    call.continue_drafting(trees[2], 2)
    call.speculate(torch.tensor([5]), [1])
    assert call.choose_size(trees[2], 2) == sizes[0] and depths[-2:] == [2, 2]  # nor those of the cycle before


@pytest.mark.parametrize(
    "size",
    [
        random_network(replace(LAYOUT, newest=3), 3, 1),
        random_network(replace(LAYOUT, length_range=(0, 50)), 3, 1),
        Network(LAYOUT, random_network(LAYOUT, 3, 1).weights, "tanh"),
        Network(size_layout(WIDTH, 4), (torch.randn(3, size_layout(WIDTH, 4).width), torch.zeros(3))),
    ],
)
def test_networks_that_read_otherwise_are_asked_apart(size: Network) -> None:
    """As by two policies that have but one network each."""
    torch.manual_seed(1)
    both, alone = learned(size_network=size).start(2), learned(depth_network=None, size_network=size).start(2)
    depth_alone = learned(size_network=None, sizes=(2,)).start(2)
    seen = set()
    for cycle in range(60):
        depth = cycle % 5
        grown = tree(depth)
        for call in (both, alone, depth_alone):
            call.speculate(torch.tensor([5, 6]), [1, 2])
        goes, chosen = both.continue_drafting(grown, depth), both.choose_size(grown, depth)
        assert goes == depth_alone.continue_drafting(grown, depth) and alone.continue_drafting(grown, depth)
        assert chosen == alone.choose_size(grown, depth) and depth_alone.choose_size(grown, depth) == 2
        seen.add((goes, chosen))
    assert len(seen) > 1


@pytest.mark.parametrize(("states", "message"), [(STATES + 1, "has 5"), (None, "has none")])
def test_other_states_than_the_policy_reads(states: int | None, message: str) -> None:
    with pytest.raises(ltd.InputError, match=f"reads 4 numbers of the draft's state, but this draft {message}"):
        learned().start(2).choose_size(tree(1, states=states), 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth_network": random_network(LAYOUT, 3, 0)}, "depth network has 3 outputs; it must have 2"),
        ({"costs": Costs(1.0, 1.0, (1.0, 1.0))}, "costs of 2 sizes, but the size ladder holds 3"),
    ],
)
def test_parts_that_do_not_go_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ltd.InputError, match=message):
        learned(**changes)


@pytest.mark.parametrize("costs", [None, Costs(0.3, 0.1, (1.0, 1.2, 1.5))])
def test_any_summary_leaves_the_text_as_it_is(tiny_target: Folder, tiny_head: Folder, costs: Costs | None) -> None:
    """Batches that shrink, too."""
    decoder = load(tiny_target("llama"), tiny_head("llama"), dtype="float32", device="cpu")
    prompts, layout = [[5, 9, 33, 60], [7, 8, 9], [4]], Summary(best=24, newest=8, states=32)
    options: dict[str, Any] = {"max_new_tokens": 30, "stop_token_ids": [11, 12, 13, 14]}
    plain = [answer.token_ids for answer in decoder.generate(prompts, policy="none", **options)]
    for seed in range(4):
        depth, size = random_network(layout, 2, seed), random_network(layout, 3, seed + 10)
        policy = Learned(Setting(10), 5, (0, 7, 30), depth, size, costs=costs)
        answers = decoder.generate(prompts, policy=policy, **options)
        assert [answer.token_ids for answer in answers] == plain
    assert decoder.draft.state_size == 32  # which the networks read


def test_a_static_policy_keeps_nothing() -> None:
    policy = ltd.Static(2, 8)
    assert policy.start(3) is policy and policy.keep([1]) is None and isinstance(learned().start(1), LearnedCall)


@pytest.mark.parametrize(
    "layouts", [(LAYOUT, LAYOUT), (depth_layout(WIDTH), size_layout(WIDTH, 4))], ids=["own", "paper"]
)
def test_networks_are_asked_on_the_device_of_the_tree(layouts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever made the policy, and wherever its weights were read to."""
    seen: list[str] = []

    def at_once(*arguments: Any) -> Any:
        given = [each for part in arguments for each in (part if isinstance(part, list | tuple) else [part])]
        seen.extend(each.device.type for each in given if isinstance(each, torch.Tensor))
        return torch.zeros(2, dtype=torch.int64)

    def asker(*arguments: Any) -> Any:
        at_once(*arguments)
        return lambda tree, depth: (0, 0)

    monkeypatch.setattr(asking, "_operator_asker", asker)
    for name in ("depth_action", "size_action"):
        monkeypatch.setattr(asking.ops, name, at_once)
    networks = [random_network(layout, outputs, outputs) for layout, outputs in zip(layouts, (2, 3), strict=True)]
    policy = Learned(Setting(WIDTH), 4, (2, 5, 9), *networks)
    grown = DraftTree(2, WIDTH, 4, 30, torch.device("meta"))
    grown.begin(torch.zeros(2, dtype=torch.int64, device="meta"), torch.zeros(2, dtype=torch.int32, device="meta"))
    call = policy.start(2)
    call.continue_drafting(grown, 0)
    call.choose_size(grown, 0)
    assert set(seen) == {"meta"}
    assert all(weight.is_cpu for network in networks for weight in network.weights)
