"""SpecDec++'s rule: stop when one of the drafted tokens has probably been rejected already."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional

from ltd.chains.acceptance_files import load_acceptance
from ltd.chains.length import MAX_LENGTH
from ltd.common.argument_types import as_number, as_path, as_whole
from ltd.errors import InputError
from ltd.ops.engine import linear, pack_linear, packed_shape
from ltd.policies.baselines.acceptance_head import ACCEPTED, AcceptanceHead


class SpecDecPP:
    """Drafts on while P(some drafted token is rejected) ≤ threshold (SpecDec++, arXiv 2405.19715, theorem 4.1).

    That probability, of all drafted tokens but the newest, is 1 - Π P(token i accepted | the earlier ones accepted),
    each factor read by an acceptance prediction head from the draft's state at token i. As in the official code it
    costs no forward of its own: the one that reads token i also proposes token i + 1, which is then sent too. So the
    first token is always sent, and a second, as nothing is known before the first has been read.

    Args:
        head: the head, or the folder of a trained one. Its weights are copied, in float32.
        threshold: 0 … 1; larger means longer chains.
        least: tokens before which it never stops; 1 is as 2.
        most: tokens at which it always stops, up to 32.

    Raises:
        InputError: a setting is out of range, or the folder holds no whole head.

    Attributes:
        folder: where the head came from, if it was loaded.
    """

    def __init__(
        self, head: AcceptanceHead | str | Path, threshold: float = 0.3, least: int = 2, most: int = 20
    ) -> None:
        threshold, least, most = as_number(threshold, "threshold"), as_whole(least, "least"), as_whole(most, "most")
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold is {threshold}, but must be between 0 and 1")
        if not 1 <= least <= most <= MAX_LENGTH:
            raise InputError(f"least is {least} and most {most}, but they must be 1 ≤ least ≤ most ≤ {MAX_LENGTH}")
        self.folder = None if isinstance(head, AcceptanceHead) else Path(as_path(head, "head"))
        self.head = head if isinstance(head, AcceptanceHead) else load_acceptance(head)
        self.threshold, self.least, self.max_length = threshold, least, most
        self._row = _Row(self.head)

    def start(self) -> SpecDecPPCall:
        """The rule for one generation, with a product of its own."""
        return SpecDecPPCall(self, self._row)


class SpecDecPPCall:
    """`SpecDecPP` during one generation: the product of the current cycle."""

    def __init__(self, rule: SpecDecPP, row: _Row) -> None:
        self.rule, self._row, self._all_accepted = rule, row, 1.0

    def more(self, drafted: int, chance: float, state: torch.Tensor) -> bool:
        """See `LengthCall`; `chance` is not looked at. The state is that of the token before the newest."""
        if drafted == 1:
            self._all_accepted = 1.0  # the token before the first is the target's own
        else:
            self._all_accepted *= self._row.chance(state)
        if drafted >= self.rule.max_length:
            return False
        return drafted < self.rule.least or 1 - self._all_accepted <= self.rule.threshold

    def verified(self, drafted: int, accepted: int) -> None:
        """Every cycle begins anew, so nothing is kept."""


class _Row:
    """The head for one state at a time, with our own products: PyTorch's threads would spin on beside the engine's."""

    def __init__(self, head: AcceptanceHead) -> None:
        def parts(layer: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
            assert isinstance(layer, torch.nn.Linear)
            weight = layer.weight.detach().cpu().float()
            outputs, inputs = weight.shape
            packed = torch.empty(packed_shape(outputs, inputs, weight.dtype), dtype=weight.dtype)
            pack_linear(weight, packed)
            return packed, layer.bias.detach().cpu().float().clone()

        self._project = parts(head.project) if head.project is not None else None
        self._blocks = [parts(block) for block in head.blocks]
        out = head.out
        assert isinstance(out, torch.nn.Linear)
        weight, bias = out.weight.detach().cpu().float(), out.bias.detach().cpu().float()
        # The softmax over two logits is the logistic function of their difference.
        self._out = weight[ACCEPTED] - weight[1 - ACCEPTED]
        self._bias = float(bias[ACCEPTED] - bias[1 - ACCEPTED])

    @torch.inference_mode()
    def chance(self, state: torch.Tensor) -> float:
        """(H,) → the probability that the token of this state is accepted."""
        hidden = state.to("cpu", torch.float32)[None]
        if self._project is not None:
            hidden = linear(hidden, self._project[0], len(self._project[1])).add_(self._project[1])
        for packed, bias in self._blocks:
            hidden = hidden + functional.silu(linear(hidden, packed, len(bias)).add_(bias), inplace=True)
        return float(torch.sigmoid((hidden[0] * self._out).sum() + self._bias))
