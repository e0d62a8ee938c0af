"""The processes of one run, and the way in which the first of them tells the others something."""

from __future__ import annotations

import atexit
import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ltd.common.out_of_memory import is_out_of_memory
from ltd.errors import InputError

FIRST_PART = 1 << 14  # bytes of a message that go in one piece; hardly any is longer
LENGTH_BYTES = 8
PATIENCE = timedelta(days=365)  # how long the others wait for the first: it may wait for a person


class Peers:
    """The processes of a run, in the default group of `torch.distributed`, which must be there.

    Attributes:
        count: how many there are.
        is_first: whether this is the one that decides.
        device: of this one.
    """

    def __init__(self, device: torch.device) -> None:
        self.count, self.is_first, self.device = dist.get_world_size(), dist.get_rank() == 0, device
        self._control = dist.new_group(backend="gloo", timeout=PATIENCE)

    def say(self, message: Any, tensors: Sequence[Tensor] = ()) -> None:
        """Tells all others something; the first process alone may.

        Args:
            message: anything that can be pickled. Host and devices need not wait for each other.
            tensors: whole numbers, on the device.

        Raises:
            InputError: another process has ended.
        """
        content = pickle.dumps((message, [(tensor.shape, tensor.dtype) for tensor in tensors]))
        sent = len(content).to_bytes(LENGTH_BYTES, "little") + content
        with peers_may_end():
            self._broadcast(sent[:FIRST_PART].ljust(FIRST_PART, b"\0"))
            if len(sent) > FIRST_PART:
                self._broadcast(sent[FIRST_PART:])
            if tensors:
                dist.broadcast(torch.cat([tensor.reshape(-1).long() for tensor in tensors]), 0)

    def hear(self) -> tuple[Any, list[Tensor]]:
        """What the first process says next, with its tensors, on this one's device.

        Raises:
            InputError: another process has ended.
        """
        with peers_may_end():
            sent = self._broadcast(bytes(FIRST_PART))
            length = LENGTH_BYTES + int.from_bytes(sent[:LENGTH_BYTES], "little")
            if length > FIRST_PART:
                sent += self._broadcast(bytes(length - FIRST_PART))
            message, kinds = pickle.loads(sent[LENGTH_BYTES:length])
            sizes = [shape.numel() for shape, _ in kinds]
            numbers = torch.empty(sum(sizes), dtype=torch.int64, device=self.device)
            if kinds:
                dist.broadcast(numbers, 0)
        parts = numbers.split(sizes) if kinds else ()
        return message, [part.view(shape).to(dtype) for part, (shape, dtype) in zip(parts, kinds, strict=True)]

    def _broadcast(self, content: bytes) -> bytes:
        """What the first process has in the place of this."""
        part = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        dist.broadcast(part, 0, group=self._control)
        return part.numpy().tobytes()


def meet() -> Peers:
    """Meets the other processes of a run, all of which must ask for it; where `torch.distributed` has begun, in that.

    Raises:
        InputError: there are no others, or they cannot be found.
    """
    device = own_device()
    if not dist.is_initialized():
        on_gpu = device.type == "cuda"
        try:
            dist.init_process_group("nccl" if on_gpu else "gloo", device_id=device if on_gpu else None)
            atexit.register(dist.destroy_process_group)
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"tensor parallelism needs several processes that find each other: {error}; start the program with "
                "torchrun --nproc-per-node N"
            ) from error
    if dist.get_world_size() == 1:
        raise InputError("tensor parallelism needs several processes, and this is one; give torchrun --nproc-per-node")
    return Peers(device)


def own_device() -> torch.device:
    """Where this process computes: on the GPU of its number on this machine, or, where there is none, on the CPU.

    `transformers` shards over these and no others.

    Raises:
        InputError: there are fewer GPUs than processes.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if number >= torch.cuda.device_count():
        raise InputError(
            f"{torch.cuda.device_count()} GPUs are too few, as each process needs one; give torchrun a smaller "
            "--nproc-per-node"
        )
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


@contextmanager
def peers_may_end() -> Iterator[None]:
    """Raises InputError for what `torch.distributed` raises inside because another process is not there any more."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error) or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise InputError(
            "another process of this run has ended or does not answer, so this one ends too; what that one said is the "
            "reason"
        ) from error
