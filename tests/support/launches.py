"""Counts what a GPU would be told to do: operators that write, and memory that they make."""

from __future__ import annotations

from typing import Any

from tape import memory, tensors_in
from torch.utils._python_dispatch import TorchDispatchMode


class Launches(TorchDispatchMode):
    """Counts while it is entered; views are not counted.

    Attributes:
        launches: operators that wrote something or returned something new.
        allocations: tensors in memory that an operator made.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches = self.allocations = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        given = {memory(tensor) for tensor in tensors_in((args, kwargs))}
        result = operator(*args, **(kwargs or {}))
        made = sum(memory(tensor) not in given for tensor in tensors_in(result))
        is_writing = any(a.alias_info is not None and a.alias_info.is_write for a in operator._schema.arguments)
        self.launches += made > 0 or is_writing
        self.allocations += made
        return result
