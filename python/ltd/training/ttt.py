"""Training-time test: the head is trained on its own outputs, as it will be used (EAGLE-3, section 3.2).

Step 0 reads the target's features, every later step the states of the step before, with gradients; the tokens are those
of the data. Slot i of step k holds the embedding of token i+k+1, has position i+k and predicts token i+k+2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ltd.drafts.head import Eagle3Head
from ltd.training.batches import Batch

ROWS_PER_CHUNK = 1024  # rows of logits held at a time


class StepAttention:
    """The attention of one unrolled batch: slot i sees the step-0 keys j <= i and its own keys of the later steps.

    Called once per step, in order; the signature is `ltd.drafts.head.Attend`.
    """

    def __init__(self) -> None:
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self._keys.append(key)
        self._values.append(value)
        batch, heads, length, width = query.shape
        # Query heads are grouped by the key head they share: (B,Hkv,G,T,d).
        query = (query * width**-0.5).view(batch, key.size(1), -1, length, width)
        first = query.flatten(2, 3) @ self._keys[0].transpose(2, 3)
        first = first.view(*query.shape[:4], length)
        future = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
        first = first.masked_fill(future, float("-inf"))
        own = [(query * key[:, :, None]).sum(-1, keepdim=True) for key in self._keys[1:]]
        weights = torch.cat([first, *own], dim=-1).softmax(-1).to(value.dtype)
        mixed = (weights[..., :length].flatten(2, 3) @ self._values[0]).view(query.shape)
        for step, value in enumerate(self._values[1:]):
            mixed = mixed + weights[..., length + step, None] * value[:, :, None]
        return mixed.reshape(batch, heads, length, width).transpose(1, 2)


class SoftCrossEntropy(torch.autograd.Function):
    """Weighted sum over rows of the cross-entropy of softmax(x @ weight.T) against given probabilities.

    The gradients are made in the forward pass, chunk by chunk, so that no more than a chunk of logits ever exists.
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
        grad_x, grad_weight = torch.empty_like(x), torch.zeros_like(weight, dtype=torch.float32)
        for start in range(0, len(x), ROWS_PER_CHUNK):
            part = slice(start, start + ROWS_PER_CHUNK)
            chunk, wanted = x[part].to(low.dtype), probabilities[rows[part]]
            logs = (chunk @ low.t()).log_softmax(-1, dtype=torch.float32)
            losses[part] = -torch.linalg.vecdot(logs, wanted.float())
            difference = (logs.exp_().sub_(wanted) * scales[part, None]).to(low.dtype)
            grad_x[part] = difference @ low
            grad_weight += difference.t() @ chunk
        ctx.save_for_backward(grad_x, grad_weight.to(weight.dtype))
        ctx.mark_non_differentiable(losses)
        return losses @ scales, losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_x, grad_weight = ctx.saved_tensors
        return grad_x * grad.to(grad_x.dtype), grad_weight * grad, None, None, None


@dataclass(frozen=True, slots=True)
class TargetParts:
    """What training needs of the target, frozen: embedding (V,H) and the head's rows of the output layer (Vd,Ht)."""

    embedding: Tensor
    output_rows: Tensor


def target_probabilities(parts: TargetParts, final: Tensor) -> Tensor:
    """final (n,Ht), after the target's final norm -> its distribution over the draft vocabulary (n,Vd)."""
    rows = parts.output_rows
    return (final.to(rows.dtype) @ rows.t()).softmax(-1)


def step_masks(learned: Tensor, steps: int) -> Iterator[Tensor]:
    """learned (B,T) bool -> per step (B,T) bool: slots whose root token and all drafted ones are to be learned.

    So a slot counts from the first token of an answer on, as when decoding, and never reaches over the answer's end.
    """
    mask = shifted(learned, 1)
    for step in range(steps):
        mask = mask & shifted(learned, step + 2)
        yield mask


def shifted(x: Tensor, by: int) -> Tensor:
    """x (B,T) moved left, zeros (False) coming in at the end."""
    out = torch.zeros_like(x)
    if by < x.size(1):
        out[:, : x.size(1) - by] = x[:, by:]
    return out


def unroll(head: Eagle3Head, parts: TargetParts, batch: Batch, steps: int) -> Iterator[Tensor]:
    """The states (B,T,H) of every step, in order."""
    attend = StepAttention()
    positions = torch.arange(batch.tokens.size(1), device=batch.tokens.device)[None]
    states = head.fuse(batch.features.to(head.fc.weight.dtype))
    for step in range(steps):
        embeddings = parts.embedding[shifted(batch.tokens, step + 1)]
        states = head(embeddings, states, positions + step, attend)
        yield states


def loss_of_batch(
    head: Eagle3Head, parts: TargetParts, batch: Batch, steps: int, decay: float
) -> tuple[Tensor, Tensor]:
    """The loss sum_k decay^k * loss_k (scalar) and the losses of the steps (steps,), both float32.

    loss_k is the soft cross-entropy against the target's distribution renormalised over the draft vocabulary, left out
    where the target's best token is not in it, and divided by the number of learned slots of step 0 (the paper's code
    divides by all slots, padding included).
    """
    masks = list(step_masks(batch.learned, steps))
    count = masks[0].sum().clamp_min(1)
    # Every slot that counts asks for the target's word at a learned token that another learned one follows.
    needed = batch.learned & shifted(batch.learned, 1) & head.t2d[batch.best]
    probabilities = target_probabilities(parts, batch.final[needed])
    row_of = needed.flatten().cumsum(0).view(needed.shape) - 1
    chosen, rows, scales = [], [], []
    for step, states in enumerate(unroll(head, parts, batch, steps)):
        mask = masks[step] & shifted(needed, step + 1)
        chosen.append(states[mask] if head.config.norm_output else head.norm(states[mask]))
        rows.append(shifted(row_of, step + 1)[mask])
        scales.append(torch.full(rows[-1].shape, decay**step, device=mask.device) / count)
    # One call for all steps: the output layer's gradient is the largest there is, and is then summed up only once.
    total, losses = SoftCrossEntropy.apply(  # type: ignore[no-untyped-call]
        torch.cat(chosen), head.lm_head.weight, probabilities, torch.cat(rows), torch.cat(scales)
    )
    of_steps = losses.split([len(part) for part in rows])
    return total, torch.stack([each.sum() for each in of_steps]) / count
