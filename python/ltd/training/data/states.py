"""What training keeps of the target's forwards: a token's features, its last state, and what was most likely next."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ltd.engine.forward import Forward, TreeBlock
from ltd.engine.kv_cache import KVCache

ROWS_AT_ONCE = 256  # of logits in float32
TYPES = {"features": torch.bfloat16, "final": torch.bfloat16, "best": torch.int32, "total": torch.float32}


@torch.inference_mode()
def read_tokens(
    forward: Forward, tokens: Tensor, cache: KVCache, layers: tuple[int, ...]
) -> tuple[Tensor, dict[str, Tensor]]:
    """One forward of tokens (rows,n) -> their logits (rows,n,V), and what training keeps of them.

    That is features (rows,n,F*Ht): hs[k] of the feature layers; final (rows,n,Ht): after the final norm, both bfloat16;
    best (rows,n) int32: the most likely next token; total (rows,n) float32: the logarithm of the sum of exponentials of
    all logits.
    """
    width, block = int(forward.config.hidden_size), TreeBlock.chain(cache.lengths, tokens.size(1))
    read = forward(tokens, block, cache, taps=(*layers, int(forward.config.num_hidden_layers)))
    assert read.features is not None
    features, last = read.features.split([width * len(layers), width], dim=-1)
    best = most_likely(read.logits)
    states = {"features": features, "final": forward.norm(last), "best": best, "total": _total_of(read.logits, best)}
    return read.logits, {name: states[name].to(kind) for name, kind in TYPES.items()}


def most_likely(logits: Tensor) -> Tensor:
    """logits (…,V) -> the first of the largest (…) int64."""
    return logits.max(-1).indices  # much faster than argmax


def _total_of(logits: Tensor, best: Tensor) -> Tensor:
    """logits (…,V), the places of the largest (…) -> the logarithm of the sum of exponentials (…) float32."""
    found = []
    for part, place in zip(
        logits.flatten(0, -2).split(ROWS_AT_ONCE), best.flatten()[:, None].split(ROWS_AT_ONCE), strict=True
    ):
        # The largest's logit less its logarithmic probability: a third of the time that torch's logsumexp takes.
        found.append(part.gather(1, place).float() - part.log_softmax(-1, dtype=torch.float32).gather(1, place))
    return torch.cat(found).view(best.shape)


class RowStates:
    """The states of all that rows read, by row and place, in memory of the processor.

    Args:
        rows, capacity: how many rows, and tokens of each.
        layers: the hidden states hs[k] that are features.
        width: of a hidden state.
    """

    def __init__(self, rows: int, capacity: int, layers: tuple[int, ...], width: int) -> None:
        self.layers = layers
        sizes = {"features": (len(layers) * width,), "final": (width,)}
        self._kept = {
            name: torch.zeros(rows, capacity, *sizes.get(name, ()), dtype=kind) for name, kind in TYPES.items()
        }

    def add(self, rows: list[int], start: int, states: dict[str, Tensor]) -> None:
        """Of tokens that these rows read, as many in each, from the place `start` on: (len(rows),n,…)."""
        for name, kept in self._kept.items():
            kept[rows, start : start + states[name].size(1)] = states[name].cpu()

    def joined(self, sizes: Mapping[int, int]) -> dict[str, Tensor]:
        """Those of the first so many tokens of every row named, one row behind the other.

        The last token's are zero: nothing follows it, so a row need not have read it.
        """
        found = {}
        for name, kept in self._kept.items():
            found[name] = torch.cat([kept[row, :size] for row, size in sizes.items()]) if sizes else kept[0, :0]
            found[name][torch.tensor(list(sizes.values()), dtype=torch.int64).cumsum(0) - 1] = 0
        return found
