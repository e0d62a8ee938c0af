"""What samples come to, against hand-computed numbers and a plain loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ltd.evaluation.plots import plot_sources
from ltd.evaluation.scores import MEAN, all_scores, drafted, group, intervals, scores, spent


def sample(task: str, question: str, method: str, gains: list[int], seconds: float, **more: Any) -> dict[str, Any]:
    """A sample as the journal holds it; the time goes to four parts."""
    parts = {"prefill": 0.5, "draft": seconds / 4, "verify": seconds / 2, "policy": seconds / 8, "commit": seconds / 8}
    values = {"task": task, "question_id": question, "method": method, "gains": gains, "cycles": len(gains)}
    return {**values, "decode_seconds": seconds, "seconds": parts, "depths": [], "sizes": [], **more}


def random_samples(generator: np.random.Generator, questions: int) -> list[dict[str, Any]]:
    """Two tasks, three methods that take turns at going first, and two turns for every other question."""
    methods = ("none", "x", "y")
    return [
        sample(task, str(q), method, generator.integers(1, 5, 6).tolist(), float(generator.uniform(0.5, 2)))
        for number, task in enumerate(("a", "b"))
        for q in range(questions)
        for _ in range(1 + q % 2)
        for method in (*methods[(q + number) % 3 :], *methods[: (q + number) % 3])
    ]


def test_intervals_are_those_of_a_plain_loop() -> None:
    samples = random_samples(np.random.default_rng(3), questions=7)
    groups = {task: group(mine, "method") for task, mine in group(samples, "task").items()}
    found = intervals(groups, "none", resamples=60, seed=5)
    generator = np.random.default_rng(5)
    draws = {task: generator.multinomial(7, [1 / 7] * 7, size=60) for task in ("a", "b")}
    for method in ("x", "y"):
        speedups: dict[str, list[float]] = {"a": [], "b": []}
        for task, values in speedups.items():
            for draw in draws[task]:
                rates = {}
                for name in (method, "none"):
                    mine = groups[task][name]
                    tokens = sum(draw[int(s["question_id"])] * sum(s["gains"]) for s in mine)
                    rates[name] = tokens / sum(draw[int(s["question_id"])] * s["decode_seconds"] for s in mine)
                values.append(rates[method] / rates["none"])
        speedups[MEAN] = [(a + b) / 2 for a, b in zip(speedups["a"], speedups["b"], strict=True)]
        for task, values in speedups.items():
            assert found[method, task] == pytest.approx(np.percentile(values, [2.5, 97.5]))
            assert found["none", task] == pytest.approx((1.0, 1.0))


def test_what_all_methods_share_does_not_widen_an_interval() -> None:
    samples = []
    for question, hardness in enumerate((1.0, 5.0, 0.2, 3.0)):  # exactly twice as fast on every question
        samples += [
            sample("a", str(question), "none", [1] * 8, hardness),
            sample("a", str(question), "x", [2] * 4, hardness / 2),
        ]
    table = scores({"settings": {"tasks": ["a"], "methods": ["none", "x"]}, "samples": samples})
    assert table["x"]["a"].interval == pytest.approx((2.0, 2.0))
    assert table["x"][MEAN].interval == pytest.approx((2.0, 2.0))


def test_a_task_of_one_question_has_no_interval_and_nor_has_the_mean() -> None:
    samples = [s for s in random_samples(np.random.default_rng(0), 4) if s["task"] == "a" or s["question_id"] == "1"]
    table = scores({"settings": {"tasks": ["a", "b"], "methods": ["none", "x", "y"]}, "samples": samples})
    assert table["x"]["a"].interval is not None
    assert table["x"]["b"].interval is table["x"][MEAN].interval is None


def test_plain_decoding_may_have_a_label() -> None:
    samples = random_samples(np.random.default_rng(1), 3)
    named = [{**each, "method": "plain=none" if each["method"] == "none" else each["method"]} for each in samples]
    expected = scores({"settings": {"tasks": ["a", "b"], "methods": ["none", "x", "y"]}, "samples": samples})
    found = scores({"settings": {"tasks": ["a", "b"], "methods": ["plain=none", "x", "y"]}, "samples": named})
    assert expected["x"][MEAN].speedup is not None
    assert list(found.values()) == list(expected.values())


def test_what_was_drafted() -> None:
    # 4 + 6 + 0 candidates; gains 3, 1, 1 and 2 accept 2 + 0 + 0 + 1 of them, of which the last cycle's were 5.
    row = drafted([sample("a", "1", "x", [3, 1, 1], 1.0, depths=[1, 2, 0], sizes=[4, 6, 0]),
                   sample("b", "1", "x", [2], 1.0, depths=[2], sizes=[5])])  # fmt: skip
    assert row.depth == pytest.approx(5 / 4) and row.size == pytest.approx(15 / 4)
    assert row.discarded == pytest.approx((15 - 3) / 3)
    assert row.target_calls == pytest.approx(100 * 4 / 7)
    assert (row.depths, row.sizes, row.cycles) == ({1: 1, 2: 2}, {4: 1, 5: 1, 6: 1}, 4)


def test_plain_decoding_and_transformers_discard_nothing_that_is_known() -> None:
    plain = drafted([sample("a", "1", "none", [1, 1], 1.0, depths=[0, 0], sizes=[0, 0])])
    assert (plain.depth, plain.size, plain.discarded, plain.target_calls) == (0, 0, None, 100)
    other = drafted([sample("a", "1", "transformers:lookup", [1, 3], 1.0)])
    assert (other.depth, other.size, other.discarded, other.target_calls) == (None, None, None, 50)
    nothing = drafted([sample("a", "1", "none", [], 0.0)])
    assert nothing.target_calls is None


def test_where_the_time_went() -> None:
    row = spent([sample("a", "1", "x", [3, 1], 1.0), sample("a", "2", "x", [4], 3.0)])
    assert row.milliseconds == pytest.approx({"draft": 125, "lookup": 0, "verify": 250, "policy": 62.5, "rest": 62.5})
    assert row.shares == pytest.approx({"draft": 0.25, "lookup": 0, "verify": 0.5, "policy": 0.125, "rest": 0.125})
    assert row.prefill == 0.5


def test_whose_candidates_were_accepted() -> None:
    one = sample("a", "1", "x", [3, 1], 1.0) | {"depths": [-1, 0], "sizes": [4, 2]}
    other = sample("a", "2", "x", [4], 3.0) | {"depths": [2], "sizes": [9]}
    assert drafted([one, other]).sources == {} and drafted([one, other]).depths == {-1: 1, 0: 1, 2: 1}
    one["sources"], other["sources"] = {"draft": 1, "text": 1, "both": 0}, {"draft": 0, "text": 2, "both": 1}
    found = drafted([one, other]).sources
    assert found == pytest.approx({"draft": 1 / 3, "text": 1.0, "both": 1 / 3})
    plot = plot_sources({"x": drafted([one, other])})
    assert plot.startswith(b"\x89PNG")


def test_all_scores_are_plain_values() -> None:
    import json

    samples = random_samples(np.random.default_rng(1), 3)
    found = all_scores({"settings": {"tasks": ["a", "b"], "methods": ["none", "x", "y"]}, "samples": samples})
    assert set(found) == {"none", "x", "y"}
    assert set(found["x"]) == {"tasks", "drafted", "time"} and set(found["x"]["tasks"]) == {"a", "b", MEAN}
    assert json.loads(json.dumps(found))["x"]["tasks"]["a"]["speedup"] == found["x"]["tasks"]["a"]["speedup"]
