"""Chains whose draft draws with the target's noise: each token is the target's own or it is not, and no coin is thrown.

Target and draft take the largest value of logit / temperature + noise, with the noise of the place that a token stands
at, as trees do. So the text of a seed is plain decoding's, whatever the draft and the length of its chains.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ltd import ops
from ltd.chains.sampling import Chain, chain_nodes
from ltd.decoding.acceptance import Sampling
from ltd.decoding.report import NOT_FINITE
from ltd.engine.pool import power_of_two
from ltd.errors import InputError
from ltd.tree import DraftTree


@dataclass(frozen=True, slots=True)
class NoiseSampling:
    """Draws and keeps the tokens of one generation at a temperature; see `ChainSampler`.

    Without top-k and top-p PyTorch is asked for nothing as long as a vocabulary: its threads would spin on beside the
    engine's.

    Attributes:
        sampling: of draft and target.
        words: int64 (Vd,), the target's ids of the draft's; None if they are the same.
        offsets: int64 (Vd,), from the draft's words to the target's ids, as a head's d2t; None if they are the same.
        numbers: int64 (vocabulary,), the draft's words by the target's ids; None likewise.
        noise: of the places of the sequence, with room for those of the longest chain and its root.
        tree: room for one candidate.
    """

    sampling: Sampling
    words: Tensor | None
    offsets: Tensor | None
    numbers: Tensor | None
    noise: ops.Noise
    tree: DraftTree = field(default_factory=lambda: DraftTree(1, 1, 0, 1, torch.device("cpu")), repr=False)

    @classmethod
    def start(cls, sampling: Sampling, words: Tensor | None, vocabulary: int, longest: int) -> NoiseSampling:
        """For one generation.

        Args:
            sampling: at a temperature above 0.
            words: see the attributes.
            vocabulary: the target's.
            longest: the most tokens of a chain.
        """
        noise = ops.Noise.new(1, vocabulary, [0], "cpu", power_of_two(longest + 1))
        noise.restart(sampling.drawn_seed(), [0])
        if words is None:
            return cls(sampling, None, None, None, noise)
        order = torch.arange(len(words))
        numbers = torch.full((vocabulary,), -1).index_copy(0, words, order)
        return cls(sampling, words, words - order, numbers, noise)

    def draft(self, chain: Chain, logits: Tensor) -> tuple[int, float]:
        """See `ChainSampler`; the chance is the word's share of all values with noise, as trees' scores have it."""
        position = chain.position + len(chain)
        best, score = self._best(logits, position)
        if score == -math.inf:
            return -1, 0.0
        if not self.sampling.top_k and self.sampling.top_p == 1.0:
            return best, math.exp(score)
        (choice,) = self._walk([0], position, logits[None], self._noise_of_words(position))
        behind = self._value(logits, choice, position) - self._value(logits, best, position)
        return choice, math.exp(score + behind)

    def _value(self, logits: Tensor, word: int, position: int) -> float:
        """A word's value with the noise of a place, which has been made."""
        token = word if self.words is None else int(self.words[word])
        noise = self.noise.noise[0, position % self.noise.places.shape[1], token]
        return float(logits[word]) / self.sampling.temperature + float(noise)

    def _best(self, logits: Tensor, position: int) -> tuple[int, float]:
        """The best word, with the noise of a place; and the logarithm of its share of the values of all."""
        tree = self.tree
        buffers = (tree.tokens, tree.scores, tree.parents, tree.beam_nodes, tree.beam_rows, tree.beam_tokens)
        tree.lengths.fill_(position)
        ops.expand_beam(
            logits[None, None],
            self.offsets,
            0,
            *buffers,
            tree.beam_masks,
            self.noise,
            tree.lengths,
            self.sampling.temperature,
        )
        token = int(tree.tokens[0, 0])
        return token if self.numbers is None else int(self.numbers[token]), float(tree.scores[0, 0])

    def _noise_of_words(self, position: int) -> ops.Noise:
        """That of a place, which has been made, in the order of the draft's words."""
        if self.words is None:
            return self.noise
        own = self.noise.noise[:, position % self.noise.places.shape[1], self.words]
        return replace(self.noise, noise=own[:, None], places=torch.full((1, 1), position))

    def accept(self, chain: Chain, logits: Tensor) -> tuple[int, int]:
        """See `ChainSampler`."""
        walked = self._walk([0, *chain.tokens], chain.position, logits, self.noise)
        if walked[-1] < 0:
            raise InputError(NOT_FINITE)
        return len(walked) - 1, walked[-1]

    def _walk(self, tokens: list[int], position: int, logits: Tensor, noise: ops.Noise) -> list[int]:
        """The tokens that the rule gives along a chain, up to the first that is not the chain's.

        Args:
            tokens: the root, which may be any, and the chain.
            position: of the root.
            logits: (len(tokens), V). noise: of V tokens.
        """
        nodes, how = chain_nodes(tokens, position), self.sampling
        path = torch.zeros(1, len(tokens), dtype=torch.int32)
        gained, count = torch.zeros(1, len(tokens), dtype=torch.int64), torch.zeros(1, dtype=torch.int32)
        tree = (nodes.tokens, nodes.first_child, nodes.next_sibling, nodes.positions)
        settings = (how.temperature, how.top_k, how.top_p)
        ops.accept_sample(logits[None], *tree, *settings, noise, path, gained, count)
        walked: list[int] = gained[0, : int(count)].tolist()
        return walked
