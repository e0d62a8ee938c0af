"""What `ltd tune` keeps: only what the interval says is faster."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ltd_rl.tuning.winner import over, surely_faster, together, validation_of, winner


def made(rates: dict[str, float], noise: float, questions: int, seed: int = 0) -> dict[str, Any]:
    """Results of methods with these rates in tokens/s, in answers that vary by a factor of about 1 ± noise."""
    generator = np.random.default_rng(seed)
    samples = [
        {
            "task": task,
            "question_id": str(question),
            "method": method,
            "gains": [10],
            "cycles": 1,
            "decode_seconds": 10 / rate * float(np.exp(noise * generator.normal())),
        }
        for task in ("a", "b")
        for question in range(questions)
        for method, rate in rates.items()
    ]
    return {"settings": {"tasks": ["a", "b"], "methods": list(rates)}, "samples": samples}


RATES = {"none": 1.0, "static": 1.5, "best": 1.6, "learned": 1.7}


@pytest.mark.parametrize(
    ("rates", "noise", "questions", "kept"),
    [
        (RATES, 0.001, 20, "learned"),
        ({**RATES, "learned": 1.4}, 0.001, 20, "best"),
        ({**RATES, "learned": 1.55}, 0.001, 20, "best"),  # faster than what is there, but not than a simpler one
        ({**RATES, "learned": 1.4, "best": 1.4}, 0.001, 20, "static"),
        (RATES, 0.001, 1, "static"),  # no interval
        ({**RATES, "best": 1.51, "learned": 1.52}, 0.3, 20, "static"),  # an interval from under to over 1
    ],
)
def test_the_incumbent_stays_unless_a_challenger_is_surely_faster(
    rates: dict[str, float], noise: float, questions: int, kept: str
) -> None:
    assert winner(made(rates, noise, questions), ["learned", "best", "static"], "static") == kept


def test_chance_alone_keeps_nothing_nearly_always() -> None:
    """Equal methods: the lower end of a 95 % interval is above 1 in about one of forty comparisons."""
    results = [made({"static": 1.0, "learned": 1.0}, 0.3, 24, seed) for seed in range(120)]
    wrong = sum(surely_faster(each, "learned", ["static"]) for each in results)
    faster = sum((over(each, "learned", "static").speedup or 0) > 1 for each in results)
    assert wrong <= 10 and faster > 40  # without the interval, half of them would be kept


def test_the_interval_is_of_pairs() -> None:
    """Hard questions are slow for both sides: the ratio is as certain as if all were alike."""
    results = made({"static": 1.0, "learned": 1.1}, 0.0, 20)
    for sample in results["samples"]:
        sample["decode_seconds"] *= 1 + int(sample["question_id"])
    ratio = over(results, "learned", "static")
    assert ratio.speedup == pytest.approx(1.1)
    assert ratio.interval == (pytest.approx(1.1), pytest.approx(1.1))
    told = validation_of({0.0: results}, {"what is used": "static", "new": "learned"}, "learned")
    assert told["what is used"]["learned_over_it"]["ratio"] == pytest.approx(1.1)
    assert told["new"]["learned_over_it"]["ratio"] == pytest.approx(1.0)


def test_all_temperatures_together_are_the_sums_over_them_and_questions_are_drawn_with_all_their_answers() -> None:
    results = {0.0: made({"static": 1.0, "learned": 1.5}, 0.0, 20), 1.0: made({"static": 1.0, "learned": 0.8}, 0.0, 20)}
    both = together(results)
    ratio = over(both, "learned", "static")
    assert ratio.speedup == pytest.approx(2 / (1 / 1.5 + 1 / 0.8))
    # All questions are alike, so drawing other ones changes nothing; drawing answers apart would.
    assert ratio.interval == (pytest.approx(ratio.speedup), pytest.approx(ratio.speedup))
    told = validation_of(results, {"new": "static"}, "learned")["new"]
    assert told["learned_over_it"]["ratio"] == pytest.approx(ratio.speedup)
    assert told["temperatures"]["0"]["learned_over_it"]["ratio"] == pytest.approx(1.5)
    assert told["temperatures"]["1"]["learned_over_it"]["ratio"] == pytest.approx(0.8)
    near = validation_of(
        dict(zip((0.1234567, 0.12345671), results.values(), strict=True)), {"new": "static"}, "learned"
    )
    assert list(near["new"]["temperatures"]) == ["0.1234567", "0.12345671"]
    worse = {heat: made({"static": 1.0, "learned": rate}, 0.0, 20) for heat, rate in ((0.0, 1.2), (1.0, 0.7))}
    assert winner(together(worse), ["learned"], "static") == "static"
    assert winner(both, ["learned"], "static") == "learned"
