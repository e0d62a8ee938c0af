"""summary_decision against the observation that training builds, and that one against a plain reference."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from length_ranges import length_ranges
from op_cases import DTYPES, every_kernel, strided
from operator_reference import nearest, network, summary

from ltd import ops
from ltd._C import SummaryAsker
from ltd.errors import InputError
from ltd.policies.learned.observation import Summary
from random_weights import random_weights


@st.composite
def cases(draw):
    """Layout, scores, newest_from, lengths, depth, states, text; before anything is drafted, states of NaN."""
    sizes = draw(st.integers(1, 64)), draw(st.integers(1, 64)), draw(st.sampled_from([0, 1, 5, 16, 37]))
    layout = Summary(*sizes, draw(length_ranges), draw(st.sampled_from([0, 24])))
    depth = draw(st.sampled_from([-1] * 6 + [*range(13)])) if layout.text else draw(st.integers(0, 12))
    batch, count = draw(st.integers(1, 3)), draw(st.integers(0, 150)) if depth >= 0 else 0
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scores = -25 * torch.rand(batch, count, generator=generator)
    if draw(st.booleans()):
        scores = scores.round()  # ties
    for value in (-math.inf, math.nan, -1e9):
        scores[torch.rand(batch, count, generator=generator) < 0.05] = value
    lengths = torch.randint(0, 4000, (batch,), generator=generator).int()
    state_values = (5 * torch.randn(batch, 1, layout.states, generator=generator)).to(draw(st.sampled_from(DTYPES)))
    if depth < 0:
        state_values.fill_(math.nan)
    text = 3 * torch.randn(batch, layout.text, generator=generator)
    if draw(st.booleans()):
        scores, state_values, text = strided(scores), strided(state_values), strided(text)
    return layout, scores, draw(st.integers(0, count)), lengths, depth, state_values, text if layout.text else None


def decision(case, depth_weights=(), size_weights=(), uses_tanh=False):
    """int32 (B, 2), from a buffer that has room for more scores, full of the best."""
    layout, scores, newest_from, lengths, depth, states, text = case
    buffer = torch.cat([scores, torch.zeros(len(scores), 5)], dim=1)
    actions = strided(torch.full((len(scores), 2), -7, dtype=torch.int32))
    ops.summary_decision(
        buffer,
        scores.shape[1],
        newest_from,
        lengths,
        depth,
        layout.best,
        layout.newest,
        states if layout.states else None,
        text,
        flat([*depth_weights, *size_weights]),
        outputs_of(depth_weights),
        outputs_of(size_weights),
        uses_tanh,
        actions,
        *layout.length_range,
    )
    return actions


def flat(weights):
    """All in one tensor."""
    return torch.cat([torch.zeros(0), *(weight.flatten() for weight in weights)])


def outputs_of(weights):
    """How many outputs every layer has."""
    return [len(bias) for bias in weights[1::2]]


def action(case, weights, uses_tanh=False):
    """int32 (B,): a network's actions, whichever of the two it is."""
    as_depth, as_size = decision(case, weights, (), uses_tanh), decision(case, (), weights, uses_tanh)
    assert torch.equal(as_depth, as_size.flip(1)) and not as_depth[:, 1].any()
    return as_depth[:, 0]


def check(case, weights, uses_tanh=False):
    """The action has the largest output for the builder's observation, up to float32 rounding."""
    layout, scores, newest_from, lengths, depth, states, text = case
    built = layout.build(scores, newest_from, lengths, depth, states[:, 0], text)
    for _ in every_kernel():
        actions = action(case, weights, uses_tanh)
        assert actions.dtype == torch.int32
        for b, chosen in enumerate(actions.tolist()):
            outputs = network(built[b].double(), weights, uses_tanh)
            assert outputs[chosen] >= outputs.max() - 1e-4 * (1 + outputs.abs().max())


@settings(max_examples=60)
@given(case=cases())
def test_the_builder_is_the_reference(case):
    layout, scores, newest_from, lengths, depth, states, text = case
    built = layout.build(scores, newest_from, lengths, depth, states[:, 0], text).double()
    for b, length in enumerate(lengths.tolist()):
        shown = nearest(length, layout.length_range)
        expected = summary(scores[b].tolist(), newest_from, layout.best, layout.newest, shown, depth)
        state = states[b, 0].double() if depth >= 0 else torch.zeros(layout.states, dtype=torch.float64)
        normal = state / (state.square().mean() + 1e-6).sqrt()
        features = torch.zeros(0) if text is None else text[b]
        torch.testing.assert_close(built[b], torch.cat([expected, normal, features.double()]), rtol=1e-5, atol=1e-6)


@settings(max_examples=80)
@given(case=cases(), data=st.data())
def test_the_operator_sees_the_builders_numbers(case, data):
    """A network that asks whether number i is above a threshold: one a bit below it is, one a bit above is not.

    What takes no sum and no exponential is the same to the last bit.
    """
    layout, scores, newest_from, lengths, depth, states, text = case
    built = layout.build(scores, newest_from, lengths, depth, states[:, 0], text)
    place, row = data.draw(st.integers(0, layout.width - 1)), data.draw(st.integers(0, len(scores) - 1))
    value, exact_until, exact_from = built[row, place], layout.ranked, 2 * layout.ranked + 2
    in_state = layout.width - layout.text - layout.states <= place < layout.width - layout.text
    exact = place < exact_until or (exact_from <= place and not in_state)
    above, below = torch.nextafter(value, torch.tensor(math.inf)), torch.nextafter(value, torch.tensor(-math.inf))
    if not exact:
        above, below = value + 1e-5 * (value.abs() + 1e-3), value - 1e-5 * (value.abs() + 1e-3)
    weight = torch.zeros(2, layout.width)
    weight[1, place] = 1.0
    for threshold, wanted in ((above, 0), (below, 1)):
        for _ in every_kernel():
            assert action(case, [weight, torch.stack([threshold, torch.tensor(0.0)])])[row] == wanted


@settings(max_examples=60)
@given(
    case=cases(),
    hidden=st.lists(st.integers(1, 70), max_size=3),
    actions=st.integers(1, 24),
    uses_tanh=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_action_is_the_networks_largest_output(case, hidden, actions, uses_tanh, seed):
    weights = random_weights([case[0].width, *hidden, actions], torch.Generator().manual_seed(seed))
    check(case, weights, uses_tanh)


@settings(max_examples=40)
@given(
    case=cases(),
    hidden=st.lists(st.lists(st.integers(1, 70), max_size=3), min_size=2, max_size=2),
    uses_tanh=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_both_at_once_are_each_alone(case, hidden, uses_tanh, seed):
    """With networks of different sizes and numbers of layers."""
    generator = torch.Generator().manual_seed(seed)
    depth, size = (
        random_weights([case[0].width, *layers, outputs], generator)
        for layers, outputs in zip(hidden, (2, 12), strict=True)
    )
    for _ in every_kernel():
        both = decision(case, depth, size, uses_tanh)
        assert torch.equal(both[:, 0], action(case, depth, uses_tanh))
        assert torch.equal(both[:, 1], action(case, size, uses_tanh))


def test_without_networks_the_actions_are_0():
    case = (Summary(2, 1), torch.zeros(2, 2), 0, torch.zeros(2, dtype=torch.int32), 0, None, None)
    assert decision(case).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("order", ["random", "ascending", "descending", "equal"])
@pytest.mark.parametrize("count", [0, 1, 10, 1210, 2048])
def test_as_many_scores_as_there_can_be(count, order):
    """With a network as large as the default's, and the longest rankings."""
    generator = torch.Generator().manual_seed(count)
    scores = -12 * torch.rand(1, count, generator=generator)
    if order == "equal":
        scores = torch.full((1, count), -3.0)
    elif order != "random":
        scores = scores.sort(descending=order == "descending").values
    lengths = torch.tensor([700], dtype=torch.int32)
    states = torch.randn(1, 1, 576, generator=generator).bfloat16()
    text = torch.randn(1, 24, generator=generator)
    for layout in (Summary(24, 8, 576), Summary(64, 64, 576), Summary(64, 64, 576, text=24)):
        weights = random_weights([layout.width, 64, 64, 24], generator)
        given = text if layout.text else None
        check((layout, scores, max(count - 256, 0), lengths, 7, states, given), weights)


def test_a_network_large_enough_for_two_threads():
    generator, layout = torch.Generator().manual_seed(0), Summary(24, 8, 576)
    weights = random_weights([layout.width, 512, 3], generator)
    lengths = torch.tensor([700, 3], dtype=torch.int32)
    scores, states = -12 * torch.rand(2, 110, generator=generator), torch.randn(2, 1, 576, generator=generator)
    check((layout, scores, 10, lengths, 1, states, None), weights, uses_tanh=True)


def test_ties_go_to_the_smallest_action():
    layout = Summary(2, 1)
    weights = [torch.zeros(5, layout.width), torch.tensor([0.0, 2.0, 1.0, 2.0, 2.0])]
    case = (layout, torch.zeros(1, 2), 0, torch.zeros(1, dtype=torch.int32), 0, None, None)
    assert action(case, weights).tolist() == [1]


def bad_call(**changes):
    arguments = {
        "scores": torch.zeros(1, 5),
        "count": 3,
        "newest_from": 1,
        "lengths": torch.zeros(1, dtype=torch.int32),
        "depth": 2,
        "best": 2,
        "newest": 1,
        "states": torch.zeros(1, 1, 4).half(),
        "text": None,
        "weights": torch.zeros(27 * 2 + 27 * 6 + 7 * 3),  # an observation of 26 numbers
        "depth_layers": [2],
        "size_layers": [6, 3],
        "uses_tanh": False,
        "actions": torch.zeros(1, 2, dtype=torch.int32),
    }
    ops.summary_decision(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 13}, "depth must be 0 to 12, but is 13"),
        ({"depth": -1}, "depth must be 0 to 12, but is -1"),
        ({"count": 6}, "count must be 0 to 5, but is 6"),
        ({"count": -1}, "count must be 0 to 5, but is -1"),
        ({"newest_from": 4}, "newest_from must be 0 to 3, but is 4"),
        ({"best": 0}, "best must be 1 to 64, but is 0"),
        ({"newest": 65}, "newest must be 1 to 64, but is 65"),
        ({"best": 3}, r"weights must hold all layers, but end before those of size_layers = \[6, 3\]"),
        ({"states": None}, "weights must be those of all layers, but 32 of 237 are left"),
        ({"states": torch.zeros(1, 4)}, "states must have 3 dimensions"),
        ({"states": torch.zeros(1, 2, 4)}, "states must have size 1 in dimension 1"),
        ({"states": torch.zeros(1, 1, 4).double()}, "states must be of type Float, Half or BFloat16, but is Double"),
        ({"states": torch.zeros(1, 1, 8)[:, :, ::2]}, "states must be contiguous in its last dimension"),
        ({"weights": torch.zeros(0)}, r"weights must hold all layers, but end before those of depth_layers = \[2\]"),
        ({"weights": torch.zeros(237).double()}, "weights must be of type Float, but is Double"),
        ({"weights": torch.zeros(1, 237)}, "weights must have 1 dimensions"),
        ({"weights": torch.zeros(474)[::2]}, "weights must be contiguous in its last dimension"),
        ({"depth_layers": [0]}, r"depth_layers must be 1 to 1048576, but are \[0\]"),
        ({"size_layers": [6, 2**62]}, "size_layers must be 1 to 1048576"),
        ({"size_layers": [1] * 9}, "size_layers must be at most 8 numbers"),
        ({"actions": torch.zeros(1, 3, dtype=torch.int32)}, "actions must have size 2 in dimension 1"),
        ({"actions": torch.zeros(1, 2)}, "actions must be of type Int, but is Float"),
        ({"lengths": torch.zeros(2, dtype=torch.int32)}, "lengths must have size 1 in dimension 0"),
        ({"scores": torch.zeros(3)}, "scores must have 2 dimensions"),
        ({"scores": torch.zeros(1, 5).half()}, "scores must be of type Float, but is Half"),
        ({"shortest": -1}, "shortest must be 0 to 2147483647, but is -1"),
        ({"shortest": 9, "longest": 8}, "shortest must be 0 to 8, but is 9"),
        ({"longest": 2**31}, "longest must be 0 to 2147483647, but is 2147483648"),
    ],
)
def test_bad_input_is_named(changes, message):
    bad_call()
    with pytest.raises(InputError, match=message):
        bad_call(**changes)


WITH_TEXT = {"text": torch.zeros(1, 24), "weights": torch.zeros(51 * 2 + 51 * 6 + 7 * 3)}
UNDRAFTED = {"depth": -1, "count": 0, "newest_from": 0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": -2, "count": 0, "newest_from": 0}, "depth must be -1 to 12, but is -2"),
        ({"depth": 13}, "depth must be -1 to 12, but is 13"),
        ({"depth": -1}, "count must be 0 at depth -1, where nothing is drafted yet, but is 3"),
        ({**UNDRAFTED, "text": None, "weights": torch.zeros(237)}, "depth must be 0 to 12, but is -1"),
        ({**UNDRAFTED, "states": torch.zeros(1, 1, 4).double()}, "states must be of type Float, Half or BFloat16"),
        ({**UNDRAFTED, "states": None}, r"weights must be those of all layers, but 32 of 429 are left"),
        ({"text": None}, "weights must be those of all layers, but 192 of 429 are left"),
        ({"text": torch.zeros(1, 23)}, "text must have size 24 in dimension 1"),
        ({"text": torch.zeros(2, 24)}, "text must have size 1 in dimension 0"),
        ({"text": torch.zeros(24)}, "text must have 2 dimensions"),
        ({"text": torch.zeros(1, 24).half()}, "text must be of type Float, but is Half"),
        ({"text": torch.zeros(1, 48)[:, ::2]}, "text must be contiguous in its last dimension"),
    ],
)
def test_bad_input_about_the_text_is_named(changes, message):
    bad_call(**WITH_TEXT)
    bad_call(**WITH_TEXT, **UNDRAFTED)
    with pytest.raises(InputError, match=message):
        bad_call(**{**WITH_TEXT, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": -1}, "there are 5 scores at depth -1, where nothing is drafted yet; give none"),
        ({"depth": -2}, "depth -2 or newest level from 1 of 5 is out of range"),
        ({"depth": 13}, "depth 13 or newest level from 1 of 5 is out of range"),
        ({"newest_from": 6}, "depth 2 or newest level from 6 of 5 is out of range"),
        ({"states": None}, r"states \(2, 0\) do not fit; they must be \(2, 4\)"),
        ({"states": torch.zeros(2, 5)}, r"states \(2, 5\) do not fit; they must be \(2, 4\)"),
        ({"text": None}, r"features of the text \(2, 0\) do not fit; they must be \(2, 24\)"),
        ({"text": torch.zeros(1, 24)}, r"features of the text \(1, 24\) do not fit; they must be \(2, 24\)"),
    ],
)
def test_what_the_builder_refuses(changes, message):
    layout, scores = Summary(2, 1, 4, text=24), torch.zeros(2, 5)
    given = {"newest_from": 1, "depth": 2, "states": torch.zeros(2, 4), "text": torch.zeros(2, 24)}
    build = lambda **arguments: layout.build(scores, lengths=[5, 6], **arguments)  # noqa: E731
    assert build(**given).shape == (2, layout.width)
    with pytest.raises(InputError, match=message):
        build(**{**given, **changes})


def test_without_the_text_there_is_nothing_to_see_before_drafting():
    with pytest.raises(InputError, match="depth -1 or newest level from 0 of 0 is out of range"):
        Summary(2, 1).build(torch.zeros(1, 0), 0, 5, -1, None)
    with pytest.raises(InputError, match=r"features of the text \(1, 24\) do not fit; they must be \(1, 0\)"):
        Summary(2, 1).build(torch.zeros(1, 0), 0, 5, 0, None, torch.zeros(1, 24))
    with pytest.raises(InputError, match="a summary of 23 numbers of the text cannot be; there are 24, or 0"):
        Summary(2, 1, text=23)


def upper_medians(actions):
    """Of each column."""
    return tuple(sorted(column)[len(column) // 2] for column in zip(*actions.tolist(), strict=True))


def asker(layout, depth_weights=(), size_weights=(), uses_tanh=False):
    layers = outputs_of(depth_weights), outputs_of(size_weights)
    numbers = layout.best, layout.newest, layout.states
    weights = flat([*depth_weights, *size_weights])
    return SummaryAsker(weights, *layers, *numbers, uses_tanh, *layout.length_range, layout.text)


@settings(max_examples=60)
@given(
    questions=st.lists(cases(), min_size=1, max_size=3),
    hidden=st.lists(st.none() | st.lists(st.integers(1, 70), max_size=3), min_size=2, max_size=2),
    uses_tanh=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_the_asker_says_what_the_operator_says(questions, hidden, uses_tanh, seed):
    """With either network, with both and with none; asked again, too, for another batch and a tree of another size, or
    before anything is drafted, where it looks at no states."""
    layout, generator = questions[0][0], torch.Generator().manual_seed(seed)
    depth, size = (
        () if layers is None else random_weights([layout.width, *layers, outputs], generator)
        for layers, outputs in zip(hidden, (2, 12), strict=True)
    )
    for _ in every_kernel():
        asks = asker(layout, depth, size, uses_tanh)
        for _, scores, newest_from, lengths, at, states, _ in questions:
            at = at if layout.text else max(at, 0)
            states = torch.linspace(-1, 2, layout.states, dtype=states.dtype).repeat(len(scores), 1, 1)
            text = torch.linspace(-2, 1, 24).repeat(len(scores), 1) if layout.text else None
            case = (layout, scores, newest_from, lengths, at, states, text)
            given = states if layout.states and at >= 0 else None
            answer = asks.ask(scores, scores.shape[1], newest_from, lengths, at, given, text)
            assert answer == upper_medians(decision(case, depth, size, uses_tanh))


@settings(max_examples=30)
@given(case=cases(), seed=st.integers(0, 2**31))
def test_the_asker_takes_every_layout_and_keeps_its_weights(case, seed):
    layout, scores, newest_from, lengths, at, states, text = case
    weights = random_weights([layout.width, 9, 5], torch.Generator().manual_seed(seed))
    expected = upper_medians(decision(case, (), weights))
    given = flat(weights)
    sizes = layout.best, layout.newest, layout.states
    asks = SummaryAsker(given, [], outputs_of(weights), *sizes, False, *layout.length_range, layout.text)
    given.zero_()
    question = (
        torch.cat([scores, torch.zeros(len(scores), 5)], dim=1),
        scores.shape[1],
        newest_from,
        lengths,
        at,
        states,
        text,
    )
    assert asks.ask(*question) == expected == asks.ask(*question)


@settings(max_examples=40)
@given(
    case=cases(),
    hidden=st.lists(st.none() | st.lists(st.integers(1, 70), max_size=2), min_size=2, max_size=2),
    seed=st.integers(0, 2**31),
)
def test_the_state_may_be_summed_before_to_the_last_bit(case, hidden, seed):
    """What `summary_state` says is each first layer's share, and with it the states are not read."""
    layout, scores, newest_from, lengths, at, states, text = case
    generator = torch.Generator().manual_seed(seed)
    states = states.nan_to_num(1.0)
    case = (layout, scores, newest_from, lengths, at, states, text)
    depth, size = (
        () if layers is None else random_weights([layout.width, *layers, outputs], generator)
        for layers, outputs in zip(hidden, (2, 12), strict=True)
    )
    weights, layers = flat([*depth, *size]), (outputs_of(depth), outputs_of(size))
    columns = slice(layout.width - layout.text - layout.states, layout.width - layout.text)
    first = [network[:2] for network in (depth, size) if network]
    normal = states[:, 0].double()
    normal = normal / (normal.square().mean(1, keepdim=True) + 1e-6).sqrt()
    wanted = [bias.double() + normal @ weight[:, columns].double().T for weight, bias in first]
    if not layout.states:
        wanted = [bias.double().expand(len(scores), -1) for _, bias in first]
    expected = torch.cat([torch.zeros(len(scores), 0, dtype=torch.float64), *wanted], dim=1)
    for kernel in every_kernel():
        sums = ops.summary_state(states, weights, *layers, layout.best, layout.newest, layout.text > 0)
        torch.testing.assert_close(sums.double(), expected, rtol=1e-5, atol=1e-5)
        actions = torch.full((len(scores), 2), -7, dtype=torch.int32)
        ranked = layout.best, layout.newest
        given = torch.full_like(states, math.nan)
        rest = text, weights, *layers, False, actions, *layout.length_range
        ops.summary_decision(scores, scores.shape[1], newest_from, lengths, at, *ranked, given, *rest, sums)
        assert torch.equal(actions, decision(case, depth, size)), kernel


def test_a_summed_state_decides():
    """The sums are taken as they are given, not only believed to be those of the states."""
    weights = [torch.zeros(3, LAYOUT.width), torch.zeros(3)]
    for _ in every_kernel():
        for best in range(3):
            actions, sums = torch.zeros(1, 2, dtype=torch.int32), torch.zeros(1, 3)
            sums[0, best] = 1.0
            scores, lengths, states = torch.zeros(1, 0), torch.zeros(1).int(), torch.zeros(1, 1, 4)
            networks = flat(weights), [], [3], False
            ops.summary_decision(scores, 0, 0, lengths, 1, 2, 1, states, None, *networks, actions, 5, 600, sums)
            assert actions.tolist() == [[0, best]]


def test_an_asker_remembers_what_the_networks_make_of_the_states():
    """None is the states before, whatever has become of them; of another batch there are none."""
    random = torch.Generator().manual_seed(2)
    weights = [torch.randn(5, LAYOUT.width, generator=random), torch.zeros(5)]
    weights[0][:, 3 : LAYOUT.width - LAYOUT.states] = 0.0  # reads scores and states
    asks = asker(LAYOUT, (), weights)
    lengths, answers = torch.zeros(2).int(), set()
    for _ in range(20):
        states = 3 * torch.randn(2, 1, 4, generator=random)
        scores = -4 * torch.rand(2, 30, generator=random)
        answer = asks.ask(scores, 30, 10, lengths, 2, states)
        kept = states.clone()
        states.fill_(math.nan)
        other = -4 * torch.rand(2, 30, generator=random)
        assert asks.ask(scores, 30, 10, lengths, 2, None) == answer
        later = asks.ask(other, 30, 20, lengths, 3, None)
        assert later == asks.ask(other, 30, 20, lengths, 3, kept)
        answers |= {answer, later}
    assert len(answers) > 2
    with pytest.raises(InputError, match="states must be a tensor, as none of 1 sequences came before"):
        asks.ask(scores[:1], 30, 10, lengths[:1], 2, None)
    with pytest.raises(InputError, match="states must have size 4 in dimension 2"):
        asks.ask(scores, 30, 10, lengths, 2, torch.zeros(2, 1, 5))
    with pytest.raises(InputError, match="states must be a tensor, as none of 2 sequences came before"):
        asks.ask(scores, 30, 10, lengths, 2, None)


def without_memory(tensor):
    """The tensor, whose memory is given back."""
    tensor.untyped_storage().resize_(0)
    return tensor


LAYOUT = Summary(2, 1, 4)  # an observation of 26 numbers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"best": 0}, "best must be 1 to 64, but is 0"),
        ({"newest": 65}, "newest must be 1 to 64, but is 65"),
        ({"states": -1}, "states must be 0 to 1073741824, but is -1"),
        ({"text": 23}, "text must be 0 or 24, but is 23"),
        ({"text": 24}, "weights must hold all layers, but end before those of size_layers"),
        ({"shortest": 601}, "shortest must be 0 to 600, but is 601"),
        ({"longest": -1}, "longest must be 0 to 2147483647, but is -1"),
        ({"states": 3}, "weights must be those of all layers, but 8 of 237 are left"),
        ({"weights": torch.zeros(237).half()}, "weights must be of type Float, but is Half"),
        ({"weights": [0.0] * 237}, "weights must be a tensor"),
        (
            {"weights": torch.zeros(236)},
            r"weights must hold all layers, but end before those of size_layers = \[6, 3\]",
        ),
        ({"depth_layers": [0]}, r"depth_layers must be 1 to 1048576, but are \[0\]"),
        ({"states": 2**63 - 1}, "states must be 0 to 1073741824, but is 9223372036854775807"),
        ({"states": 2**62}, "states must be 0 to 1073741824"),
        ({"weights": without_memory(torch.zeros(253))}, "weights must lie within its memory"),
        ({"weights": torch.zeros(253, device="meta")}, "weights must be on the CPU"),
    ],
)
def test_no_asker_of_what_does_not_go_together(changes, message):
    arguments = {
        "weights": torch.zeros(27 * 2 + 27 * 6 + 7 * 3),
        "depth_layers": [2],
        "size_layers": [6, 3],
        "best": 2,
        "newest": 1,
        "states": 4,
        "uses_tanh": False,
        "shortest": 5,
        "longest": 600,
    }
    SummaryAsker(**arguments)
    with pytest.raises(InputError, match="summary_decision: " + message):
        SummaryAsker(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 13}, "depth must be 0 to 12, but is 13"),
        ({"count": 6}, "count must be 0 to 5, but is 6"),
        ({"newest_from": 4}, "newest_from must be 0 to 3, but is 4"),
        ({"states": None}, "states must be a tensor, as none of 1 sequences came before"),
        ({"states": torch.zeros(1, 1, 5)}, "states must have size 4 in dimension 2"),
        ({"states": torch.zeros(1, 1, 4).double()}, "states must be of type Float, Half or BFloat16, but is Double"),
        ({"lengths": torch.zeros(2, dtype=torch.int32)}, "lengths must have size 1 in dimension 0"),
        ({"lengths": [5]}, "lengths must be a tensor"),
        ({"scores": torch.zeros(1, 5, device="meta")}, "scores must be on the CPU"),
        ({"scores": torch.zeros(1, 10)[:, ::2]}, "scores must be contiguous in its last dimension"),
        ({"scores": without_memory(torch.zeros(1, 5))}, "scores must lie within its memory"),
        ({"scores": torch.zeros(1, 1).expand(1, 2**31), "count": 2**31}, "scores must have no size above 1073741824"),
        (
            {"scores": torch.zeros(0, 5), "lengths": torch.zeros(0).int(), "states": torch.zeros(0, 1, 4)},
            "scores must be of at least one sequence",
        ),
    ],
)
def test_a_bad_question_is_named_and_the_next_is_answered(changes, message):
    weights = [torch.zeros(3, 26), torch.tensor([0.0, 2.0, 1.0])]
    asks = asker(LAYOUT, (), weights)
    question = {
        "scores": torch.zeros(1, 5),
        "count": 3,
        "newest_from": 1,
        "lengths": torch.zeros(1, dtype=torch.int32),
        "depth": 2,
        "states": torch.zeros(1, 1, 4).half(),
    }
    with pytest.raises(InputError, match="summary_decision: " + message):
        asks.ask(**{**question, **changes})
    assert asks.ask(**question) == (0, 1)


def test_an_asker_that_reads_the_text_needs_it():
    layout = Summary(2, 1, 4, text=24)
    asks = asker(layout, (), [torch.zeros(3, layout.width), torch.tensor([0.0, 2.0, 1.0])])
    undrafted = torch.zeros(1, 0), 0, 0, torch.zeros(1, dtype=torch.int32), -1, None
    for text, message in ((None, "text must be a tensor"), (torch.zeros(1, 23), "text must have size 24")):
        with pytest.raises(InputError, match="summary_decision: " + message):
            asks.ask(*undrafted, text)
        assert asks.ask(*undrafted, torch.zeros(1, 24)) == (0, 1)
