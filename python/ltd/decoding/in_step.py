"""Logits processors and stopping criteria of `transformers` along accepted paths, asked just as `generate` asks them.

A processor or criterion gets the ids of a whole batch, once per position and in order, and may keep a state per row.
So the rows of a batch take every step together: a cycle gains as many tokens as all rows that go on have accepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteriaList
from transformers.generation.stopping_criteria import MaxLengthCriteria

from ltd.decoding.acceptance import Sampling, VerifiedTrees, accept_next
from ltd.decoding.report import NOT_FINITE, Report
from ltd.errors import InputError
from ltd.noise import noise_of
from ltd.ops import Noise
from ltd.tree import TreeNodes

Advance = tuple[int, int]  # a node, and the token after it
NO_TOKEN = (
    "logits processors left no token to choose, or a score of +inf; "
    "check them, and which tokens the generation config suppresses"
)


class Choose(Protocol):
    """Chooses tokens by processed scores."""

    def __call__(self, scores: Tensor, positions: Tensor, noises: list[Noise | None]) -> list[int]:
        """float32 (n, vocabulary) scores after the tokens at int64 (n,) positions of n prompts, and the noise of each,
        None where nothing is sampled → n tokens."""
        ...


def choose_best(scores: Tensor, positions: Tensor, noises: list[Noise | None]) -> list[int]:
    """The best ones, the first of equals, as `transformers` chooses, even where every token has been ruled out."""
    best: list[int] = scores.argmax(dim=-1).tolist()
    return best


def choose_possible(scores: Tensor, positions: Tensor, noises: list[Noise | None]) -> list[int]:
    """The best ones. Raises InputError where every token has been ruled out: they would all be as good."""
    if (scores.amax(dim=-1) == -torch.inf).any():
        raise InputError(NO_TOKEN)
    return choose_best(scores, positions, noises)


def chooser(sampling: Sampling, *, greedy: Choose = choose_possible) -> Choose:
    """How the tokens of one call are chosen; `greedy` chooses at temperature 0."""
    if sampling.temperature == 0.0:
        return greedy
    accept = sampling.acceptor()

    def choose(scores: Tensor, positions: Tensor, noises: list[Noise | None]) -> list[int]:
        if not scores.amax(dim=-1).isfinite().all():
            raise InputError(NO_TOKEN)
        report, tokens = Report([0], scores.device), []
        for row, noise in enumerate(noises):
            here = slice(row, row + 1)
            accepted = accept_next(accept, scores[here, None].contiguous(), positions[here], report, noise)
            tokens += accepted.token_lists[0]
        return tokens

    return choose


class InStep:
    """Prompts that `transformers` would generate for as one batch.

    Args:
        rows: which prompts of the call they are.
        input_ids: int64 (n, width), as `generate` has them: padded on the left.
        processors, criteria: as `generate` prepared them for these ids.
        choose: by processed scores.
        pad: what stands behind a finished row; needed where there is a criterion of end tokens.

    Raises:
        InputError: no limit of the length, or no padding.
    """

    def __init__(
        self,
        rows: Sequence[int],
        input_ids: Tensor,
        processors: LogitsProcessorList,
        criteria: StoppingCriteriaList,
        choose: Choose,
        pad: int | None,
    ) -> None:
        self.rows, self.ids, self.width = list(rows), input_ids, input_ids.shape[1]
        self.processors, self.criteria, self.choose = processors, criteria, choose
        # Without end tokens `generate` lets every row go on until all of them are finished.
        self.rows_end = any(hasattr(criterion, "eos_token_id") for criterion in criteria)
        if self.rows_end and pad is None and len(self.rows) > 1:
            raise InputError("a batch with end tokens needs padding behind finished rows; give a pad_token_id")
        self.pad = pad or 0
        self.limit = length_of(criteria) - self.width
        self.unfinished = [True] * len(self.rows)
        self.lengths = [0] * len(self.rows)

    @property
    def going(self) -> list[int]:
        """The places of the rows that go on."""
        if self.rows_end:
            return [place for place, unfinished in enumerate(self.unfinished) if unfinished]
        return list(range(len(self.rows))) if any(self.unfinished) else []

    def walk(
        self, logits: Sequence[Tensor], trees: Sequence[Tree], noises: Sequence[Noise | None]
    ) -> list[list[Advance]]:
        """What each row accepts of its tree, as far as all that go on can go together.

        Args:
            logits: (N, vocabulary) of the nodes, per row of the batch; whatever there is for finished ones.
            trees, noises: theirs.
        """
        walked: list[list[Advance]] = [[] for _ in self.rows]
        nodes = [0] * len(self.rows)
        while going := self.going:
            scores = torch.stack([each[node] for each, node in zip(logits, nodes, strict=True)])
            positions = [trees[place].positions[nodes[place]] for place in going]
            tokens = self.step(scores, positions, [noises[place] for place in going])
            for place in going:
                walked[place].append((nodes[place], tokens[place]))
                nodes[place] = trees[place].child(nodes[place], tokens[place])
            if any(nodes[place] < 0 for place in self.going):
                break
        return walked

    def step(self, logits: Tensor, positions: list[int], noises: list[Noise | None]) -> list[int]:
        """The next token of every row, padding for finished ones.

        Args:
            logits: (n, vocabulary) of all rows.
            positions, noises: of the last tokens of the rows that go on.
        """
        going, device = self.going, self.ids.device
        raw = logits.to(device=device, dtype=torch.float32, copy=True)
        if not raw[going].amax(dim=-1).isfinite().all():
            raise InputError(NOT_FINITE)
        scores: Tensor = self.processors(cast(torch.LongTensor, self.ids), cast(torch.FloatTensor, raw))
        if scores[going].isnan().any():
            raise InputError("logits processors made scores that are not a number; check them")
        chosen = self.choose(scores[going], torch.tensor(positions, device=device), noises)
        tokens = [self.pad] * len(self.rows)
        for place, token in zip(going, chosen, strict=True):
            tokens[place] = token
            self.lengths[place] += 1
        self.ids = torch.cat([self.ids, self.ids.new_tensor(tokens)[:, None]], dim=1)
        ends = self.criteria(cast(torch.LongTensor, self.ids), cast(torch.FloatTensor, None))
        self.unfinished = [was and not ended for was, ended in zip(self.unfinished, ends.tolist(), strict=True)]
        return tokens

    def finished(self, place: int, length: int) -> bool:
        """Whether the answer of a row ends with its so many tokens."""
        return length == self.lengths[place] and place not in self.going


class Tree:
    """A verified tree on the host, for one walk."""

    def __init__(self, nodes: TreeNodes, index: int) -> None:
        self.positions: list[int] = nodes.positions[index].tolist()
        self._tokens: list[int] = nodes.tokens[index].tolist()
        self._first: list[int] = nodes.first_child[index].tolist()
        self._following: list[int] = nodes.next_sibling[index].tolist()

    def child(self, node: int, token: int) -> int:
        """The child of a node with this token, or -1."""
        child = self._first[node]
        while child >= 0 and self._tokens[child] != token:
            child = self._following[child]
        return child


class InStepAcceptor:
    """`Acceptor` and `Stops` of a call whose prompts are in one or more batches of `transformers`.

    Args:
        batches: every prompt of the call is in one of them.
    """

    def __init__(self, batches: Sequence[InStep]) -> None:
        self._batches = batches
        self._places = {row: (batch, place) for batch in batches for place, row in enumerate(batch.rows)}

    def limit(self, row: int) -> int:
        """See `Stops`."""
        return self._places[row][0].limit

    def finished(self, row: int, answer: list[int]) -> bool:
        """See `Stops`."""
        batch, place = self._places[row]
        return batch.finished(place, len(answer))

    def __call__(self, trees: VerifiedTrees) -> None:
        """See `Acceptor`."""
        logits, nodes, report, noise = trees.logits, trees.nodes, trees.report, trees.noise
        index_of = {row: index for index, row in enumerate(report.rows)}
        path, tokens, gained = (part.new_zeros(part.shape, device="cpu") for part in report.walk)
        for batch in self._batches:
            # Finished rows have left the call, and whatever stands for their scores is not looked at.
            indices = [index_of.get(row, 0) for row in batch.rows]
            if not batch.going:
                continue
            walked = batch.walk(
                [logits[index] for index in indices],
                [Tree(nodes, index) for index in indices],
                [None if noise is None else noise_of(noise, index) for index in indices],
            )
            for row, steps in zip(batch.rows, walked, strict=True):
                if steps:
                    index = index_of[row]
                    gained[index] = len(steps)
                    path[index, : len(steps)] = torch.tensor([node for node, _ in steps])
                    tokens[index, : len(steps)] = torch.tensor([token for _, token in steps])
        for part, made in zip(report.walk, (path, tokens, gained), strict=True):
            part.copy_(made)


def length_of(criteria: StoppingCriteriaList) -> int:
    """The most tokens of prompt and answer together.

    Raises:
        InputError: nothing limits them.
    """
    limits = [int(each.max_length) for each in criteria if isinstance(each, MaxLengthCriteria)]
    if not limits:
        raise InputError("nothing limits the length of the answer; give max_new_tokens")
    return min(limits)
