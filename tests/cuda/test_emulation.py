"""The emulation of CUDA: planted faults are caught, right kernels give the same in every order of their threads."""

from __future__ import annotations

import ctypes
import itertools
import math

import numpy as np
import pytest
import torch
from emulated import barriers, library, without_barrier

SEEDS = 40
THREADS = 128
OUTPUTS = 512

# A right kernel, what it writes for the inputs, and faulty ones with what is said about them.
INPUTS = np.random.default_rng(3).integers(0, 100, 2 * THREADS).astype(np.uint32)


def passed_on(values: np.ndarray, distance: int, rounds: int) -> np.ndarray:
    for number in range(rounds):
        values = 3 * np.roll(values, -distance) + np.uint32(number)
    return values


def in_base_3(values: list[int]) -> int:
    return int(np.polyval(values, 3))


AGREED = len(range(0, THREADS, 3)) * 16 + 8 + 2
FIRST = INPUTS[:THREADS]
RIGHT = {
    "sum": np.full(THREADS, FIRST.sum()),
    "pass_on": passed_on(FIRST, 1, 3),
    "pass_in_warp": np.roll(INPUTS[:32], -7),
    "add_neighbours": INPUTS[:-1] + INPUTS[1:],
    "count_digits": np.bincount(FIRST % 10, minlength=10),
    "count_threads": np.full(THREADS, THREADS),
    "agree": np.full(THREADS, AGREED),
    "give_on": np.roll(FIRST.reshape(-1, 32), -1, axis=1).ravel(),
    "copy_over": INPUTS[::-1],
    "move_packs": INPUTS,
    "reverse": FIRST[::-1] + 5,
    "add_one": FIRST + 1,
    "use_shared": FIRST,
    "add_blocks": np.full(32, in_base_3(FIRST.reshape(4, 32).sum(axis=1).tolist())),
}
NO_BARRIER = "which no barrier separates from what thread"
FAULTY = {
    "sum without barrier": NO_BARRIER,
    "pass_on without barrier": NO_BARRIER,
    "pass_in_warp without barrier": NO_BARRIER,
    "add_neighbours reading too far": r"reaches 4 bytes that it must not, 1024 bytes into a range of 1024",
    "add_neighbours writing too far": r"reaches 4 bytes that it must not, 2048 bytes into a range of 2048",
    "add_neighbours reading too far by a plain pointer": "reads 4 bytes that it must not, 1024 bytes into",
    "add_neighbours writing too far by a plain pointer": "writes 4 bytes that it must not, 2048 bytes into",
    "change_input": "writes 4 bytes that it must not",
    "count_threads without atomics": NO_BARRIER,
    "be_last": NO_BARRIER,
    "agree half of them": "not all threads reach the same barrier: thread .* waits in __syncthreads",
    "agree in two places": "not all threads reach the same barrier: thread .* waits in __syncthreads_count at toys.cu",
    "agree after one left": "not all threads reach the barrier: .*thread 5 has returned",
    "give_on after one left": "not all lanes of the mask come together: thread .* waits in __shfl_sync at toys.cu:"
    ".*, thread 40 has returned",
    "give_on with one elsewhere": "(not all lanes of the mask come together: .*|not all threads reach the barrier: )"
    "thread 40 waits in __syncthreads at toys.cu",
    "give_on with another mask": "not all lanes of the mask come together: .*with another mask",
    "give_on from outside of the mask": "__shfl_sync reads lane 15, which is not in the mask, at toys.cu:",
    "copy_over without waiting": None,
    "copy_over waiting for too few": None,
    "copy_over without barrier": NO_BARRIER,
    "copy_over misaligned": "an address that is no multiple of 16",
    "move_packs misaligned": "an address that is no multiple of 16",
    "move_packs too many": "reaches 16 bytes that it must not",
    "reverse with a wrong index": r"thread \(127, 0, 0\): index 128 of an array of 128",
    "reverse with too little memory": "bytes 0 to 1536 of 1024 bytes of dynamic shared memory",
    "reverse writing behind its memory": r"thread \(127, 0, 0\): writes 4 bytes beside a shared variable",
    "launch too many threads": "the kernel launched at toys.cu:.*: blocks of 1025 threads",
    "read in a launch function": "reads 4 bytes of the device's memory in a launch function",
    "add_one before it has waited": "reaches 4 bytes that it must not before it has waited for the kernels before",
    "use_shared without having asked": "more than 48 KB of shared memory",
    "count_digits from rubbish": None,
    "add_blocks from rubbish": None,
}


def run(name: str, seed: int, inputs: np.ndarray = INPUTS, outputs: int = OUTPUTS) -> np.ndarray:
    """What a toy of tests/cuda/emulation/toys.cu writes. Raises RuntimeError if the emulation finds a fault."""
    loaded = library()
    loaded.ltd_emulation_toy.restype = ctypes.c_char_p
    loaded.ltd_emulation_seed(seed)
    inputs = np.ascontiguousarray(inputs).view(np.uint32)
    # Packs need a multiple of 16 bytes, which NumPy does not promise.
    room = np.full(inputs.size + outputs + 16, 99, dtype=np.uint32)
    start = -(room.ctypes.data // 4) % 4
    given = room[start : start + inputs.size]
    given[:] = inputs
    start += -(-inputs.size // 4) * 4 + 4
    written = room[start : start + outputs]
    as_pointer = lambda array: array.ctypes.data_as(ctypes.c_void_p)  # noqa: E731
    problem = loaded.ltd_emulation_toy(
        name.encode(), as_pointer(given), ctypes.c_int64(given.size), as_pointer(written), ctypes.c_int64(written.size)
    )
    if problem is not None:
        raise RuntimeError(problem.decode())
    return written.copy()


@pytest.mark.parametrize("name", RIGHT)
def test_right_kernels_give_the_same_in_every_order(name):
    for seed in range(SEEDS):
        assert run(name, seed)[: RIGHT[name].size].tolist() == RIGHT[name].tolist()


@pytest.mark.parametrize("name", [name for name in FAULTY if FAULTY[name] is not None])
def test_faults_are_named(name):
    for seed in range(SEEDS):
        with pytest.raises(RuntimeError, match=FAULTY[name]):
            run(name, seed)


@pytest.mark.parametrize("name", [name for name in FAULTY if FAULTY[name] is None])
def test_other_faults_show_as_wrong_results(name):
    right = RIGHT[name.split()[0]]
    wrong = 0
    for seed in range(SEEDS):
        try:
            wrong += run(name, seed)[: right.size].tolist() != right.tolist()
        except RuntimeError as problem:
            wrong += NO_BARRIER in str(problem)
    assert wrong > SEEDS / 2


@pytest.mark.parametrize("name", ["sum", "pass_on", "pass_in_warp", "copy_over"])
def test_every_barrier_of_a_right_kernel_can_be_taken_out(name):
    run(name, 0)
    used = [number for number, place in enumerate(barriers()) if place.startswith("toys.cu:")]
    noticed = 0
    for number in used:
        with without_barrier(number):
            try:
                noticed += run(name, 1)[: RIGHT[name].size].tolist() != RIGHT[name].tolist()
            except RuntimeError as problem:
                noticed += NO_BARRIER in str(problem)
    assert noticed == {"sum": 1, "pass_on": 2, "pass_in_warp": 1, "copy_over": 1}[name]
    assert run(name, 1)[: RIGHT[name].size].tolist() == RIGHT[name].tolist()


def test_a_fault_names_kernel_block_and_thread():
    with pytest.raises(
        RuntimeError, match=r"the kernel launched at toys\.cu:\d+, block \(0, 0, 0\), thread \(0, 0, 0\): reaches"
    ):
        run("add_neighbours writing too far", 1)


@pytest.mark.parametrize("seed", range(5))
def test_shuffles(seed):
    values = np.random.default_rng(seed).integers(0, 2**32, 32, dtype=np.uint32).tolist()
    found = run("shuffle_lanes", seed, np.array(values, dtype=np.uint32)).reshape(-1, 32).tolist()
    lanes = range(32)
    assert found[0] == [values[5]] * 32
    assert found[1] == [values[lane // 8 * 8 + (lane + 3) % 8] for lane in lanes]
    assert found[2] == [values[lane ^ 17] for lane in lanes]
    assert found[3] == [values[lane - 3 if lane >= 3 else lane] for lane in lanes]
    assert found[4] == [values[lane - 2 if lane % 4 >= 2 else lane] for lane in lanes]
    assert found[5] == [values[lane + 3 if lane < 29 else lane] for lane in lanes]
    assert found[6] == [values[lane + 2 if lane % 4 < 2 else lane] for lane in lanes]
    assert found[7] == [values[lane ^ 1] for lane in lanes]
    assert found[8][::2] == [values[lane ^ 2] for lane in lanes[::2]]


@pytest.mark.parametrize("seed", range(5))
def test_votes_and_bits(seed):
    values = np.random.default_rng(seed).integers(0, 100, 32).tolist()
    found = run("vote_lanes", seed, np.array(values, dtype=np.uint32)).reshape(-1, 32)
    ballot = lambda votes: sum(1 << lane for lane, vote in enumerate(votes) if vote)  # noqa: E731
    same = lambda result, expected: result.tolist() == [expected] * len(result)  # noqa: E731
    assert same(found[0], ballot(value % 3 == 0 for value in values))
    assert same(found[1], int(7 in values))
    assert same(found[2], 1 + 2 * (max(values) < 90))
    assert same(found[3].view(np.int32), max(values) - 50)
    assert same(found[4].view(np.int32), min(values) - 50)
    assert same(found[5].view(np.int32), sum(values) - 50 * 32)
    assert found[6].tolist() == [ballot(other % 5 == value % 5 for other in values) for value in values]
    first_bit = lambda value: (value & -value).bit_length()  # noqa: E731
    bits = [value.bit_count() + 100 * first_bit(value) + 10000 * (32 - value.bit_length()) for value in values]
    assert found[7].tolist() == bits
    assert same(found[8][:7], ballot(value % 2 for value in values[:7]))


def test_atomics():
    for seed in range(SEEDS):
        found = run("update_atomically", seed).tolist()
        values = FIRST.tolist()
        assert found[0] == 99 + sum(values)
        assert found[1] == max(99, *values)
        assert found[2] == min(99, *values)
        assert found[3] == np.bitwise_or.reduce([99, *values])
        # 99 is above the limit of 9: it starts again at 0.
        assert found[4] == (THREADS - 1) % 10
        assert found[5] == 99 + THREADS
        left = found[8 + 99 : 8 + 99 + THREADS]
        assert sorted([*left, found[6]]) == sorted([99, *range(THREADS)])
        assert found[7] == 99 * pow(2, THREADS, 1000003) % 1000003


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("seed", range(3))
def test_tiles_are_multiplied(dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(16, n, generator=generator).to(dtype) for n in (16, 8))
    d = torch.randn(16, 8, generator=generator)
    words = np.zeros((32, 10), dtype=np.uint32)
    raw_a, raw_b = (t.view(torch.int16).numpy().view(np.uint16).astype(np.uint32) for t in (a, b))
    for lane, (word, column) in itertools.product(range(32), enumerate([0, 0, 8, 8])):
        group, pair = lane // 4, lane % 4 * 2
        row = group + word % 2 * 8
        words[lane, word] = raw_a[row, pair + column] | raw_a[row, pair + column + 1] << 16
        if word < 2:
            words[lane, 4 + word] = raw_b[pair + 8 * word, group] | raw_b[pair + 8 * word + 1, group] << 16
        words[lane, 6 + word] = d.numpy().view(np.uint32)[group + word // 2 * 8, pair + word % 2]
    name = {torch.bfloat16: "multiply bfloat16", torch.float16: "multiply float16"}[dtype]
    found = run(name, seed, words.ravel())[: 32 * 4].view(np.float32).reshape(32, 4)
    expected = d.double() + a.double() @ b.double()
    for lane, i in itertools.product(range(32), range(4)):
        right = expected[lane // 4 + i // 2 * 8, lane % 4 * 2 + i % 2].item()
        assert math.isclose(found[lane, i], right, rel_tol=1e-5, abs_tol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_numbers_are_rounded_as_torch_does(dtype):
    generator = torch.Generator().manual_seed(1)
    numbers = torch.randn(1000, generator=generator) * torch.exp(12 * torch.randn(1000, generator=generator))
    ties = torch.arange(-70, 70).float() * 2.0**-25
    edges = torch.tensor([0.0, -0.0, 65504.0, 65519.9, 65520.0, -1e30, 3.4e38, math.inf, -math.inf, 1 + 2.0**-11, 6e-5])
    given = torch.cat([numbers, ties, ties * 2048, edges])
    name = {torch.bfloat16: "round_to bfloat16", torch.float16: "round_to float16"}[dtype]
    found = run(name, 0, given.numpy(), given.numel()).view(np.float32)
    assert torch.equal(torch.from_numpy(found), given.to(dtype).float())
    assert math.isnan(run(name, 0, np.array([math.nan], dtype=np.float32), 1).view(np.float32)[0])


@pytest.mark.parametrize("name", ["locate", "locate half of it later", "locate nothing later"])
def test_a_place_is_found_where_a_second_sum_comes_out_smaller(name):
    """A compiler may round a measure differently in two places: what is found lies in the row and holds something."""
    for filled in (1, 33, 200, INPUTS.size):
        masses = np.where(np.arange(INPUTS.size) < filled, INPUTS + 2, 0).astype(np.uint32)
        for seed in range(5):
            place = int(run(name, seed, masses, 1)[0])
            if name == "locate nothing later":
                assert 0 <= place < INPUTS.size
            else:
                assert place == filled - 1
