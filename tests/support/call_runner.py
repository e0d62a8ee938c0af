"""The engine on an Arm processor that is emulated: builds tests/engine/arm by a cross compiler, and calls it in QEMU.

Where the two programs are (of Debian: g++-aarch64-linux-gnu, qemu-user-static), the engine's tests run there as on
every instruction set of this processor.
"""

from __future__ import annotations

import functools
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from built_libraries import ROOT, build_target
from op_cases import bits_of
from torch import Tensor

ARM = "emulated Arm"
COMPILERS = ("aarch64-linux-gnu-g++", "aarch64-linux-gnu-g++-14", "aarch64-linux-gnu-g++-12")
EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")
TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # as in csrc/common/types.h


def first_found(programs: Sequence[str]) -> str | None:
    """The first of these programs that this machine has."""
    return next((found for program in programs if (found := shutil.which(program)) is not None), None)


def has_arm() -> bool:
    """Whether this machine can build for Arm and emulate it."""
    return None not in (first_found(COMPILERS), first_found(EMULATORS))


class CallRunner:
    """The program of tests/engine/arm, which goes on running between calls."""

    def __init__(self, command: Sequence[str | Path]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def call(self, name: str, numbers: Sequence[float], buffers: Sequence[Tensor | None]) -> list[bytearray]:
        """The buffers that an operator answers with."""
        send, receive = self._process.stdin, self._process.stdout
        assert send is not None and receive is not None
        send.write(name.encode().ljust(8, b"\0"))
        send.write(struct.pack(f"<q{len(numbers)}dq", len(numbers), *numbers, len(buffers)))
        for buffer in buffers:
            content = None if buffer is None else bytes_of(buffer)
            send.write(struct.pack("<q", -1 if content is None else len(content)) + (content or b""))
        send.flush()
        (count,) = struct.unpack("<q", receive.read(8))
        return [bytearray(receive.read(*struct.unpack("<q", receive.read(8)))) for _ in range(count)]


def bytes_of(tensor: Tensor) -> bytes:
    """Its elements in their order."""
    return bits_of(tensor).numpy().tobytes()


def tensor_of(content: bytearray, like: Tensor, *shape: int) -> Tensor:
    """Bytes as a tensor of a shape and another's type."""
    return torch.frombuffer(content, dtype=like.dtype).view(shape) if content else like.new_empty(shape)


@functools.cache
def arm_runner() -> CallRunner:
    """The program, built anew if older than its sources."""
    compiler, emulator = first_found(COMPILERS), first_found(EMULATORS)
    assert compiler is not None and emulator is not None
    build = ROOT / "build" / "arm"
    system = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={compiler}")
    build_target("ltd_call_runner", ROOT / "tests" / "engine" / "arm", build, *system)
    return CallRunner([emulator, build / "ltd_call_runner"])


@contextmanager
def engine_on(runner: CallRunner) -> Iterator[None]:
    """The engine's operators run there."""
    with patch.multiple(
        "ltd.ops.engine",
        _linear=functools.partial(linear, runner),
        _forward_stack=functools.partial(forward_stack, runner),
    ):
        yield


def place_noise(runner: CallRunner, seed: int, row: int, position: int, vocabulary: int) -> Tensor:
    """As `ltd.ops.place_noise`."""
    numbers = (row, position, vocabulary, torch.get_num_threads())
    (noise,) = runner.call("noise", numbers, [torch.tensor([seed])])
    return torch.frombuffer(noise, dtype=torch.float32)


def linear(runner: CallRunner, x: Tensor, packed: Tensor, outputs: int) -> Tensor:
    """The operator of that name."""
    inputs = x.shape[-1]
    numbers = (TYPES[x.dtype], x.numel() // inputs, inputs, outputs, torch.get_num_threads())
    (result,) = runner.call("linear", numbers, [x, packed])
    return tensor_of(result, x, *x.shape[:-1], outputs)


def forward_stack(runner: CallRunner, *arguments: Any) -> tuple[Tensor, Tensor]:
    """The operator of that name, with the arguments of its schema."""
    names = [argument.name for argument in torch.ops.ltd.forward_stack.default._schema.arguments]
    a = dict(zip(names, arguments, strict=True))
    states, keys, values, masks = a["states"], a["keys"], a["values"], a["masks"]
    layers, batch, kv_heads, capacity, head_dim = keys.shape
    nodes, hidden = states.shape[1:]
    sizes = (layers, batch, nodes, hidden, a["query_heads"], kv_heads, head_dim, a["intermediate"], a["vocabulary"])
    tree = (a["kept"], a["first_row"], len(a["taps"]), capacity, 0 if masks is None else masks.shape[2])
    rest = (a["residual_is_normed"], torch.get_num_threads(), a["epsilon"], a["scale"])
    results = runner.call(
        "forward",
        (TYPES[states.dtype], TYPES[a["cosines"].dtype], *sizes, *tree, *rest),
        [
            *(states, keys, values, a["embeddings"], a["embedding_norm"], a["input_norm"], a["qkv"], a["qkv_bias"]),
            *(a["query_norm"], a["key_norm"], a["output"], a["output_bias"], a["post_norm"]),
            *(a["gate_up"], a["gate_up_bias"], a["down"], a["down_bias"], a["final_norm"], a["lm_head"]),
            *(a["cosines"], a["sines"], a["rotary_rows"], a["lengths"], masks, a["positions"]),
            *(torch.tensor(a["windows"]), torch.tensor(a["taps"], dtype=torch.int64)),
        ],
    )
    for written, content in zip((states, keys, values), results[2:], strict=True):
        written.copy_(tensor_of(content, written, *written.shape))
    logits = tensor_of(results[0], states, batch, a["kept"], a["vocabulary"])
    return logits, tensor_of(results[1], states, batch, nodes, len(a["taps"]) * hidden)
