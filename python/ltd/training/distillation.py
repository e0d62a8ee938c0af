"""The loss that all drafts are trained with: cross-entropy against the target's own probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ltd.training.data.batches import ROUND_TO

ROWS_PER_CHUNK = 1024  # rows of logits held at a time


class SoftCrossEntropy(torch.autograd.Function):
    """Weighted sum over rows of the cross-entropy of softmax(x @ weight.T) against given probabilities.

    The gradients are made in the forward pass, chunk by chunk, so that no more than a chunk of logits ever exists;
    that of the weight only where it is asked for, because it takes a third of the time.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, probabilities: Tensor, rows: Tensor, scales: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x (n,H), weight (Vd,H), probabilities (m,Vd), rows (n,) int64 into them, scales (n,) float32.

        Returns the sum (scalar) and the unscaled losses of the rows (n,), which carry no gradient; both float32.
        """
        losses = torch.empty(len(x), device=x.device)
        low = weight.to(probabilities.dtype)
        grad_x = torch.empty_like(x)
        grad_weight = None
        for start in range(0, len(x), ROWS_PER_CHUNK):
            part = slice(start, start + ROWS_PER_CHUNK)
            chunk, wanted = x[part].to(low.dtype), probabilities[rows[part]]
            logs = (chunk @ low.t()).log_softmax(-1, dtype=torch.float32)
            losses[part] = -torch.linalg.vecdot(logs, wanted.float())
            difference = (logs.exp_().sub_(wanted) * scales[part, None]).to(low.dtype)
            grad_x[part] = difference @ low
            if ctx.needs_input_grad[1]:
                product = difference.t() @ chunk
                # The first is not added to zeros: of a gradient this large every pass over the memory takes its time.
                grad_weight = product.float() if grad_weight is None else grad_weight.add_(product)
        if ctx.needs_input_grad[1] and grad_weight is None:
            grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        ctx.save_for_backward(grad_x, None if grad_weight is None else grad_weight.to(weight.dtype))
        ctx.mark_non_differentiable(losses)
        return losses @ scales, losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        grad_x, grad_weight = ctx.saved_tensors
        return grad_x * grad.to(grad_x.dtype), None if grad_weight is None else grad_weight * grad, None, None, None


@dataclass(frozen=True, slots=True)
class TargetParts:
    """What training needs of the target, frozen: embedding (V,H) and the head's rows of the output layer (Vd,Ht)."""

    embedding: Tensor
    output_rows: Tensor


def target_logits(parts: TargetParts, final: Tensor) -> Tensor:
    """final (n,Ht), after the target's final norm -> its logits for the draft vocabulary (n,Vd)."""
    rows = parts.output_rows
    return final.to(rows.dtype) @ rows.t()


def target_probabilities(parts: TargetParts, final: Tensor) -> Tensor:
    """final (n,Ht), after the target's final norm -> its distribution over the draft vocabulary (n,Vd)."""
    return target_logits(parts, final).softmax(-1)


def covered_mass(logits: Tensor, total: Tensor) -> Tensor:
    """The target's probability (n,) of the draft's words.

    logits (n,Vd): the target's for them; total (n,): the logarithm of the sum of exponentials over all its words.
    """
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (exact.logsumexp(-1) - total).exp().clamp_max(1.0)  # both were rounded


def filled(indices: Tensor) -> Tensor:
    """Indices (m,) followed by as many copies of the last as make m a multiple of `ROUND_TO`; none stay none."""
    missing = -len(indices) % ROUND_TO
    return torch.cat([indices, indices[-1:].expand(missing)]) if len(indices) else indices
