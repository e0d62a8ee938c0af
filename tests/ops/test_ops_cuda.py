"""Every operator on a GPU against the CPU's, on random inputs that are other ones every time.

    LTD_TEST_DEVICE=cuda python -m pytest tests/ops/test_ops_cuda.py

LTD_TEST_SEED=N begins with the inputs of seed N, which stands in the name of a test that has failed.
"""

from __future__ import annotations

import os

import pytest
import torch
from random_calls import Call, random_calls

from ltd import ops

if os.environ.get("LTD_TEST_DEVICE") != "cuda":
    pytest.skip("for a GPU only: LTD_TEST_DEVICE=cuda", allow_module_level=True)
if not torch.cuda.is_available():
    pytest.exit("LTD_TEST_DEVICE is cuda, but torch finds no GPU", returncode=2)
if not ops.build_info()["cuda"]:
    pytest.exit(f"ltd was built without its CUDA kernels: {ops.build_info()['cuda_reason']}", returncode=2)

FIRST = int(os.environ.get("LTD_TEST_SEED", int.from_bytes(os.urandom(3), "little")))
SEEDS = range(FIRST, FIRST + 20)


def run_captured(call: Call) -> list[torch.Tensor]:
    """The results of a graph of the call, whose inputs are written only after it was captured."""
    call.on("cuda").run()  # the first call loads the kernels, which a capture must not do
    on_gpu = call.on("cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = on_gpu.run()
    graph.replay()
    torch.cuda.synchronize()
    return results


@pytest.mark.parametrize("seed", SEEDS)
def test_the_gpu_gives_what_the_cpu_gives(seed: int) -> None:
    for call in random_calls(seed):
        call.compare(call.on("cuda").run(), call.on("cpu").run())


@pytest.mark.parametrize("seed", SEEDS[:5])
def test_captured_in_a_graph_too(seed: int) -> None:
    for call in random_calls(seed):
        call.compare(run_captured(call), call.on("cpu").run())


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_the_same_twice(seed: int) -> None:
    """To the last bit: nothing depends on the order of threads."""
    for call in random_calls(seed):
        call.demand_same_bits(call.on("cuda").run(), call.on("cuda").run())
