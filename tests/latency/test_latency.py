"""The latency model against naive references, its file, and calibration under a clock that only our fakes advance."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle_draft import OracleDraft, OracleSession
from scipy.optimize import isotonic_regression

from ltd.cli import main
from ltd.common.files import file_hash
from ltd.common.threads import usable_cores
from ltd.decoding.decoder import Decoder
from ltd.drafts.eagle3.draft import Eagle3Draft, Eagle3Session
from ltd.engine.cpu import Engine
from ltd.errors import InputError
from ltd.latency.calibration import calibrate, least_visits, next_points, next_round, run_rounds
from ltd.latency.cycle_bench import CycleBench, Plan, Timings
from ltd.latency.interpolation import Interpolant, isotonic
from ltd.latency.model import PARTS, LatencyModel, Measurements, setup_of
from ltd.latency.report import describe, draw, latency_table, plot
from ltd.latency.thread_count import ThreadCounts, candidates, time_thread_counts
from ltd.loading import load, prepare
from ltd.lookup import TextSource
from ltd.policies import Static
from ltd.target.model import load_model
from ltd.target.target import TargetSession
from ltd.target.transformers_layers import ATTENTION

PNG = b"\x89PNG"
PLAN = Plan(lengths=(16, 40), sizes=(3, 0, 20), gains=(1, 4), depth=2, seconds=1.0)
LEAST, WANTED = 2, 4  # rounds of it in which one of the cycles at a length is deep, and three are


# --- interpolation ---


@st.composite
def grids(draw: st.DrawFn) -> tuple[list[int], list[int], list[list[float]]]:
    """Sizes, lengths, and seconds in any order over them."""
    knots = st.lists(st.integers(0, 1000), min_size=1, max_size=6, unique=True).map(sorted)
    sizes, lengths = draw(knots), draw(knots)
    row = st.lists(st.floats(0, 1000), min_size=len(lengths), max_size=len(lengths))
    return sizes, lengths, draw(st.lists(row, min_size=len(sizes), max_size=len(sizes)))


places = st.lists(st.floats(0, 3000), min_size=1, max_size=8).map(sorted)


def make(grid: tuple[list[int], list[int], list[list[float]]]) -> Interpolant:
    return Interpolant(*(np.array(part, dtype=float) for part in grid))


def naive_fit(rows: list[list[float]]) -> list[list[float]]:
    """Isotonic down the columns and then along the rows, by SciPy."""
    columns = [isotonic_regression(column).x for column in zip(*rows, strict=True)]
    return [list(isotonic_regression(row).x) for row in zip(*columns, strict=True)]


def segment(knots: list[int], value: float) -> tuple[int, int, float]:
    """The knots around a value inside, and its share of the way."""
    if len(knots) == 1:
        return 0, 0, 0.0
    value = min(max(value, knots[0]), knots[-1])
    index = min(bisect_right(knots, value), len(knots) - 1) - 1
    return index, index + 1, (value - knots[index]) / (knots[index + 1] - knots[index])


def naive(sizes: list[int], lengths: list[int], fitted: list[list[float]], size: float, length: float) -> float:
    """One value, step by step: along the lengths, then along the sizes, then the lines above the grid."""

    def along(knots: list[int], values: list[float], value: float) -> float:
        first, second, share = segment(knots, value)
        return values[first] + share * (values[second] - values[first])

    def slopes(knots: list[int], rows: list[list[float]]) -> list[float]:
        if len(knots) == 1:
            return [0.0] * len(rows[0])
        steep = [(high - low) / (knots[-1] - knots[-2]) for low, high in zip(rows[-2], rows[-1], strict=True)]
        return [max(steep[: index + 1]) for index in range(len(steep))]

    inside = along(sizes, [along(lengths, row, length) for row in fitted], size)
    columns = [list(column) for column in zip(*fitted, strict=True)]
    above_size = max(size - sizes[-1], 0) * along(lengths, slopes(sizes, fitted), length)
    above_length = max(length - lengths[-1], 0) * along(sizes, slopes(lengths, columns), size)
    return inside + above_size + above_length


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40))
def test_isotonic_regression_is_scipys(values: list[float]) -> None:
    np.testing.assert_allclose(isotonic(np.array(values), 0), isotonic_regression(values).x, rtol=1e-9, atol=1e-9)


@given(grids(), places, places)
def test_interpolation_is_the_naive_one(
    grid: tuple[list[int], list[int], list[list[float]]], sizes: list[float], lengths: list[float]
) -> None:
    fitted = naive_fit(grid[2])
    wanted = [[naive(grid[0], grid[1], fitted, size, length) for length in lengths] for size in sizes]
    found = make(grid)(np.array(sizes)[:, None], np.array(lengths))
    assert found.shape == (len(sizes), len(lengths)) and found.dtype == np.float64
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-7)


@given(grids(), places, places)
def test_more_is_never_cheaper(
    grid: tuple[list[int], list[int], list[list[float]]], sizes: list[float], lengths: list[float]
) -> None:
    found = make(grid)(np.array(sizes)[:, None], np.array(lengths))
    slack = 1e-9 * (1 + np.abs(found).max())
    assert np.all(np.diff(found, axis=0) >= -slack)
    assert np.all(np.diff(found, axis=1) >= -slack)


@given(grids())
def test_medians_that_never_fall_are_met_exactly(grid: tuple[list[int], list[int], list[list[float]]]) -> None:
    sizes, lengths, rows = grid
    rising = np.sort(np.sort(rows, axis=0), axis=1)
    found = make((sizes, lengths, rising.tolist()))(np.array(sizes)[:, None], np.array(lengths))
    np.testing.assert_array_equal(found, rising)


def test_below_is_the_edge_and_above_a_line() -> None:
    grid = make(([2, 4], [10, 20], [[1.0, 2.0], [3.0, 6.0]]))
    assert grid(0, 0) == grid(2, 5) == grid(1, 10) == 1.0
    assert grid(3, 10) == 2.0 and grid(3, 15) == 3.0
    assert grid(6, 10) == 3.0 + 2 * 1.0  # size slope at length 10
    assert grid(4, 30) == 6.0 + 10 * 0.3  # length slope at size 4
    assert grid(6, 20) == 6.0 + 2 * 2.0


# --- the model ---


def measured(
    sizes: list[int], lengths: list[int], cost: Callable[[Any, Any], Any], spread: float = 0.0
) -> Measurements:
    """Measurements of a known cost."""
    knots = np.array(sizes, float), np.array(lengths, float)
    median = np.asarray(cost(knots[0][:, None], knots[1]), float) + np.zeros((len(sizes), len(lengths)))
    low, high = median * (1 - spread / 2), median * (1 + spread / 2)
    return Measurements(*knots, median, low, high, np.full_like(median, -spread))


def known_model(spread: float = 0.0) -> LatencyModel:
    """Costs that are linear in everything."""
    lengths = [64, 256]
    parts = {
        "begin": measured([1, 8], lengths, lambda gain, length: gain + length / 64, spread),
        "expand": measured([1, 2, 3], lengths, lambda level, length: 10 * level + length / 64, spread),
        "verify": measured([0, 240], lengths, lambda size, length: 100 + size + length, spread),
        "other": measured([0, 240], lengths, lambda size, length: size / 240 + 0 * length, spread),
        "lookup": measured([0], lengths, lambda _, length: length / 32, spread),
        "plain": measured([0], lengths, lambda _, length: 90 + length, spread),
        "prefill": measured([0], lengths, lambda _, length: 2 * length, spread),
    }
    setup = {"processor": "an abacus", "threads": 1, "target": "tiny", "dtype": "float32"}
    return LatencyModel(setup, parts, rounds=5, seconds=1.5)


def test_the_parts_make_a_cycle() -> None:
    model = known_model()
    assert model.begin(4, 128) == 4 + 2
    assert model.expand(2, 128) == 20 + 2
    assert model.draft(0, 128) == 1 + 2
    assert model.draft(2, 128, gain=4) == (4 + 2) + (10 + 2) + (20 + 2)
    assert model.verify(60, 128) == 100 + 60 + 128
    assert model.other(60, 128) == 0.25
    assert model.cycle(2, 60, 128, gain=4) == 40 + 288 + 0.25
    assert model.plain(100) == 190 and model.prefill(1000) == 2000 and model.lookup(128) == 4
    assert model.draft(5, 64) == model.draft(3, 64) + 2 * model.expand(3, 64)  # deeper than measured


def test_arrays_broadcast() -> None:
    model, depths, sizes, lengths = known_model(), np.arange(4)[:, None, None], np.arange(0, 60, 7)[:, None], [70, 99]
    found = model.cycle(depths, sizes, lengths, gain=np.array([1, 3]))
    assert found.shape == (4, 9, 2)
    assert found[2, 3, 1] == model.cycle(2, 21, 99, gain=3)


def test_noise_is_told() -> None:
    assert known_model().warning() is None
    noisy = known_model(spread=0.5)
    assert noisy.noise == pytest.approx(0.5) and noisy.drift == pytest.approx(-0.5)
    assert "50% of the median apart" in str(noisy.warning()) and "50% faster" in str(noisy.warning())
    quiet_forwards = {name: known_model().parts[name] for name in ("verify", "plain")}
    assert replace(noisy, parts={**noisy.parts, **quiet_forwards}).warning() is None


def test_another_machine_is_told() -> None:
    model = known_model()
    assert model.mismatch(dict(model.setup)) is None
    assert model.mismatch({**model.setup, "threads": 2}) == (
        "the latencies were measured with threads 1, and here it is 2"
    )
    assert "gpu None, and here it is 'a big one'" in str(model.mismatch({**model.setup, "gpu": "a big one"}))


# --- the file ---


def test_a_model_is_read_as_it_was_written(tmp_path: Path) -> None:
    model = known_model(spread=0.2)
    model.save(tmp_path / "latency.json")
    again = LatencyModel.load(tmp_path / "latency.json")
    assert again.to_dict() == model.to_dict()
    assert again.cycle(1.5, 77, 300, gain=2) == model.cycle(1.5, 77, 300, gain=2)
    assert [path.name for path in tmp_path.iterdir()] == ["latency.json"]


def set_at(values: dict[str, Any], path: str, value: Any) -> None:
    """Sets values[a][b][c] for the path "a/b/c"."""
    *folders, name = path.split("/")
    for folder in folders:
        values = values[folder]
    values[name] = value


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("format", "other", "holds no latencies"),
        ("schema", 1, "has version 1 of the format, this ltd reads 2"),
        ("setup", None, "setup = None, but it must be an object"),
        ("rounds", "many", "rounds = 'many', but it must be a whole number"),
        ("parts/plain", None, "plain: it is no object"),
        ("parts/verify/sizes", [5, 5], "verify: its sizes are not increasing"),
        ("parts/verify/lengths", [], "verify: its lengths are not increasing"),
        ("parts/verify/median", [[1.0]], r"verify: its median has shape \(1, 1\) and not \(2, 2\)"),
        ("parts/verify/median", [[1.0], [1.0, 2.0]], "verify: its median is no table of numbers"),
        ("parts/verify/low", [[1.0, 2.0], [3.0, None]], "verify: its low holds something that is not a finite"),
        ("parts/verify/high", [[0.0, 0.0], [0.0, 0.0]], "verify: its quartiles are negative or out of order"),
        ("parts/expand/sizes", [1, 2, 4], "expand: its sizes are not the levels"),
    ],
)
def test_a_damaged_or_foreign_file_is_told(tmp_path: Path, path: str, value: Any, complaint: str) -> None:
    values = known_model().to_dict()
    set_at(values, path, value)
    file = tmp_path / "latency.json"
    file.write_text(json.dumps(values))
    with pytest.raises(InputError, match=complaint):
        LatencyModel.load(file)


def test_a_missing_table_a_missing_file_and_half_a_file_are_told(tmp_path: Path) -> None:
    values = known_model().to_dict()
    del values["parts"]["begin"]["low"]
    file = tmp_path / "latency.json"
    for content, complaint in (
        (json.dumps(values), "begin: it lacks low"),
        ("[1]", "holds no JSON object"),
        ('{"format"', "is not valid JSON"),
    ):
        file.write_text(content)
        with pytest.raises(InputError, match=complaint):
            LatencyModel.load(file)
    with pytest.raises(InputError, match="cannot read"):
        LatencyModel.load(tmp_path / "nowhere.json")


# --- the report ---


def test_the_table_the_sentence_and_the_plot() -> None:
    model = known_model(spread=0.2)
    rows = {row[0]: row[1:] for row in latency_table(model).rows}
    assert rows["verify 240 + root"] == ["404000.00", "596000.00", "20%"]
    assert rows["plain decoding, a token"] == ["154000.00", "346000.00", "20%"]
    assert {"begin, after a gain of 1", "begin, after a gain of 8", "expansion 1", "expansion 3"} <= rows.keys()
    assert describe(model) == (
        "tiny, float32, an abacus, 1 threads: 5 rounds in 2 s, median spread 20%, drift -20%."
    )  # fmt: skip
    assert plot(model).startswith(PNG)


def test_the_plot_shows_small_sizes_and_small_differences() -> None:
    model = known_model(spread=0.2)
    verification = draw(model).axes[0]
    figure = verification.get_figure()
    assert figure is not None
    figure.draw_without_rendering()
    box = verification.get_window_extent()
    places = [(verification.transData.transform((size, 300.0))[0] - box.x0) / box.width for size in (0, 1, 2, 4, 8, 16)]
    assert places[0] > 0 and all(later - earlier > 0.05 for earlier, later in pairwise(places))
    assert places[-1] - places[0] > 0.4  # of the whole width, where sizes go up to 240
    assert verification.get_yscale() == "log"


# --- calibration ---


class Clock:
    """Time that passes only when a fake says so; whole seconds, so that sums are exact."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def charge(self, patch: pytest.MonkeyPatch, kind: type, name: str, cost: Callable[..., float]) -> None:
        """Makes a method cost time, besides what it does."""
        method = getattr(kind, name)

        def slow(*arguments: Any) -> Any:
            self.now += cost(*arguments)
            return method(*arguments)

        patch.setattr(kind, name, slow)


@pytest.fixture
def decoder(tiny_target: Callable[..., Path], tiny_head: Callable[..., Path]) -> Decoder:
    return load(tiny_target("llama"), tiny_head("llama"), policy=Static(2, 12), dtype="float32")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, decoder: Decoder) -> Clock:
    """The only clock there is for the decoder, whose parts have known costs."""
    clock = Clock()
    for module in ("decoding.statistics", "latency.calibration"):
        monkeypatch.setattr(f"ltd.{module}.time", SimpleNamespace(perf_counter=clock.perf_counter))
    assert isinstance(decoder.draft, Eagle3Draft)

    def begin(session: Eagle3Session, features: torch.Tensor, tokens: torch.Tensor, gained: None) -> float:
        """Grows with the rows in the draft's cache, which has read all tokens but the last gain."""
        return 5 * tokens.shape[1] + session.cache.host_lengths[0] + features.shape[1]

    clock.charge(monkeypatch, Eagle3Session, "begin", begin)
    clock.charge(monkeypatch, Eagle3Session, "expand", lambda _, tree: 2 * tree.levels + int(tree.lengths[0]))
    clock.charge(
        monkeypatch,
        TargetSession,
        "verify",
        lambda session, nodes: 3 * nodes.tokens.shape[1] + int(session.lengths[0]),
    )
    clock.charge(monkeypatch, TargetSession, "commit", lambda *_: 7)
    clock.charge(monkeypatch, TextSource, "propose", lambda *_: 4)
    clock.charge(monkeypatch, TargetSession, "prefill", lambda session, row, tokens: 11 * len(tokens))
    return clock


@pytest.mark.usefixtures("clock")
def test_every_part_is_measured_at_every_point(decoder: Decoder) -> None:
    model = calibrate(decoder, PLAN)
    costs: dict[str, Callable[[Any, Any], Any]] = {
        "begin": lambda gain, length: 5 * gain + length,
        "expand": lambda level, length: 2 * level + length,
        "verify": lambda size, length: 3 * (size + 1) + length,
        "other": lambda size, length: 7,
        "lookup": lambda _, length: 4,
        "plain": lambda _, length: 3 + length + 7,
        "prefill": lambda _, length: 11 * length,
    }
    grid = {"begin": [1, 4], "expand": [1, 2], "verify": [0, 3, 20], "other": [0, 3, 20]}
    assert tuple(model.parts) == PARTS
    for name, part in model.parts.items():
        wanted = measured(grid.get(name, [0]), [16, 40], costs[name])
        assert part.to_dict() == wanted.to_dict(), name
    assert model.noise == model.drift == 0.0 and model.warning() is None
    assert model.setup["dtype"] == "float32" and model.setup["width"] == 10
    assert model.rounds == LEAST and model.seconds > 0


def test_every_number_of_threads_is_timed(decoder: Decoder) -> None:
    before = torch.get_num_threads()
    counts = time_thread_counts(decoder.target, rounds=2)
    assert torch.get_num_threads() == counts.used == before
    assert {1, before, usable_cores()} <= counts.seconds.keys()
    assert all(seconds > 0 for seconds in counts.seconds.values())


@pytest.mark.parametrize(
    ("cores", "usable", "used", "expected"),
    [(1, 1, 1, [1]), (2, 2, 1, [1, 2]), (4, 8, 4, [1, 2, 3, 4, 6, 8]), (5, 10, 7, [1, 2, 3, 4, 5, 6, 7, 8, 10])],
)
def test_numbers_of_threads_worth_a_try(cores: int, usable: int, used: int, expected: list[int]) -> None:
    assert candidates(cores, usable, used) == expected


def test_another_number_of_threads_is_named_if_clearly_faster() -> None:
    near, far = ThreadCounts(2, {1: 0.0099, 2: 0.01}), ThreadCounts(2, {1: 0.008, 2: 0.01})
    assert (near.fastest, far.fastest) == (2, 1)
    assert (
        str(near)
        == "Threads: 2 in use, which is fastest; a forward of one token takes 9.90 ms with 1, 10.00 ms with 2."
    )
    assert "2 in use, but --threads 1 is faster" in str(far)


@torch.inference_mode()
def test_where_time_is_short_large_trees_are_measured_less_often(
    decoder: Decoder, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """The time that was asked for is kept, if only all can be measured once."""
    bench = CycleBench(decoder, PLAN)
    begun = clock.now
    samples: Timings = defaultdict(list)
    assert run_rounds(bench, PLAN, samples) == LEAST  # though a second is over
    needed, measured_once = clock.now - begun, {key: len(taken) for key, taken in samples.items()}
    said = capsys.readouterr().err
    assert "longer than the 1 s asked for" in said
    told = float(said.partition("takes up to ")[2].split()[0])
    assert needed <= told < 2 * needed
    assert {size: measured_once["verify", size, 40] for size in (0, 3, 20)} == dict.fromkeys((0, 3, 20), LEAST)
    assert min(measured_once["begin", gain, 16] for gain in (1, 4)) >= 1 and measured_once["expand", 2, 16] >= 1

    begun, seconds = clock.now, 1.2 * needed  # too little for another round
    again: Timings = defaultdict(list)
    rounds = run_rounds(bench, replace(PLAN, seconds=seconds), again)
    assert clock.now - begun <= seconds
    assert rounds == LEAST and max(map(len, again.values())) > LEAST
    assert len(again["verify", 20, 40]) == LEAST < len(again["plain", 0, 16])


@given(
    points=st.lists(st.tuples(st.integers(1, 6), st.floats(0, 1e3)), min_size=1, max_size=8),
    left=st.floats(-1, 1e4),
    least=st.integers(1, 4),
    more=st.integers(0, 4),
)
def test_all_points_are_visited_as_often_as_must_be_and_as_wanted_while_there_is_time(
    points: list[tuple[int, float]], left: float, least: int, more: int
) -> None:
    visits, spent = [count for count, _ in points], [seconds for _, seconds in points]
    chosen = next_round(visits, spent, left, least, least + more)
    takes = sum(seconds / count for count, seconds in points)
    if min(visits) < least or (min(visits) < least + more and takes <= left):
        assert chosen == list(range(len(points)))
    else:
        assert chosen == next_points(visits, spent, left)


@pytest.mark.parametrize(
    ("times", "gains", "sizes", "visits"), [(1, 5, 18, 1), (3, 5, 18, 3), (1, 4, 3, 2), (3, 2, 3, 4), (1, 17, 1, 17)]
)
def test_few_sizes_need_more_rounds_to_meet_all_gains(times: int, gains: int, sizes: int, visits: int) -> None:
    assert least_visits(times, gains, sizes) == visits


@torch.inference_mode()
def test_rounds_fill_the_time_which_points_share(decoder: Decoder, clock: Clock) -> None:
    samples: Timings = defaultdict(list)
    bench = CycleBench(decoder, PLAN)
    begun = clock.now
    rounds = run_rounds(bench, replace(PLAN, seconds=60_000.0), samples)
    assert 57_000 < clock.now - begun <= 60_000
    cycles = {(size, length): samples["verify", size, length] for size in (0, 3, 20) for length in (16, 40)}
    plain = {length: samples["plain", 0, length] for length in (16, 40)}
    visits = [*cycles.values(), *plain.values(), *(samples["prefill", 0, length] for length in (16, 40))]
    assert rounds == min(map(len, visits)) > WANTED
    assert len(cycles[0, 16]) > len(cycles[20, 40]) and len(plain[16]) > 1.5 * len(cycles[20, 16])
    spent = [sum(taken) for taken in plain.values()]
    assert max(spent) < 1.1 * min(spent)
    counts = [len(samples["begin", gain, 16]) for gain in (1, 4)]
    assert abs(counts[0] - counts[1]) <= 2
    deepest, expected = len(samples["expand", 2, 16]), sum(len(cycles[size, 16]) for size in (0, 3, 20)) / 4
    assert abs(deepest - expected) <= 2


@given(
    points=st.lists(st.tuples(st.integers(1, 50), st.floats(0, 1e3)), min_size=1, max_size=20), left=st.floats(-1, 1e6)
)
def test_who_has_had_more_than_its_part_of_the_time_waits(points: list[tuple[int, float]], left: float) -> None:
    visits, spent = [count for count, _ in points], [seconds for _, seconds in points]
    chosen = next_points(visits, spent, left)
    mean = max(min(spent), sum(spent) / len(spent))
    entitled = [number for number, seconds in enumerate(spent) if seconds <= mean]
    enough = sum(spent[number] / visits[number] for number in entitled) <= left
    assert chosen == (entitled if enough else [])
    if enough and mean < max(spent):
        assert spent.index(min(spent)) in chosen and spent.index(max(spent)) not in chosen


@pytest.mark.parametrize("seeds", [(1, 1), (1, 2)])
@torch.inference_mode()
def test_the_order_is_the_seeds(decoder: Decoder, monkeypatch: pytest.MonkeyPatch, seeds: tuple[int, int]) -> None:
    orders: list[list[tuple[int, int]]] = []
    time_cycle = CycleBench.time_cycle

    def spy(self: CycleBench, size: int, length: int, *turns: Any) -> Any:
        orders[-1].append((size, length))
        return time_cycle(self, size, length, *turns)

    monkeypatch.setattr(CycleBench, "time_cycle", spy)
    ticks = iter(range(0, 10**6, 10))
    monkeypatch.setattr("ltd.latency.calibration.time", SimpleNamespace(perf_counter=ticks.__next__))
    for seed in seeds:
        orders.append([])
        run_rounds(CycleBench(decoder, PLAN), replace(PLAN, seed=seed), defaultdict(list))
    assert (orders[0] == orders[1]) == (seeds[0] == seeds[1])
    warm_up, measured_points = orders[0][:3], orders[0][3:]
    assert sorted(warm_up) == [(0, 40), (3, 40), (20, 40)]
    rounds = [measured_points[start : start + 6] for start in range(0, len(measured_points), 6)]
    assert len(rounds) == LEAST
    assert all(sorted(one) == sorted(other) for one, other in pairwise(rounds))
    assert len({tuple(one) for one in rounds}) > 1


def test_a_slower_second_half_is_drift(decoder: Decoder, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    visits = [0]

    def tire(*_: Any) -> float:
        visits[0] += 1
        return 0.0 if visits[0] <= 12 else 1000.0  # after the warm-up and one of two rounds

    clock.charge(monkeypatch, TargetSession, "verify", tire)
    verify = calibrate(decoder, replace(PLAN, gains=(1, 2, 3, 4))).parts["verify"]
    assert np.all(verify.drift > 5) and np.all(verify.noise > 0.5)


def test_a_calibrated_decoder_generates_as_before(decoder: Decoder) -> None:
    before = decoder.generate([5, 9, 14], max_new_tokens=20)
    calibrate(decoder, PLAN)
    after = decoder.generate([5, 9, 14], max_new_tokens=20)
    assert before.token_ids == after.token_ids  # type: ignore[union-attr]


def test_models_that_run_in_transformers_are_measured_too(
    tiny_target: Callable[..., Path], tiny_head: Callable[..., Path]
) -> None:
    cpu = torch.device("cpu")
    loaded = load_model(tiny_target("llama"), torch.float32, cpu)
    target, draft = prepare(loaded, tiny_head("llama"), torch.float32, cpu)
    assert not isinstance(target.forward, Engine)
    model = calibrate(Decoder(target, draft), PLAN)
    assert np.all(model.parts["verify"].median > 0)
    assert loaded.model.config._attn_implementation != ATTENTION


def test_a_draft_of_another_kind_is_measured_too(
    tiny_target: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[int, int]] = set()  # what it had read when cycles began, and what they then gained
    begin = OracleSession.begin

    def watched(session: OracleSession, features: None, tokens: torch.Tensor, gained: None) -> torch.Tensor:
        seen.add((len(session.sequences[0]), tokens.shape[1]))
        return begin(session, features, tokens, gained)

    monkeypatch.setattr(OracleSession, "begin", watched)
    decoder = load(tiny_target("llama"), "none", dtype="float32")
    model = load_model(tiny_target("llama"), torch.float32, torch.device("cpu")).model
    decoder.draft = OracleDraft(model)
    measured = calibrate(decoder, PLAN)
    # A context of 16 or 40 tokens, the root not among them, less the last gain, which brings the root.
    assert seen == {(length + 1 - gain, gain) for length in (16, 40) for gain in (1, 4)}
    assert measured.parts["verify"].sizes.tolist() == [0, 3, 20]
    assert all(np.all(part.median > 0) for part in measured.parts.values())
    assert measured.setup["width"] == 4 and measured.setup["draft_sha256"] is None
    assert decoder.generate([5, 9, 14], max_new_tokens=20, policy=Static(2, 12)).statistics.acceptance_length > 1


def test_lengths_and_sizes_fit_the_context_and_the_draft() -> None:
    assert Plan().lengths_for(8192) == [64, 256, 512, 1024]
    assert Plan().lengths_for(300) == [64, 256, 299]
    assert Plan().lengths_for(40) == [39]
    assert Plan(lengths=(30, 20, 30)).lengths_for(40) == [20, 30]
    assert Plan(sizes=(5, 0, 200)).sizes_for(110) == [0, 5]
    with pytest.raises(InputError, match="smallest size 200 is out of range; it must be 0 … 110"):
        Plan(sizes=(200, 240)).sizes_for(110)
    with pytest.raises(InputError, match="length 40 is out of range; it must be 17 … 39"):
        Plan(lengths=(40,)).lengths_for(40)
    with pytest.raises(InputError, match="max_length 17 is too short"):
        Plan().lengths_for(17)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"seconds": 0.0}, "seconds 0.0 is out of range"),
        ({"seconds": float("nan")}, "seconds nan is out of range"),
        ({"sizes": ()}, "there is no size"),
        ({"sizes": (513,)}, "size 513 is out of range"),
        ({"gains": (0,)}, "gain 0 is out of range"),
        ({"gains": (18,)}, "gain 18 is out of range"),
        ({"depth": 13}, "depth 13 is out of range"),
        ({"depth": 0}, "depth 0 is out of range"),
    ],
)
def test_a_plan_that_cannot_be_is_told(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Plan(**changes)


@pytest.fixture
def looking_up(tiny_target: Callable[..., Path]) -> Decoder:
    """A decoder without a draft."""
    return load(tiny_target("llama"), "lookup", dtype="float32")


@pytest.mark.parametrize("lengths", [(4,), (16, 40), (64, 200)])
def test_without_a_draft_trees_of_the_text_are_measured(
    looking_up: Decoder, monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...]
) -> None:
    """Every tree is as large as it is said to be."""
    verified: set[tuple[int, int]] = set()
    verify = TargetSession.verify

    def watched(session: TargetSession, nodes: Any) -> Any:
        verified.add((nodes.tokens.shape[1] - 1, int(session.lengths[0])))
        return verify(session, nodes)

    monkeypatch.setattr(TargetSession, "verify", watched)
    model = calibrate(looking_up, replace(PLAN, lengths=lengths, sizes=(0, 2, 9, 24, 64, 96)))
    sizes = model.parts["verify"].sizes.astype(int).tolist()
    assert verified == {(size, length) for size in sizes for length in lengths}
    assert set(sizes) < {0, 2, 9, 24, 64, 96} and sizes[0] == 0
    if lengths[0] >= 64:
        assert sizes[-1] == 64
    for name, part in model.parts.items():
        if name in ("begin", "expand"):
            assert not part.median.any() and not part.high.any(), name
        else:
            assert np.all(part.median > 0), name
    assert model.parts["begin"].sizes.tolist() == [1, 4] and model.parts["expand"].sizes.tolist() == [1, 2]
    assert np.all(model.draft([0, 3, 12], 50) == 0)


def test_sizes_that_no_text_has_are_refused(looking_up: Decoder) -> None:
    with pytest.raises(InputError, match="smallest size 200 is out of range; it must be 0 … 64"):
        CycleBench(looking_up, replace(PLAN, lengths=(64, 200), sizes=(200, 240)))


def test_latencies_without_a_draft_fit_no_head(looking_up: Decoder, decoder: Decoder, tmp_path: Path) -> None:
    measured = calibrate(looking_up, replace(PLAN, lengths=(64, 200)))
    measured.save(tmp_path / "latency.json")
    model = LatencyModel.load(tmp_path / "latency.json")
    assert model.setup["draft_sha256"] == "lookup" and not model.drafts
    assert model.mismatch(setup_of(looking_up)) is None
    assert "measured with draft_sha256 'lookup'" in str(model.mismatch(setup_of(decoder)))
    shown = [row[0] for row in latency_table(model).rows]
    assert "looking tokens up" in shown and not any("begin" in row or "expansion" in row for row in shown)
    assert len(draw(model).axes) == 1 and plot(model).startswith(PNG)


def test_calibration_needs_a_draft(tiny_target: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="needs a draft; load one"):
        calibrate(load(tiny_target("llama"), "none", dtype="float32"), PLAN)


def test_the_setup_names_machine_build_and_models(decoder: Decoder, tiny_head: Callable[..., Path]) -> None:
    setup = setup_of(decoder, "somewhere/tiny")
    assert setup["target"] == "tiny"
    assert setup["draft_sha256"] == file_hash(tiny_head("llama") / "model.safetensors") is not None
    assert {"processor", "cores", "threads", "torch", "ltd", "kernels", "device", "dtype", "width"} <= setup.keys()
    assert setup_of(decoder)["target"] == "SmolLM2-135M-Instruct"


# --- the command ---


@pytest.fixture
def options(tiny_target: Callable[..., Path], tiny_head: Callable[..., Path]) -> list[str]:
    """Options that choose a tiny random model and its head, and little time."""
    models = ["--target", str(tiny_target("llama")), "--draft", str(tiny_head("llama"))]
    return [*models, "--dtype", "float32", "--seconds", "0.01"]


def test_the_command_writes_file_and_plot_and_prints_the_table(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "latency.json"
    assert main(["calibrate", "--out", str(out), *options]) == 0
    printed = capsys.readouterr().out
    assert "Milliseconds (median)" in printed and "verify 240 + root" in printed
    assert f"The latencies are in {out}, the plot is in {out.with_suffix('.png')}." in printed
    model = LatencyModel.load(out)
    assert model.rounds == 1  # of hardly any time
    assert model.setup["target"] == Path(options[1]).name
    assert model.parts["verify"].lengths.tolist() == [64, 255]  # as far as this model's context goes
    assert model.parts["expand"].sizes.tolist() == list(range(1, 13))
    assert out.with_suffix(".png").read_bytes().startswith(PNG)
    assert sorted(path.name for path in out.parent.iterdir()) == ["latency.json", "latency.png"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--out", "latency.txt"], "must end in .json"),
        (["--out", "{tmp}/folder.json"], "is a folder"),
        (["--out", "{tmp}/file/latency.json"], "cannot write"),
        (["--out", "{tmp}/a.json", "--seconds", "0"], "seconds 0.0 is out of range"),
        (["--out", "{tmp}/a.json", "--draft", "none"], "it needs a draft"),
        (["--out", "{tmp}/a.json", "--target", "nowhere/at/all"], "there is no model at nowhere"),
        (["--out", "{tmp}/a.json", "--threads", "0"], "threads"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_measured(
    arguments: list[str],
    complaint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr("ltd.latency.calibration.calibrate", None)
    assert main(["calibrate", *(argument.format(tmp=tmp_path) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "a.json").exists()


def test_the_command_measures_without_a_draft(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options[options.index("--draft") + 1] = "lookup"
    assert main(["calibrate", "--out", str(tmp_path / "latency.json"), *options]) == 0
    shown = capsys.readouterr().out
    assert "verify 64 + root" in shown and "looking tokens up" in shown and "expansion" not in shown
    assert (tmp_path / "latency.png").read_bytes().startswith(PNG)


def test_noise_becomes_a_warning(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltd.latency.calibration.calibrate", lambda *_, **__: known_model(spread=0.5))
    assert main(["calibrate", "--out", str(tmp_path / "a.json"), *options]) == 0
    assert capsys.readouterr().err.startswith("warning: the measurements are noisy")
    assert LatencyModel.load(tmp_path / "a.json").noise == pytest.approx(0.5)
