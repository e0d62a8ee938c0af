"""Training-time test: the head is trained on its own outputs, as it will be used (EAGLE-3, section 3.2).

Step 0 reads the target's features, every later step the states of the step before, with gradients; the tokens are those
of the data. Slot i of step k holds the embedding of token i+k+1, has position i+k and predicts token i+k+2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from ltd.drafts.eagle3.head import EVERY, Eagle3Head
from ltd.training.data.batches import ROUND_TO, Batch
from ltd.training.distillation import SoftCrossEntropy, TargetParts, covered_mass, filled, target_logits


class StepAttention:
    """The attention of one unrolled batch: slot i sees the step-0 keys j <= i and its own keys of the later steps.

    Called once per step, in order, after `carry` has said which slots ask; the signature is
    `ltd.drafts.eagle3.head.Attend`.
    """

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        self._first: list[tuple[Tensor, Tensor]] = []  # step-0 keys and values (Hkv,T,d) of every conversation
        self._own: list[tuple[Tensor, Tensor]] = []  # per later step: keys and values (Hkv,m,d) of the present slots

    def carry(self, slots: Tensor, kept: Tensor) -> None:
        """The coming step has the slots `slots` (m,), ascending; they stood at `kept` (m,) in the step before."""
        self._own = [(key[:, kept], value[:, kept]) for key, value in self._own]
        ends = torch.tensor(self.sizes).cumsum(0)
        bounds = [0, *torch.searchsorted(slots, ends.to(slots.device)).tolist()]
        starts = [0, *ends.tolist()]
        self._parts = [
            (slice(low, high), slots[low:high] - start)
            for low, high, start in zip(bounds, bounds[1:], starts, strict=False)
        ]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = query[0], key[0], value[0]
        if self._first:
            self._own.append((key, value))
        else:  # those of all slots, whichever ask
            self._first = list(zip(key.split(self.sizes, 1), value.split(self.sizes, 1), strict=True))
        mixed = [
            self._attend(query[:, part], positions, first, [(k[:, part], v[:, part]) for k, v in self._own])
            for (part, positions), first in zip(self._parts, self._first, strict=True)
        ]
        return torch.cat(mixed, dim=1).transpose(0, 1)[None]

    @staticmethod
    def _attend(
        query: Tensor, positions: Tensor, first: tuple[Tensor, Tensor], own: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """One conversation: query (Hq,m,d) of slots at `positions` (m,) -> (Hq,m,d)."""
        keys, values = first
        heads, count, width = query.shape
        # Query heads are grouped by the key head they share: (Hkv,G,m,d).
        grouped = (query * width**-0.5).view(keys.size(0), heads // keys.size(0), count, width)
        scores = (grouped.flatten(1, 2) @ keys.transpose(1, 2)).view(*grouped.shape[:3], keys.size(1))
        future = positions[:, None] < torch.arange(keys.size(1), device=query.device)
        scores = scores.masked_fill(future, float("-inf"))
        later = [(grouped * key[:, None]).sum(-1, keepdim=True) for key, _ in own]
        weights = torch.cat([scores, *later], dim=-1).softmax(-1).to(values.dtype)
        mixed = (weights[..., : keys.size(1)].flatten(1, 2) @ values).view(grouped.shape)
        for step, (_, value) in enumerate(own):
            mixed = mixed + weights[..., keys.size(1) + step, None] * value[:, None]
        return mixed.reshape(heads, count, width)


def step_masks(batch: Batch, steps: int) -> Iterator[Tensor]:
    """Per step (n,) bool: the slots whose root token and all drafted ones are to be learned.

    So a slot counts from the first token of an answer on, as when decoding, and never reaches over the answer's end.
    """
    mask = batch.ahead(batch.learned, 1)
    for step in range(steps):
        mask = mask & batch.ahead(batch.learned, step + 2)
        yield mask


def learned_slots(batch: Batch) -> Tensor:
    """How many slots step 0 learns from (scalar int64); at least 1, because the loss is divided by it."""
    return next(step_masks(batch, 1)).sum().clamp_min(1)


def unroll(
    head: Eagle3Head, parts: TargetParts, batch: Batch, wanted: Iterable[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The slots (m,) int64 of every step, ascending, and their states (m' >= m, H); rows from m on mean nothing.

    wanted: per step the slots (n,) bool that are to be unrolled; those of a step are among those of the step before.
    Step 0 makes the keys of all slots, because all that come later see them.
    """
    attend = StepAttention(batch.sizes)
    positions = batch.positions
    slots = torch.arange(len(positions), device=positions.device)
    states = head.fuse(batch.features[None].to(head.fc.weight.dtype))

    for step, chosen in enumerate(wanted):
        kept = chosen[slots].nonzero()[:, 0]
        rows = filled(kept)
        attend.carry(slots[rows], rows)
        seen = slots
        asking: Tensor | slice = rows
        if step > 0:
            seen, states, asking = slots[rows], states[:, rows], EVERY
        embeddings = parts.embedding[batch.ahead(batch.tokens, step + 1)[seen]]
        states = head(embeddings[None], states, positions[seen][None] + step, attend, asking)
        slots = slots[kept]
        yield slots, states[0]


def thinned(masks: Iterable[Tensor], decay: float, generator: torch.Generator) -> Iterator[Tensor]:
    """The masks of the steps, each step keeping a slot of the step before with probability `decay`.

    A slot is left in step k with probability decay^k: that stands, without bias, for weighing its loss with decay^k,
    and costs a step only what its weight is worth.
    """
    kept: Tensor | None = None
    for mask in masks:
        if kept is None:
            kept = torch.ones(mask.shape, dtype=torch.bool)
        else:
            kept &= torch.rand(mask.shape, generator=generator) < decay
        yield mask & kept.to(mask.device)


def loss_of_batch(
    head: Eagle3Head, parts: TargetParts, batch: Batch, steps: int, decay: float,
    generator: torch.Generator | None = None, *, weighed: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The loss sum_k decay^k * loss_k (scalar) and the mean losses of the steps' slots (steps,), both float32.

    loss_k is the soft cross-entropy against the target's distribution renormalised over the draft vocabulary, divided
    by the number of learned slots of step 0 (the paper's code divides by all slots, padding included). A slot where the
    target's best token is not in the draft vocabulary is left out; or, `weighed`, every slot counts as much as the
    target's probability of the draft vocabulary, so that the rest of the mass teaches nothing: -sum p(x) log q(x) over
    the draft's words, p not renormalised. With a generator (on the CPU), the sum is estimated from `thinned` slots.
    """
    masks = list(step_masks(batch, steps))
    count = learned_slots(batch)
    # Every slot that counts asks for the target's word at a learned token that another learned one follows.
    needed = batch.learned & batch.ahead(batch.learned, 1)
    if not weighed:
        needed = needed & head.t2d[batch.best]
    places = filled(needed.nonzero()[:, 0])
    logits = target_logits(parts, batch.final[places])
    worth = covered_mass(logits, batch.totals[places]) if weighed else torch.ones(len(places), device=places.device)
    row_of = needed.cumsum(0) - 1
    wanted = masks if generator is None else thinned(masks, decay, generator)
    chosen, rows, scales = [], [], []
    for step, (slots, states) in enumerate(unroll(head, parts, batch, wanted)):
        asked = batch.ahead(needed, step + 1)[slots]
        states = states[: len(slots)][asked]
        chosen.append(states if head.config.norm_output else head.norm(states))
        rows.append(batch.ahead(row_of, step + 1)[slots[asked]])
        scales.append((1.0 if generator else decay**step) * worth[rows[-1]].float() / count)
    # One call for all steps: the output layer's gradient is the largest there is, and is then summed up only once.
    learned = sum(map(len, rows))
    missing = -learned % ROUND_TO
    total, losses = SoftCrossEntropy.apply(  # type: ignore[no-untyped-call]
        functional.pad(torch.cat(chosen), (0, 0, 0, missing)), head.lm_head.weight, logits.softmax(-1),
        functional.pad(torch.cat(rows), (0, missing)), functional.pad(torch.cat(scales), (0, missing)),
    )  # fmt: skip
    of_steps = losses[:learned].split([len(part) for part in rows])
    return total, torch.stack([each.mean() if len(each) else each.sum() for each in of_steps])
