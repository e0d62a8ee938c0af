"""Whether factors on a head's logits make the scores of greedy trees truer, and its trees better.

    ltd record --data-dir DATA --tasks TASKS --limit 16 --depth 0 --out out/greedy
    python bench/greedy_scores.py --traces out/greedy --out DIR [--depth 4] [--target …] [--draft …] [--dtype auto]
                                  [--threads N]

Sampled scores have a factor per level (`ltd fit-sampling`, `ltd.drafts.sharpness`); greedy ones have none. Here those
are fitted to greedy answers in the same way: the factor under which what happened is likeliest. Questions are parted in
two, by turns, and each part's trees are drafted with the factors that the other one has; beside them, with none. Only
the answers of the traces are read. Writes `results.json`, and prints factors and table, as `bench/sampled_scores.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import ltd
import sampled_scores
from ltd.common.program import run_program
from ltd.common.table import Table
from ltd.decoding.decoder import Decoder
from ltd.drafts import Draft, DraftSession
from ltd.errors import InputError
from ltd.evaluation.questions import Question, Turn
from ltd.tree import DraftTree
from ltd_rl.traces.format import RecordedGeneration, load_traces
from ltd_rl.traces.record import RecordConfig, find_draft, record_answer
from ltd_rl.traces.sharpness_fit import see
from timing import circumstances, write_json


class SharpenedDraft:
    """A draft whose logits are multiplied by a factor per level; the last one is that of deeper levels too."""

    def __init__(self, draft: Draft, factors: Sequence[float]) -> None:
        self.draft, self.factors = draft, factors

    def __getattr__(self, name: str) -> Any:
        return getattr(self.draft, name)

    def start(self, batch: int, capacity: int) -> SharpenedSession:
        """See `Draft`."""
        return SharpenedSession(self.draft.start(batch, capacity), self.factors)


class SharpenedSession:
    """Its sequences."""

    def __init__(self, session: DraftSession, factors: Sequence[float]) -> None:
        self.session, self.factors = session, factors

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def begin(self, features: torch.Tensor | None, tokens: torch.Tensor, gained: torch.Tensor | None) -> torch.Tensor:
        """See `DraftSession`."""
        return self._sharpened(self.session.begin(features, tokens, gained), 0)

    def expand(self, tree: DraftTree) -> torch.Tensor:
        """See `DraftSession`."""
        return self._sharpened(self.session.expand(tree), tree.levels)

    def _sharpened(self, logits: torch.Tensor, level: int) -> torch.Tensor:
        return logits.float() * self.factors[min(level, len(self.factors) - 1)]


@dataclass(frozen=True, slots=True)
class Halves:
    """Greedy answers, parted by turns of their questions."""

    generations: list[RecordedGeneration]

    def half(self, number: int) -> list[RecordedGeneration]:
        """Every other question's answers, 0 from the first on."""
        questions = list(dict.fromkeys((each.task, each.question_id) for each in self.generations))
        chosen = set(questions[number::2])
        return [each for each in self.generations if (each.task, each.question_id) in chosen]


def drafted(
    decoder: Decoder, generation: RecordedGeneration, factors: Sequence[float], depth: int
) -> RecordedGeneration:
    """An answer with the trees that a draft with these factors has at its positions."""
    text, length = generation.tokens.tolist(), generation.prompt_length
    turn = Turn(Question(generation.task, generation.question_id, ("",) * (generation.turn + 1)), generation.turn)
    config = RecordConfig(data_dir=Path(), out=Path(), depth=depth)
    draft: Any = SharpenedDraft(find_draft(decoder), factors)
    return record_answer(decoder, draft, turn, text[:length], text[length:], generation.sampling, config)


def compare(decoder: Decoder, generations: Sequence[RecordedGeneration], depth: int) -> dict[str, Any]:
    """The factors of both halves, and calibration and tau without and with those of the other half.

    Raises:
        InputError: there are too few greedy answers.
    """
    halves = Halves([each for each in generations if each.sampling.temperature == 0.0])
    if not (halves.half(0) and halves.half(1)):
        raise InputError("greedy answers to two questions or more are needed; record more, at temperature 0")
    factors = [see(decoder, halves.half(number), depth).best() for number in range(2)]
    before = [drafted(decoder, each, [1.0], depth) for number in range(2) for each in halves.half(number)]
    after = [drafted(decoder, each, factors[1 - number], depth) for number in range(2) for each in halves.half(number)]
    return {"factors": factors, "temperatures": sampled_scores.compare(before, after)}


def factor_table(factors: Sequence[Sequence[float]]) -> Table:
    """The factors of both halves by level."""
    deepest = max(map(len, factors))
    rows = [[f"half {number}", *(f"{each:.2f}" for each in levels)] for number, levels in enumerate(factors, start=1)]
    rows = [[*row, *[""] * (deepest + 1 - len(row))] for row in rows]
    return Table("Factors; deeper levels have the last", ["fitted to", *map("level {}".format, range(deepest))], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fits, compares and writes the results."""
    return run_program(lambda: run(arguments))


def run(arguments: Sequence[str] | None) -> None:
    """`main` without what the system may say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--depth", type=int, default=4, help="of the trees; at least as deep as those that are replayed"
    )
    parser.add_argument("--target", default=None, help="that answered; default: the default target")
    parser.add_argument("--draft", default=None, help="a head for it; default: the shipped one")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=None)
    given = parser.parse_args(arguments)
    least = max(depth for depth, _ in sampled_scores.SIZES)
    if given.depth < least:
        raise InputError(f"--depth is {given.depth}; trees of depth {least} are replayed, so it must be at least that")
    generations = load_traces(given.traces).generations
    decoder = ltd.load(
        given.target, given.draft, policy="static", device="cpu", dtype=given.dtype, threads=given.threads
    )
    results = compare(decoder, generations, given.depth)
    write_json(given.out / "results.json", {**circumstances(), **results})
    print(factor_table(results["factors"]).markdown())
    print(sampled_scores.table(results["temperatures"]).markdown())
    for when in sampled_scores.WHEN:
        print(f"τ with {sampled_scores.WHEN[when]}: {results['temperatures']['0'][when]['tau']}")


if __name__ == "__main__":
    sys.exit(main())
