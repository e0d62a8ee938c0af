"""How fast a training learned, and how near that is to what its products of matrices take at least."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from ltd.training.data.batches import Batch
from ltd.training.data.floor import machine_rates
from ltd.training.loop import Training


def learning_facts(training: Training, batches: Iterable[Batch]) -> dict[str, Any]:
    """Answer tokens a second of all timed updates, and the share of what the machine's floor allows; also printed.

    The floor is what the products of the gradients take at the machine's best rate, counted in some of the batches that
    are learned from. Where no update was timed there is nothing.
    """
    if training.timed_seconds <= 0 or training.timed_tokens == 0:
        return {}
    operations = tokens = 0
    for batch in batches:
        with FlopCounterMode(display=False) as counter:
            training.gradients(batch, 0)
        operations += counter.get_total_flops()
        tokens += int(batch.learned.sum())
    rate = training.timed_tokens / training.timed_seconds
    least = operations / max(1, tokens) / machine_rates(training.device, training.dtype).multiply
    print(f"learned {rate:,.0f} answer tokens/s, {100 * rate * least:.0f} % of the machine's floor", file=sys.stderr)
    return {"answer_tokens_per_second": round(rate, 1), "share_of_floor": round(rate * least, 3)}
