"""Fits how far a draft's values with noise can be trusted, see `ltd.drafts.sharpness`: along sampled answers.

A draft proposes the W largest of its values, logit / temperature + noise, and the target's token is one of these or
none. A factor s on the values of a level says how likely each is: softmax(s · values). The fit is the s under which
what happened is likeliest, where the parent was right. Whether a draft lacks a token, in its vocabulary or among the W,
counts as "none"; so a factor is as low as it must be for the whole of a level's chances to be true.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ltd import ops
from ltd.common.arrays import Doubles, Integers
from ltd.decoding.decoder import Decoder
from ltd.drafts import Draft
from ltd.drafts.sharpness import Sharpness, SharpnessAt
from ltd.errors import InputError
from ltd.tree import MAX_DEPTH, DraftTree
from ltd_rl.traces.drafting import draft_everywhere
from ltd_rl.traces.format import RecordedGeneration, temperatures_of

FACTORS: Doubles = np.geomspace(0.05, 4.0, 67)  # that are tried; what is between them is on a parabola
FEWEST = 100  # right parents that say something about a level; deeper ones have the factor of the last that has
ROWS = 32  # positions at once
LEAST_LEFT = 1e-6  # chance that none of the W is right


@dataclass(slots=True)
class LevelsSeen:
    """What happened at the levels of trees.

    Attributes:
        cases: int64 (levels,), right parents whose next token is known. hits: those of which the draft proposes it.
        likelihoods: float64 (levels, factors), the log-likelihood of what came below them.
    """

    cases: Integers = field(default_factory=lambda: np.zeros(MAX_DEPTH + 1, dtype=np.int64))
    hits: Integers = field(default_factory=lambda: np.zeros(MAX_DEPTH + 1, dtype=np.int64))
    likelihoods: Doubles = field(default_factory=lambda: np.zeros((MAX_DEPTH + 1, len(FACTORS))))

    def add(self, level: int, values: Tensor, proposed: Tensor, wanted: Tensor) -> None:
        """Adds n cases.

        Args:
            values: float32 (n, Vd), of all draft ids. proposed: int64 (n, W), the draft ids of candidates.
            wanted: int64 (n,), which of the W is the target's token; W for none.
        """
        values = values - values.amax(dim=1, keepdim=True)
        chosen = values.gather(1, proposed)
        self.cases[level] += len(values)
        self.hits[level] += int((wanted < proposed.shape[1]).sum())
        for number, factor in enumerate(FACTORS.tolist()):
            logs = (factor * chosen - (factor * values).logsumexp(dim=1, keepdim=True)).double()
            none = (1 - logs.exp().sum(dim=1, keepdim=True)).clamp(min=LEAST_LEFT).log()
            happened = torch.cat([logs, none], dim=1).gather(1, wanted[:, None])
            self.likelihoods[level, number] += float(happened.sum())

    def best(self) -> list[float]:
        """Per level, the factor of the largest likelihood. Raises InputError if there was too little to see."""
        known = int(np.argmax(self.cases < FEWEST)) if (self.cases < FEWEST).any() else len(self.cases)
        if known == 0:
            raise InputError(
                f"these traces have {self.cases[0]} positions of a temperature, and a fit takes at least {FEWEST}; "
                "record more"
            )
        return [peak_of(self.likelihoods[level]) for level in range(known)]


def peak_of(likelihoods: Doubles) -> float:
    """Where on the line of `FACTORS` float64 (factors,) have their peak: of the parabola through the best three."""
    place = int(likelihoods.argmax())
    if not 0 < place < len(FACTORS) - 1:
        return float(FACTORS[place])
    before, here, after = likelihoods[place - 1 : place + 2]
    bend = before - 2 * here + after
    shift = 0.5 * (before - after) / bend if bend < 0 else 0.0
    return float(FACTORS[place] * (FACTORS[1] / FACTORS[0]) ** shift)


class Follower:
    """Follows an answer through the trees that grow along it.

    Args:
        draft: that they are of. generation: the answer. vocabulary: the target's. seen: what it sees is added.
    """

    def __init__(self, draft: Draft, generation: RecordedGeneration, vocabulary: int, seen: LevelsSeen) -> None:
        self.generation, self.vocabulary, self.seen = generation, vocabulary, seen
        self.text = torch.from_numpy(generation.tokens.astype(np.int64))
        self.d2t, self.width = None if draft.d2t is None else draft.d2t.cpu(), draft.width
        self.path = torch.empty(0)

    def look(self, tree: DraftTree) -> None:
        """Sees the newest level."""
        assert tree.logits is not None
        level, roots = tree.levels - 1, tree.lengths.long().cpu()
        places = roots + 1 + level
        inside = places < len(self.text)
        wanted = torch.where(inside, self.text[places.clamp(max=len(self.text) - 1)], -1)
        if (parents := tree.parents_of_newest) is None:
            self.path, rows = torch.full_like(roots, -1), torch.zeros_like(roots)
            right = inside
        else:
            same = parents.cpu() == self.path[:, None]
            right, rows = inside & same.any(dim=1), same.int().argmax(dim=1)
        if right.any():
            logits = tree.logits.float().cpu()[right, rows[right]]
            self._add(level, logits, roots[right] + level, wanted[right])
        newest = slice(tree.newest_from, tree.drafted)
        found = (tree.tokens[:, newest].cpu() == wanted[:, None]) & (
            tree.parents[:, newest].cpu() == self.path[:, None]
        )
        self.path = torch.where(found.any(dim=1), tree.newest_from + found.int().argmax(dim=1), -2)  # -2 is no parent

    def _add(self, level: int, logits: Tensor, places: Tensor, wanted: Tensor) -> None:
        """Adds cases: logits float32 (n, Vd) at the positions int64 (n,), before the tokens int64 (n,)."""
        sampling, ids = self.generation.sampling, torch.arange(logits.shape[1])
        targets = ids if self.d2t is None else ids + self.d2t
        values = logits
        if sampling.temperature > 0.0:
            assert sampling.seed is not None
            noise = [ops.place_noise(sampling.seed, 0, place, self.vocabulary) for place in places.tolist()]
            values = logits / sampling.temperature + torch.stack(noise)[:, targets]
        proposed = values.topk(self.width, dim=1).indices
        hits = targets[proposed] == wanted[:, None]
        which = torch.where(hits.any(dim=1), hits.int().argmax(dim=1), self.width)
        self.seen.add(level, values, proposed, which)


@torch.inference_mode()
def see(decoder: Decoder, generations: Sequence[RecordedGeneration], depth: int) -> LevelsSeen:
    """What happens at the levels of a decoder's trees along answers, which are all of one temperature.

    Args:
        decoder: with a draft. generations: of its target; only their texts are read. depth: of the trees.

    Raises:
        InputError: there is no draft.
    """
    draft, seen = decoder.draft, LevelsSeen()
    if draft is None:
        raise InputError("there is no draft whose values could be fitted; name a head")
    for generation in generations:
        follower = Follower(draft, generation, decoder.target.vocab_size, seen)
        text, first = generation.tokens.tolist(), generation.prompt_length
        # Scores decide which candidates have children: what an earlier fit came to must not decide what this one sees.
        trees = draft_everywhere(
            decoder, draft, text, first, depth, ROWS, generation.sampling, follower.look, fitted=False
        )
        for _ in trees:
            pass
    return seen


def fit_sharpness(decoder: Decoder, generations: Sequence[RecordedGeneration], depth: int) -> Sharpness:
    """The factors of a decoder's draft, at every temperature of sampled answers; greedy ones are left out.

    Arguments and errors as for `see`.

    Raises:
        InputError: nothing was sampled, or too little of a temperature.
    """
    fits = []
    for temperature in temperatures_of(generations):
        if temperature > 0.0:
            own = [each for each in generations if each.sampling.temperature == temperature]
            fits.append(SharpnessAt(temperature, see(decoder, own, depth).best()))
    if not fits:
        raise InputError("no text in these traces is sampled; record some with --temperature")
    return Sharpness(tuple(fits))
