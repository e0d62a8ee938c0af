"""What a comparison in real decoding is enough for: a policy is kept only if it is surely faster than what is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from ltd.common.journal import Record
from ltd.evaluation.scores import MEAN, Score, scores
from ltd_rl.traces.samplings import name_of


def together(results: Mapping[float, Record]) -> Record:
    """The results at all temperatures as one.

    The answers to a question at other temperatures count as further turns of it, so tokens and seconds are summed over
    temperatures, and intervals draw a question with all its answers.
    """
    first, *_ = results.values()
    return {**first, "samples": [sample for each in results.values() for sample in each["samples"]]}


def over(results: Record, method: str, rival: str) -> Score:
    """A method's score with another method as its baseline: `speedup` is the ratio of the two throughputs, averaged
    over the tasks; `interval` is its 95 % interval by a paired bootstrap over the questions, None if there are too few.
    """
    return scores(results, rival)[method][MEAN]


def surely_faster(results: Record, method: str, rivals: Iterable[str]) -> bool:
    """Whether the whole interval of the ratio to every rival is above 1."""
    intervals = [over(results, method, rival).interval for rival in rivals]
    return all(interval is not None and interval[0] > 1 for interval in intervals)


def winner(results: Record, challengers: Sequence[str], incumbent: str) -> str:
    """The first challenger that is surely faster than the incumbent and all simpler challengers; else the incumbent.

    Args:
        results: of `ltd eval` with all of them.
        challengers: methods, the most complex first.
        incumbent: the method that is used if nothing is kept.
    """
    for place, method in enumerate(challengers):
        rivals = {incumbent, *challengers[place + 1 :]} - {method}
        if method != incumbent and surely_faster(results, method, rivals):
            return method
    return incumbent


def validation_of(results: Mapping[float, Record], names: dict[str, str], learned: str) -> dict[str, Record]:
    """What a bundle tells of the comparison: scores by names for people, and the learned one's over each; of all
    temperatures together, and by temperature."""
    table = compared(together(results), names, learned)
    by_temperature = {name_of(heat): compared(each, names, learned) for heat, each in results.items()}
    return {
        name: {**row, "temperatures": {heat: each[name] for heat, each in by_temperature.items()}}
        for name, row in table.items()
    }


def compared(results: Record, names: dict[str, str], learned: str) -> dict[str, Record]:
    """Scores by names for people, and the learned one's over each."""
    found = scores(results)
    table: dict[str, Record] = {}
    for name, method in names.items():
        ratio = over(results, learned, method)
        table[name] = {
            **asdict(found[method][MEAN]),
            "learned_over_it": {"ratio": ratio.speedup, "interval": ratio.interval},
        }
    return table
