"""The compiled module; importing it registers torch.ops.ltd.*."""

from collections.abc import Sequence

from torch import Tensor

def build_info() -> dict[str, object]: ...
def use_cpu_isa(isa: str) -> None: ...
def fastest_cpu_isa(supported: list[str], made_by_intel: bool) -> str: ...
def add_kernels(address: int) -> None: ...
def philox4x32_10(counter: list[int], key: list[int]) -> list[int]: ...
def sampling_uniform(seed: int, position: int, row: int) -> float: ...

class SummaryAsker:
    """Asks what `ltd.ops.summary_decision` decides, without torch's dispatcher, which takes longer than the decision.

    For the CPU, one question at a time. Arguments are the operator's, those of `ask` change from question to question.

    Args:
        weights: float32 (n,); copied.
        states: H, their size.
        text: X, the numbers of what the text proposes: 0 or 24.

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
        text: int = 0,
    ) -> None: ...
    def ask(
        self,
        scores: Tensor,
        count: int,
        newest_from: int,
        lengths: Tensor,
        depth: int,
        states: Tensor | None,
        text: Tensor | None = None,
    ) -> tuple[int, int]:
        """The depth network's action and the size network's: of each the upper median over the batch.

        Args:
            states: not looked at where H is 0, and at depth -1. None: those of the last question that gave any, for
                which nothing is worked out again.
            text: not looked at where X is 0.

        Raises:
            InputError: a tensor of the wrong shape, type, device or layout, or a number out of range.
        """

class HistoryIndex:
    """Texts that others are looked up in as well; made once and then only read, by as many indices as there are.

    Args:
        tokens: 0 … 2^31 - 1, with -1 between two texts.

    Raises:
        InputError: something else is among them, or they are more than 2^30.
    """

    def __init__(self, tokens: Sequence[int]) -> None: ...

class TextIndex:
    """Looks up the end of one text in the text itself; `ltd.lookup.TextSource` has one for every sequence.

    Args:
        chances: 288 numbers above 0 and up to 1, by evidence cell.
        head_scores, head_log_chances: as many numbers as each other, strictly ascending; see `ltd.lookup.TextScores`.
        most: candidates at most, 1 … 64.
        history: looked up in as if the text stood behind it.

    Raises:
        InputError: numbers that are not like this.

    Attributes:
        size: tokens of the text, with those of the history.
        steps: elementary steps that all calls so far took; memory: bytes that the text takes. For tests.
    """

    def __init__(
        self,
        chances: Sequence[float],
        head_scores: Sequence[float],
        head_log_chances: Sequence[float],
        most: int,
        history: HistoryIndex | None = None,
    ) -> None: ...
    @property
    def size(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def memory(self) -> int: ...
    def write_to(
        self,
        tokens: Tensor,
        parents: Tensor,
        scores: Tensor,
        chances: Tensor,
        features: Tensor,
        cells: Tensor,
        count: Tensor,
    ) -> None:
        """Says where `propose` writes from now on; the tensors are kept, and must stay as they are.

        All are contiguous, on the CPU, and share no memory.

        Args:
            tokens: int64 (most,); parents: int32 (most,); scores, chances: float32 (most,); features: float32 (24,);
            cells: int32 (most,); count: int32 (1,).

        Raises:
            InputError: a tensor of another shape, type, device or layout, or memory that is shared.
        """
    def extend(self, tokens: Sequence[int]) -> None:
        """Appends tokens, 0 … 2^31 - 1; -1 separates texts: it matches nothing and is never proposed.

        Raises:
            InputError: something else is among them, or the text gets longer than 2^30 tokens; none is appended then.
        """
    def propose(self, tokens: Sequence[int] = ()) -> int:
        """Appends tokens as `extend` does, writes the candidates at the end of the text, and says how many there are.

        What stands behind them is as `ltd.lookup.TextCandidates` says.

        Raises:
            InputError: as `extend`, or there is nowhere to write to.
        """

def count_sources(sources: Tensor, candidates: Tensor, path: Tensor, kept: Sequence[int]) -> list[int]:
    """How many of the accepted candidates the draft alone, the text alone, and both proposed: three numbers.

    Args:
        sources: int8 (B, C), as `ltd.ops.merge_text` writes them; 0 counts for none of the three.
        candidates: int32 (B, N), of the verified nodes, as `ltd.ops.select_tree` writes them.
        path: int32 (B, P), accepted nodes, the root first.
        kept: how many of the nodes behind the root count, for each of the B sequences; 0 … P - 1.

    Raises:
        InputError: a tensor of another shape, type or device, or one that holds what cannot be there.
    """
