"""What heads bring in real decoding on this machine: held-out questions, answered greedily."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm

from ltd.decoding.decoder import Decoder, Generation
from ltd.decoding.statistics import Statistics
from ltd.drafts.eagle3.head import Eagle3Head
from ltd.drafts.opening import make_draft
from ltd.evaluation.run_config import in_rotation
from ltd.policies import Policy, Static
from ltd.policy_choice import choose_policy
from ltd.target.target import Target
from ltd.training.loop import Training
from ltd.training.report import Curves, CurveWatch

QUESTIONS, NEW_TOKENS = 24, 64
FEW_QUESTIONS, FEW_TOKENS = 6, 48  # on the way of a training
NOISE = 0.02  # speeds that differ by less, relative to the faster, count as equal
LARGE_TREE = Static(depth=8, size=60)  # EAGLE-3's own, in which acceptance lengths are compared


@dataclass(frozen=True, slots=True)
class Trial:
    """What a head brought: tokens per cycle and per second of decoding, summed over the questions; its words."""

    words: int
    acceptance_length: float
    tokens_per_second: float

    def to_dict(self) -> dict[str, Any]:
        """Rounded plain values, ready for JSON."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def try_heads(
    heads: Sequence[Eagle3Head], target: Target, questions: Sequence[list[int]], what: str,
    *, policy: Policy | None = None, new_tokens: int,
) -> list[Trial]:  # fmt: skip
    """Decode every question with every head, in turns that rotate, and report in the order of `heads`.

    heads: on the target's device; they are copied in its type, as decoding takes weights over. policy: None is the
    default static setting here. what: is done, for the progress bar.
    """
    policy = policy or choose_policy("static", lambda: None, target.device).policy
    dtype = target.embedding.weight.dtype
    decoders = [Decoder(target, make_draft(copy.deepcopy(head).to(dtype), target.embedding), policy) for head in heads]
    found: list[list[Statistics]] = [[] for _ in heads]
    for decoder in decoders:  # warm up
        decoder.generate(questions[0], max_new_tokens=8)
    turns = in_rotation(questions, range(len(heads)))
    for question, index in tqdm(turns, desc=what, unit="answer", leave=False):
        answer = decoders[index].generate(question, max_new_tokens=new_tokens)
        assert isinstance(answer, Generation)
        found[index].append(answer.statistics)
    return [_trial(head.config.draft_vocab_size, each) for head, each in zip(heads, found, strict=True)]


def _trial(words: int, statistics: list[Statistics]) -> Trial:
    gains = [gain for each in statistics for gain in each.gains]
    seconds = sum(each.decode_seconds for each in statistics)
    return Trial(words, sum(gains) / max(1, len(gains)), sum(gains) / seconds if seconds else 0.0)


def faster(trials: Sequence[Trial]) -> int:
    """The index of the fastest; of those that are, but for noise, as fast, the one that gains most per cycle."""
    enough = (1 - NOISE) * max(trial.tokens_per_second for trial in trials)
    equal = [index for index, trial in enumerate(trials) if trial.tokens_per_second >= enough]
    return max(equal, key=lambda index: trials[index].acceptance_length)


class HeadTrials:
    """Trials of one run: its target, ready to decode, and held-out questions.

    Args:
        target: taps what the heads read.
        questions: token ids; the first ones are used.
    """

    def __init__(self, target: Target, questions: Sequence[list[int]]) -> None:
        self.target, self.questions = target, questions

    def on_the_way(self, head: Eagle3Head) -> dict[str, float]:
        """Tokens per second with the static setting of this machine, and per cycle in the large tree."""
        few = self.questions[:FEW_QUESTIONS]
        speed = try_heads([head], self.target, few, "decoding", new_tokens=FEW_TOKENS)[0]
        large = try_heads([head], self.target, few, "decoding", policy=LARGE_TREE, new_tokens=FEW_TOKENS)[0]
        return {
            "tau": round(large.acceptance_length, 3),
            "tokens_per_second": round(speed.tokens_per_second, 1),
        }

    def compare(self, heads: Sequence[Eagle3Head], what: str) -> list[Trial]:
        """Every head with `QUESTIONS` questions."""
        return try_heads(heads, self.target, self.questions[:QUESTIONS], what, new_tokens=NEW_TOKENS)


class HeadWatch(CurveWatch):
    """Decodes with the head at every measurement, and draws."""

    def __init__(self, head: Eagle3Head, trials: HeadTrials, curves: Curves) -> None:
        super().__init__(curves)
        self.head, self.trials = head, trials

    def look(self, training: Training) -> dict[str, Any]:
        """See `ltd.training.loop.TrainingWatch`."""
        return dict(self.trials.on_the_way(self.head))
