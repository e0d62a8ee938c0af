"""The compiled module; importing it registers torch.ops.ltd.*."""

from collections.abc import Sequence

from torch import Tensor

def build_info() -> dict[str, object]: ...
def use_cpu_isa(isa: str) -> None: ...
def add_kernels(address: int) -> None: ...
def philox4x32_10(counter: list[int], key: list[int]) -> list[int]: ...
def sampling_uniform(seed: int, position: int, row: int) -> float: ...

class SummaryAsker:
    """Asks what `ltd.ops.summary_decision` decides, without torch's dispatcher, which takes longer than the decision.

    For the CPU, one question at a time. Arguments are the operator's, those of `ask` change from question to question.

    Args:
        weights: float32 (n,); copied.
        states: H, their size.

    Raises:
        InputError: as the operator does.
    """

    def __init__(
        self,
        weights: Tensor,
        depth_layers: Sequence[int],
        size_layers: Sequence[int],
        best: int,
        newest: int,
        states: int,
        uses_tanh: bool,
        shortest: int,
        longest: int,
    ) -> None: ...
    def ask(
        self,
        scores: Tensor,
        count: int,
        newest_from: int,
        lengths: Tensor,
        depth: int,
        states: Tensor | None,
    ) -> tuple[int, int]:
        """The depth network's action and the size network's: of each the upper median over the batch.

        Args:
            states: not looked at where H is 0.

        Raises:
            InputError: a tensor of the wrong shape, type, device or layout, or a number out of range.
        """
