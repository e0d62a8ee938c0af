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

    Attributes:
        sampling: of draft and target.
        words: int64 (Vd,), the target's ids of the draft's; None if they are the same.
        noise: of the places of the sequence, with room for those of the longest chain and its root.
        tree: room for one candidate.
    """

    sampling: Sampling
    words: Tensor | None
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
        return cls(sampling, words, noise)

    def draft(self, chain: Chain, logits: Tensor) -> tuple[int, float]:
        """See `ChainSampler`; the chance is that at the temperature, without top-k and top-p."""
        position = chain.position + len(chain)
        (choice,) = self._walk([0], position, logits[None], self._noise_of_words(position))
        return choice, self._chance(logits, choice)

    def accept(self, chain: Chain, logits: Tensor) -> tuple[int, int]:
        """See `ChainSampler`."""
        walked = self._walk([0, *chain.tokens], chain.position, logits, self.noise)
        if walked[-1] < 0:
            raise InputError(NOT_FINITE)
        return len(walked) - 1, walked[-1]

    def _chance(self, logits: Tensor, choice: int) -> float:
        """Of a word at the temperature, from the score of the likeliest: PyTorch's sum over all words would leave its
        threads spinning beside the engine's."""
        tree, temperature = self.tree, self.sampling.temperature
        level = (tree.tokens, tree.scores, tree.parents, tree.beam_nodes, tree.beam_rows, tree.beam_tokens)
        ops.expand_beam(logits[None, None], None, 0, *level, tree.beam_masks, temperature=temperature)
        peak, own = float(logits[tree.tokens[0, 0]]), float(logits[choice])
        return math.exp(float(tree.scores[0, 0]) + (own - peak) / temperature)

    def _noise_of_words(self, position: int) -> ops.Noise:
        """That of a place, in the order of the draft's words; where that is the target's, the target's own."""
        if self.words is None:
            return self.noise
        ring, places = self.noise.noise[0], self.noise.places[0]
        slot = position % len(places)
        if int(places[slot]) != position:
            ring[slot] = ops.place_noise(self.noise.seed, 0, position, ring.shape[1])
            places[slot] = position
        here = torch.full((1, 1), position, dtype=torch.int64)
        return replace(self.noise, noise=ring[slot][self.words][None, None], places=here)

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
