"""A draft that knows the target, more or less: makes long accepted paths, which random heads never do."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from ltd.tree import DraftTree


class OracleDraft:
    """Proposes the target's own logits plus noise, by plain forwards of `transformers` over the whole sequence.

    Args:
        model: a second copy of the target, or another model of the same tokens.
        prompts: what it must be given to read, row by row; None is anything.
        noise: standard deviation added to the logits, drawn anew at every call; 0 makes every greedy proposal of the
            target's copy right, and what is proposed at a place the same every time.
        sharpness: factor on the logits; a large one keeps the target's own choice at the head of the beam.
    """

    feature_layers: tuple[int, ...] = ()
    state_size = 0
    d2t = origin = None

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: list[list[int]] | None = None,
        noise: float = 0.0,
        width: int = 4,
        sharpness: float = 1.0,
    ) -> None:
        self.model, self.prompts, self.noise = model, prompts, noise
        self.width, self.sharpness = width, sharpness
        self.generator = torch.Generator().manual_seed(0)

    def start(self, batch: int, capacity: int) -> OracleSession:
        return OracleSession(self, batch)

    def logits(self, rows: list[list[list[int]]]) -> torch.Tensor:
        """(B, n, vocabulary) logits after each of a row's n sequences, which have one length within the row.

        All sequences of a length go through the model together.
        """
        by_length: dict[int, list[int]] = {}
        for row, sequences in enumerate(rows):
            by_length.setdefault(len(sequences[0]), []).append(row)
        outputs = torch.empty(len(rows), len(rows[0]), self.model.config.vocab_size)
        for same in by_length.values():
            tokens = torch.tensor([sequence for row in same for sequence in rows[row]])
            last = self.model(tokens, use_cache=False, logits_to_keep=1).logits[:, 0].float()
            outputs[same] = last.view(len(same), len(rows[0]), -1)
        return self.sharpness * outputs + self.noise * torch.randn(outputs.shape, generator=self.generator)


class OracleSession:
    """Sequences of tokens."""

    root_states = beam_states = None

    def __init__(self, draft: OracleDraft, batch: int) -> None:
        self.draft = draft
        self.sequences: list[list[int]] = [[] for _ in range(batch)]

    def read_prompt(self, row: int, features: torch.Tensor | None, tokens: torch.Tensor) -> None:
        assert features is None and not self.sequences[row]
        self.sequences[row] = tokens.tolist()
        assert self.draft.prompts is None or self.sequences[row] == self.draft.prompts[row]

    def begin(self, features: torch.Tensor | None, tokens: torch.Tensor, gained: torch.Tensor | None) -> torch.Tensor:
        assert features is None
        counts = [tokens.shape[1]] * len(tokens) if gained is None else gained.tolist()
        for sequence, row, count in zip(self.sequences, tokens.tolist(), counts, strict=True):
            sequence.extend(row[:count])
        return self.draft.logits([[sequence] for sequence in self.sequences])

    def note(self, counts: list[int]) -> None:
        """Its sequences are on the host."""

    def expand(self, tree: DraftTree) -> torch.Tensor:
        level = tree.levels - 1
        return self.draft.logits(
            [
                [sequence + path(tree, row, int(node)) for node in tree.beam_nodes[row, level]]
                for row, sequence in enumerate(self.sequences)
            ]
        )

    def keep(self, rows: list[int]) -> None:
        self.sequences = [self.sequences[row] for row in rows]

    def spread(self) -> None:
        self.sequences = [list(self.sequences[0]) for _ in self.sequences]

    def rewind(self, lengths: list[int]) -> None:
        for sequence, length in zip(self.sequences, lengths, strict=True):
            assert 1 <= length <= len(sequence)
            del sequence[length:]

    def pretend_read(self, lengths: list[int]) -> None:
        self.sequences = [[0] * length for length in lengths]

    def close(self) -> None:
        self.sequences.clear()


def path(tree: DraftTree, row: int, candidate: int) -> list[int]:
    """The tokens from below the root to a candidate."""
    tokens: list[int] = []
    while candidate >= 0:
        tokens.insert(0, int(tree.tokens[row, candidate]))
        candidate = int(tree.parents[row, candidate])
    return tokens
