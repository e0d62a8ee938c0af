"""What all operators refuse alike: sums that wrap, memory that is shared, on another device, or not there."""

from __future__ import annotations

import math

import pytest
import torch
from hostile_calls import beside, good_calls
from op_cases import BeamBuffers, every_cpu_kernel
from random_calls import Call
from torch import Tensor

from ltd import ops
from ltd.decoding.acceptance import Sampling
from ltd.errors import InputError

INT32, INT64 = 2**31 - 1, 2**63 - 1
CALLS = {call.name: call for call in good_calls(1)}


def schema(name: str):
    return getattr(torch.ops.ltd, name).default._schema.arguments


def call_with(name: str, **changes: object) -> Call:
    """A good call with arguments changed."""
    call = CALLS[name].on("cpu")
    places = [argument.name for argument in schema(name)]
    for argument, value in changes.items():
        call.arguments[places.index(argument)] = value
    return call


def argument_of(name: str, argument: str) -> object:
    given = dict(zip((known.name for known in schema(name)), CALLS[name].arguments, strict=False))
    return given.get(argument)  # what has a default may be left out


def refused(call: Call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call.run()


# --- numbers ---


@pytest.mark.parametrize("length", [INT32, INT32 - 1, 100_000])
@pytest.mark.parametrize("node", [INT32, 1, 8])
def test_rows_behind_a_prefix_are_counted_in_64_bits(length: int, node: int) -> None:
    keys = torch.zeros(1, 1, 1, 9, 2)
    path, gained = torch.tensor([[node]], dtype=torch.int32), torch.ones(1, dtype=torch.int32)
    with pytest.raises(InputError, match=rf"path\[0\] = {node} behind {length} prefix rows lies outside the 9 rows"):
        ops.commit_path(keys, keys.clone(), path, gained, torch.tensor([length], dtype=torch.int32))


@pytest.mark.parametrize("name", ["depth_action", "size_action"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repeats": 2**63 - 1}, "repeats must be 0 to"),
        ({"repeats": 2**62 + 14}, "repeats must be 0 to"),
        ({"repeats": 2**31 + 14}, "repeats must be 0 to"),
        ({"score_slots": 2**63 - 1}, "score_slots must be 0 to"),
        ({"score_slots": 2**32 + 1210, "repeats": 0}, "score_slots must be 0 to"),
    ],
)
def test_the_numbers_of_an_observation(name: str, changes: dict[str, int], message: str) -> None:
    refused(call_with(name, **changes), message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first_row": INT64}, "first_row must be 0 to 256"),
        ({"first_row": INT64 - 3}, "first_row must be 0 to 256"),
        ({"first_row": 2**32}, "first_row must be 0 to 256"),
        ({"first_row": -1}, "first_row must be 0 to 256"),
        ({"query_heads": 2**60 + 4}, "query_heads must be 1 to"),
        ({"query_heads": 2**32 + 4}, "query_heads must be 1 to"),
        ({"query_heads": 0}, "query_heads must be 1 to"),
        ({"intermediate": INT64}, "intermediate must be 1 to"),
        ({"vocabulary": 2**62}, "vocabulary must be 1 to"),
        ({"kept": 2**32}, "kept must be 0 to 4"),
        ({"masks": None, "positions": torch.full((2, 4), -(2**62))}, "with a window, positions must be 0 to"),
    ],
)
def test_the_numbers_of_a_forward(changes: dict[str, object], message: str) -> None:
    refused(call_with("forward_stack", **changes), message)


@pytest.mark.parametrize("outputs", [0, 2**31, 2**32 + 37, INT64])
def test_outputs_of_packed_weights(outputs: int) -> None:
    for name in ("unpack_rows", "linear"):
        refused(call_with(name, outputs=outputs), "outputs must be 1 to|packed must hold")


@pytest.mark.parametrize("window", [2**31, 2**32, 2**32 + 1, INT64])
def test_windows_wider_than_32_bits_hide_nothing(window: int) -> None:
    generator = torch.Generator().manual_seed(2)
    query, keys, values = (torch.randn(1, 1, n, 8, generator=generator) for n in (3, 9, 9))
    lengths, positions = torch.tensor([6], dtype=torch.int32), torch.tensor([[6, 7, 8]])
    masks = torch.tensor([[[1], [3], [7]]])
    for _ in every_cpu_kernel():
        everything = ops.tree_attention(query, keys, values, lengths, 3, masks, positions, 0.3, 0)
        assert torch.equal(
            ops.tree_attention(query, keys, values, lengths, 3, masks, positions, 0.3, window), everything
        )
    for wrong in (-1, 2**30, 2**32 + 7):
        with pytest.raises(InputError, match=f"with a window, positions must be 0 to .* but hold {wrong}"):
            ops.tree_attention(query, keys, values, lengths, 3, masks, positions * 0 + wrong, 0.3, 5)


@pytest.mark.parametrize("node", [-1, 2, 12, 21, INT32, -(2**31)])
def test_a_beam_is_of_the_level_before(node: int) -> None:
    """Level 1 of width 3 has the candidates 3 to 11, level 0 has 0 to 2."""
    buffers = BeamBuffers.new(1, 3, 3)
    logits = torch.randn(1, 3, 20)
    ops.expand_beam(logits[:, :1], None, 0, *buffers.arguments())
    ops.expand_beam(logits, None, 1, *buffers.arguments())
    good = buffers.beam_nodes[0, 1, 2].item()
    buffers.beam_nodes[0, 1, 2] = node
    before = [tensor.clone() for tensor in buffers.arguments()]
    with pytest.raises(InputError, match=rf"beam_nodes\[0, 1\] must be 3 to 11, .* but holds {node}"):
        ops.expand_beam(logits, None, 2, *buffers.arguments())
    assert all(map(torch.equal, before, buffers.arguments()))
    buffers.beam_nodes[0, 1, 2] = good
    ops.expand_beam(logits, None, 2, *buffers.arguments())


# --- sampling ends ---


@pytest.mark.parametrize("temperature", [1e-50, 1e-31, 1e31, 1e39, 1e308, math.nan, math.inf, -1.0])
def test_temperatures_that_a_float_cannot_hold(temperature: float) -> None:
    for name in ("accept_sample", "draft_token", "accept_chain"):
        greedy = "" if name == "accept_sample" else r"0 \(greedy\) or "
        message = rf"temperature must be {greedy}1e-30 to 1e\+30, but is"
        refused(call_with(name, temperature=temperature, top_p=0.5), message)
    with pytest.raises(InputError, match=r"temperature .* is out of range; use 0 \(greedy\) or 1e-30 … 1e\+30"):
        Sampling(temperature=temperature)


@pytest.mark.parametrize("temperature", [ops.LEAST_TEMPERATURE, 1e-6, 1e6, ops.LARGEST_TEMPERATURE])
@pytest.mark.parametrize("top_p", [1e-300, 0.3, 0.999, 1.0])
def test_the_largest_and_smallest_temperatures(temperature: float, top_p: float) -> None:
    """Nothing but the largest logit, or all finite ones alike; extreme logits too."""
    Sampling(temperature=temperature, top_p=top_p).acceptor()
    logits = torch.randn(1, 1000, generator=torch.Generator().manual_seed(1))
    logits[0, 700] = 9.0
    logits[0, 500:600] = -math.inf
    extreme = torch.where(logits > 0, 3e38, -3e38)
    for _ in every_cpu_kernel():
        token, chance = ops.draft_token(logits, temperature, 0, top_p, 3, 0, 0)
        if temperature < 1:
            assert (int(token), float(chance)) == (700, 1.0)
        else:
            kept = max(math.ceil(900 * top_p), 1)
            assert not 500 <= int(token) < 600
            assert float(chance) == pytest.approx(1 / kept, rel=2e-3)
        token, chance = ops.draft_token(extreme, temperature, 0, top_p, 3, 0, 0)
        assert 0 <= int(token) < 1000
        assert float(chance) > 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_end_a_walk(bad: float) -> None:
    logits = torch.randn(1, 1000)
    logits[0, 3] = bad
    for temperature in (ops.LEAST_TEMPERATURE, 1.0, ops.LARGEST_TEMPERATURE):
        assert int(ops.draft_token(logits, temperature, 0, 0.5, 0, 0, 0)[0]) == -1


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("draft_token", {"cycle": 2**32}, "cycle must be 0 to 4294967295"),
        ("accept_chain", {"cycle": -1}, "cycle must be 0 to 4294967295"),
        ("draft_token", {"position": INT64}, "position must be 0 to"),
        ("accept_chain", {"position": INT64}, "position must be 0 to"),
    ],
)
def test_random_numbers_of_a_chain(name: str, changes: dict[str, int], message: str) -> None:
    refused(call_with(name, **changes), message)


def test_random_numbers_of_a_walk() -> None:
    rows = argument_of("accept_sample", "rows")
    assert isinstance(rows, Tensor)
    refused(call_with("accept_sample", rows=torch.full_like(rows, 2**32)), r"rows\[0\] must be 0 to 4294967295")


# --- memory ---


def written_arguments() -> list[tuple[str, str]]:
    """Every tensor that an operator writes."""
    return [
        (name, argument.name)
        for name in CALLS
        for argument in schema(name)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]


def test_every_operator_is_tested() -> None:
    assert len(written_arguments()) == 47
    registered = {name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("ltd::")}
    assert set(CALLS) == registered


@pytest.mark.parametrize(("name", "argument"), written_arguments())
def test_what_is_written_has_memory_of_its_own(name: str, argument: str) -> None:
    right = argument_of(name, argument)
    assert isinstance(right, Tensor)
    one_place = right.flatten()[0].clone().expand(right.shape)
    if right.numel() > 1:
        refused(call_with(name, **{argument: one_place}), f"{argument} is written: each of its elements must have")
    for other in schema(name):
        value = argument_of(name, other.name)
        if other.name == argument or not isinstance(value, Tensor):
            continue
        both = torch.zeros(value.numel() * value.element_size() + right.numel() * right.element_size() + 64)
        memory = both.view(torch.uint8)
        # The other one's last byte is the first of this one's elements.
        start = -(-(value.numel() * value.element_size()) // 8) * 8
        first = memory[:start].view(value.dtype)[: value.numel()].view(value.shape).copy_(value)
        begin = (value.numel() - 1) * value.element_size() // right.element_size() * right.element_size()
        second = memory[begin : begin + right.numel() * right.element_size()].view(right.dtype).view(right.shape)
        names = f"{argument} is written.* with {other.name}|{other.name} is written.* with {argument}"
        refused(call_with(name, **{argument: second, other.name: first}), names)


def test_parts_of_one_tensor_may_take_turns() -> None:
    """Rows of keys beside rows of values, and columns of a wider tensor: no element is shared."""
    both = torch.randn(2, 1, 2, 9, 8)
    keys, values = both[..., :4], both[..., 4:]
    path, gained = torch.tensor([[0, 3]], dtype=torch.int32), torch.tensor([2], dtype=torch.int32)
    right = [keys.clone(), values.clone()]
    right[0][..., 3, :], right[1][..., 3, :] = right[0][..., 5, :], right[1][..., 5, :]
    ops.commit_path(keys, values, path, gained, torch.tensor([2], dtype=torch.int32))
    assert torch.equal(keys, right[0])
    assert torch.equal(values, right[1])
    with pytest.raises(InputError, match="keys is written: it must have memory of its own, but shares some with val"):
        ops.commit_path(both[..., :5], both[..., 3:], path, gained, torch.tensor([2], dtype=torch.int32))
    layers = torch.randn(2, 2, 1, 2, 9, 4)
    ops.commit_path(layers[:, 0], layers[:, 1], path, gained, torch.tensor([2], dtype=torch.int32))


def test_copies_that_are_made_on_writing_are_made() -> None:
    """torch's lazy copies share memory until one of them is written."""
    packed = torch.zeros(ops.packed_shape(37, 6, torch.float32))
    lazy = torch._lazy_clone(packed)
    ops.pack_linear(torch.ones(37, 6), lazy)
    assert int(packed.count_nonzero()) == 0
    assert int(lazy.count_nonzero()) == 37 * 6


@pytest.mark.parametrize("name", CALLS)
def test_memory_that_is_not_there(name: str) -> None:
    for argument in schema(name):
        right = argument_of(name, argument.name)
        if not isinstance(right, Tensor) or right.numel() == 0:
            continue
        shrunk = right.clone()
        shrunk.untyped_storage().resize_(0)
        refused(call_with(name, **{argument.name: shrunk}), f"{argument.name} must lie within its memory")
        for dimension in range(right.dim()):
            shape = [*right.shape]
            shape[dimension] = 2**31
            huge = right.new_zeros(()).expand(shape)
            refused(call_with(name, **{argument.name: huge}), f"{argument.name} must have no size above 1073741824")
        if right.element_size() > 1:
            refused(call_with(name, **{argument.name: beside(right)}), f"{argument.name} must begin at a multiple of")


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("row_entropy", "draft_token", "place_noise")])
def test_a_tensor_on_the_meta_device_among_others(name: str) -> None:
    for argument in schema(name):
        right = argument_of(name, argument.name)
        if isinstance(right, Tensor):
            refused(call_with(name, **{argument.name: right.to("meta")}), "must be on .* like the other tensors")


def test_meta_kernels_know_shared_memory() -> None:
    buffers = BeamBuffers.new(1, 3, 2)
    on_meta = [tensor.to("meta") for tensor in buffers.arguments()]
    logits = torch.empty(1, 1, 20, device="meta")
    torch.ops.ltd.expand_beam(logits, None, 0, *on_meta)
    on_meta[4] = on_meta[5]
    with pytest.raises(ValueError, match="beam_rows is written: it must have memory of its own"):
        torch.ops.ltd.expand_beam(logits, None, 0, *on_meta)
