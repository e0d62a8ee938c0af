"""The operator library as a whole: torch's own checks, instruction sets, threads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from op_cases import ISAS, BeamBuffers, NodeBuffers
from operator_reference import select_nodes

from ltd import _C, ops


def sample_arguments() -> dict[str, tuple]:
    """Valid arguments for every operator."""
    nodes = select_nodes([1, 2, 3], [-1.0, -2.0, -3.0], [-1, 0, 0], 3, 0)
    tree = NodeBuffers.filled([nodes], [4])
    lengths, count = torch.tensor([4], dtype=torch.int32), torch.tensor([2], dtype=torch.int32)
    links = (tree.node_tokens, tree.first_child, tree.next_sibling)
    noise = ops.Noise.new(1, 9, [0], "cpu", 4)
    results = (torch.zeros(1, 3, dtype=torch.int32), torch.zeros(1, 3, dtype=torch.int64), lengths.clone())
    drawn = (noise.rows, 1.0, 0, 1.0, noise.seed, noise.noise, noise.places)
    cache = torch.randn(2, 1, 1, 9, 8)
    candidates = (
        tree.node_tokens[:, 1:],
        torch.tensor([[-1.0, -2.0, -3.0]]),
        torch.tensor([[-1, 0, 0]], dtype=torch.int32),
    )
    text = (torch.tensor([[1, 4]]), torch.tensor([[-1, 0]], dtype=torch.int32), torch.tensor([[-0.5, -2.5]]), count)
    merged = [torch.cat([column, column[:, :2]], dim=1) for column in candidates]
    merged.append(torch.zeros(1, 5, dtype=torch.int8))
    policy = (torch.randn(1, 3), lengths, 2, 4, 1, [torch.randn(2, 6), torch.randn(2)], True)
    summary = (torch.randn(1, 9), 7, 5, lengths, 2, 3, 1, torch.randn(1, 1, 4).bfloat16(), torch.randn(1, 24))
    networks = (torch.randn(53 * 5 + 6 * 2 + 53 * 3), [5, 2], [3], True)
    root, features, queries = torch.zeros(1, dtype=torch.int64), torch.randn(1, 4, 5), torch.zeros(1, 1, 2, 8)
    angles = (1e-6, *torch.randn(2, 5, 8), torch.tensor([[0, 4]]))
    attended = (torch.randn(1, 2, 4, 8), cache[0], cache[1], lengths, 4, tree.masks)
    return {
        "expand_beam": (torch.randn(1, 1, 9), torch.arange(9), 0, *BeamBuffers.new(1, 3, 2).arguments()),
        "row_entropy": (torch.randn(2, 3, 9),),
        "merge_text": (*text, 3, root, *merged, torch.zeros(1, dtype=torch.int32)),
        "select_tree": (*candidates, 3, root, lengths, *NodeBuffers.new(1, 3).arguments()),
        "tree_attention": (*attended, tree.positions, 0.3, 0, 9, torch.zeros(ops.MERGE_COUNTERS, dtype=torch.int32)),
        "accept_greedy": (torch.randn(1, 4, 9), *links, *results),
        "accept_sample": (torch.randn(1, 4, 9), *links, tree.positions, *drawn, *results),
        "place_noise": (noise.seed, 3, 5, 9),
        "commit_path": (cache, -cache, torch.tensor([[0, 2]], dtype=torch.int32), lengths // 2, lengths, True),
        "gather_accepted": (features, *results[:2], count, features[:, 1:].clone(), root, torch.ones(1, 5).long()),
        "add_rms_norm": (torch.randn(3, 7), torch.randn(3, 7), torch.randn(7), 1e-6, torch.zeros(3, 7)),
        "rotate_and_store": (torch.randn(1, 2, 24), torch.randn(8), None, *angles, lengths, 0, *cache.clone(), queries),
        "gated_silu": (torch.randn(3, 14), torch.zeros(3, 7)),
        "depth_action": policy,
        "size_action": policy,
        "summary_decision": (*summary, *networks, torch.zeros(1, 2, dtype=torch.int32)),
        "summary_state": (summary[7], *networks[:3], 3, 1, True),
    }


@pytest.mark.parametrize("name", sample_arguments())
def test_opcheck(name):
    """What the schema says is written, shape-only kernels, autograd keys, torch.compile with all kinds of shapes."""
    torch.library.opcheck(getattr(torch.ops.ltd, name).default, sample_arguments()[name])


@pytest.mark.parametrize("name", ["row_entropy", "tree_attention", "depth_action", "size_action"])
def test_shape_only_kernels_tell_shape_and_type(name):
    arguments = sample_arguments()[name]
    operator = getattr(torch.ops.ltd, name)
    real = operator(*arguments)
    on_meta = [
        [t.to("meta") for t in a] if isinstance(a, list) else a.to("meta") if isinstance(a, torch.Tensor) else a
        for a in arguments
    ]
    shaped = operator(*on_meta)
    assert (shaped.shape, shaped.dtype, shaped.stride()) == (real.shape, real.dtype, real.stride())


def wrapped_arguments(name: str) -> tuple:
    """The arguments of an operator's wrapper: as the operator's, but that the tensors of noise are in one object."""
    given = sample_arguments()[name]
    if name != "accept_sample":
        return given
    rows, *warp, seed, noise, places = given[5:12]
    return (*given[:5], *warp, ops.Noise(noise, places, rows, seed), *given[12:])


def test_wrappers_reach_the_operators():
    """Every operator has a wrapper of its name that returns what the operator returns."""
    for name in sample_arguments():
        direct, wrapped = sample_arguments()[name], wrapped_arguments(name)
        torch.manual_seed(0)
        expected = getattr(torch.ops.ltd, name)(*direct)
        result = getattr(ops, name)(*wrapped)
        assert (expected is None) == (result is None)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=False
    )


PRINT_ISA = "import ltd.ops; print(ltd.ops.build_info()['cpu_kernels'])"


@pytest.mark.parametrize("isa", ISAS)
def test_the_environment_lowers_the_instruction_set(isa):
    assert run_python(PRINT_ISA, LTD_CPU_ISA=isa).stdout.strip() == isa


def test_a_wrong_instruction_set_is_named():
    result = run_python(PRINT_ISA, LTD_CPU_ISA="sse9")
    assert result.returncode != 0
    assert "LTD_CPU_ISA is 'sse9' but must be one of baseline, avx2, avx512, avx512_bf16, amx_bf16" in result.stderr
    with pytest.raises(ValueError, match="no CPU kernels for 'sse9' here; supported are baseline"):
        _C.use_cpu_isa("sse9")


@pytest.mark.parametrize(
    ("widest", "made_by_intel", "taken"),
    [
        ("avx512_bf16", True, "avx512"),
        ("avx512_bf16", False, "avx512_bf16"),
        ("amx_bf16", True, "amx_bf16"),
        ("avx512", True, "avx512"),
        ("avx2", True, "avx2"),
        ("baseline", False, "baseline"),
    ],
)
def test_intels_slow_instructions_are_not_taken(widest: str, made_by_intel: bool, taken: str):
    names = ["baseline", "avx2", "avx512", "avx512_bf16", "amx_bf16"]
    assert _C.fastest_cpu_isa(names[: names.index(widest) + 1], made_by_intel) == taken


def test_the_fastest_instruction_set_is_taken_unless_another_is_asked_for():
    fastest = ops.build_info()["cpu_fastest"]
    assert fastest in ISAS
    assert run_python(PRINT_ISA, LTD_CPU_ISA="").stdout.strip() == fastest


def test_build_info():
    info = ops.build_info()
    assert info["cpu_kernels"] in ISAS
    assert ISAS[0] == "baseline"
    assert info["torch"] == torch.__version__
    assert isinstance(info["cuda"], bool)
    assert info["cuda"] or info["cuda_reason"]


COUNT_THREADS = """
import os, torch, ltd.ops as ops
torch.set_num_threads({threads})
tasks = lambda: len(os.listdir("/proc/self/task"))
before = tasks()
query, cache, lengths = torch.randn(1, 8, 64, 64), torch.randn(1, 8, 600, 64), torch.tensor([500], dtype=torch.int32)
ops.tree_attention(query, cache, cache, lengths, 64, None, torch.zeros(1, 64).long(), 0.1)
print(tasks() - before)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs /proc")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_torch_governs_the_threads(threads):
    result = run_python(COUNT_THREADS.format(threads=threads))
    assert result.stdout.strip() == str(threads - 1), result.stderr
