"""What a verification gains, in buffers at fixed addresses, and the one way in which the host comes to know it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ltd import ops
from ltd.decoding.gain import Accepted
from ltd.engine.host_copy import HostCopy
from ltd.engine.kv_cache import refilled
from ltd.errors import InputError
from ltd.tree import MAX_GAIN

NOT_FINITE = (
    "the target's logits are not finite; check its weights, or use dtype float32 (float16 overflows in some models)"
)


class Report:
    """The walk through the verified trees of B sequences. An acceptor fills it; then it is sent and read.

    Args:
        rows: for each of the sequences, which prompt of the call it belongs to.
        device: of the sequences.

    Attributes:
        rows: the same.
        path: int32 (B, P), P = MAX_GAIN: visited nodes, root first. What stands behind the gain is any node.
        tokens: int64 (B, P), the target's token after each of them; -1 where its logits are not finite.
        gained: int32 (B,), how many of both count.
        sources: int8 (B, P), who proposed the nodes, see `DraftTree.sources`; written where `is_apart`, if tokens are
            looked up.
        roots: int64 (B,), the last token that counts, after `finish`.
    """

    def __init__(self, rows: Sequence[int], device: torch.device) -> None:
        self.rows, batch = list(rows), len(rows)
        self.path = torch.zeros(batch, MAX_GAIN, dtype=torch.int32, device=device)
        self.tokens = torch.zeros_like(self.path, dtype=torch.int64)
        self.gained = torch.zeros(batch, dtype=torch.int32, device=device)
        self.roots = torch.zeros(batch, dtype=torch.int64, device=device)
        # The operator's report: what was gained, the root, the tokens.
        shapes = ((batch, 2 + MAX_GAIN), torch.int64), ((batch, MAX_GAIN), torch.int8)
        self._sent = HostCopy(*shapes, device=device)
        self._line, self.sources = self._sent.parts

    @property
    def walk(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What an acceptor fills: path, tokens and gained."""
        return self.path, self.tokens, self.gained

    def clear(self) -> None:
        """Zeros everywhere, as at first."""
        for part in (self.path, self.tokens, self.sources, self.gained, self.roots):
            part.zero_()

    def known(self, token_lists: list[list[int]]) -> Accepted:
        """Tokens that the host gives, as if they had been gained; of the nodes before them nothing is known."""
        self.clear()
        for tokens, row in zip(token_lists, self.tokens, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        counts = list(map(len, token_lists))
        self.gained.copy_(torch.tensor(counts, dtype=torch.int32))
        self.finish()
        return Accepted(self.path, self.tokens, self.gained, self.roots, counts, token_lists)

    def keep(self, rows: list[int]) -> Report:
        """One for these sequences alone."""
        return Report([self.rows[row] for row in rows], self.path.device)

    def refill(self, rows: list[int]) -> None:
        """Has these sequences alone, and copies of them in the others' places, see `KVCache.refill`."""
        places = refilled(rows, len(self.rows))
        self.rows = [self.rows[row] for row in places]
        index = torch.tensor(places, device=self.path.device)
        for part in (self.path, self.tokens, self.gained, self.roots):
            part.copy_(part[index])

    def finish(self, features: torch.Tensor | None = None, gathered: torch.Tensor | None = None) -> None:
        """On the device, once it is filled: the next roots, what the host is told, and the features of the path.

        Args:
            features: (B, N, F * H), of the tree's nodes; None if nothing is tapped.
            gathered: (B, P, F * H), written: those of the path, 0 behind it; None without features.
        """
        ops.gather_accepted(features, self.path, self.tokens, self.gained, gathered, self.roots, self._line)

    def send(self) -> None:
        """Lets the device tell the host, as soon as it has come so far; nobody waits."""
        self._sent.send()

    @property
    def is_apart(self) -> bool:
        """Whether what the device holds has to be sent to be seen."""
        return self._sent.is_apart

    def read(self) -> Accepted:
        """What was sent last, on the host: the one place where a cycle waits for the device.

        Raises:
            InputError: the target's logits were not finite.
        """
        line, sources = self._sent.wait()
        lines: list[list[int]] = line.tolist()
        counts = [row[0] for row in lines]
        token_lists = [row[2 : 2 + row[0]] for row in lines]
        if any(token < 0 for chosen in token_lists for token in chosen):
            raise InputError(NOT_FINITE)
        known = sources if self.is_apart else None
        return Accepted(self.path, self.tokens, self.gained, self.roots, counts, token_lists, known)
