"""The plots of an evaluation: speed, time, choices, and what chain drafts pay for fewer target calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ltd.common.journal import Record
from ltd.common.table import png
from ltd.evaluation.choice_plots import depth_shares, draw_depths, draw_sizes, draw_time, size_shares
from ltd.evaluation.methods import split_label
from ltd.evaluation.scores import MEAN, Drafted, Score, Spent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TIME_LABELS = {"draft": "draft", "verify": "verification", "policy": "policy", "rest": "rest of the cycle"}
TIME_COLOURS = {"draft": "#3182bd", "verify": "#e6550d", "policy": "#31a354", "rest": "#969696"}
FAMILIES = {"constant": "constant K", "threshold": "threshold", "heuristic": "heuristic"}
MANY = 6  # methods; with more, bars of every task beside each other can no longer be told apart


def plot_speed(by_method: dict[str, dict[str, Score]]) -> bytes:
    """A PNG: speedup per task and method with intervals; bars if there are few methods, else a row for each."""
    return speed_bars(by_method) if len(by_method) <= MANY else speed_rows(by_method)


def speed_bars(by_method: dict[str, dict[str, Score]]) -> bytes:
    """A bar for every task and method, with τ above it."""
    from matplotlib.figure import Figure

    groups = list(next(iter(by_method.values())))
    figure = Figure(figsize=(min(16.0, max(6.0, 0.5 * len(groups) * len(by_method) + 2)), 4.8), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(by_method)
    for number, (method, row) in enumerate(by_method.items()):
        places = [group + (number - (len(by_method) - 1) / 2) * width for group in range(len(groups))]
        bars = axes.bar(places, [score.speedup or 0.0 for score in row.values()], width * 0.92, label=method)
        for place, score in zip(places, row.values(), strict=True):
            if score.interval is not None:
                axes.plot([place, place], score.interval, color="black", linewidth=0.8)
        axes.bar_label(bars, [f"{score.acceptance_length:.2f}" for score in row.values()], fontsize=8, padding=8)
    axes.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel("speedup over plain decoding")
    axes.set_title("Speedup (bars) with 95 % intervals (lines), acceptance length τ (numbers)", fontsize=10)
    axes.margins(y=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=min(len(by_method), 5), frameon=False)
    return png(figure)


def speed_rows(by_method: dict[str, dict[str, Score]]) -> bytes:
    """A row for every method: its mean as a bar with its interval and τ, and a mark for every task."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.4 + 0.36 * len(by_method)), layout="constrained")
    axes = figure.add_subplot()
    means = [row[MEAN] for row in by_method.values()]
    places = range(len(by_method))
    axes.barh(places, [mean.speedup or 0.0 for mean in means], 0.62, color="#9ecae1", label=MEAN)
    ends = [mean.interval for mean in means]
    for place, interval in zip(places, ends, strict=True):
        if interval is not None:
            axes.plot(interval, [place, place], color="black", linewidth=1.0)
    for mark, task in zip("osD^vP*X", (task for task in next(iter(by_method.values())) if task != MEAN), strict=False):
        speedups = [row[task].speedup or 0.0 for row in by_method.values()]
        axes.plot(speedups, places, mark, markersize=3.5, color="#08519c", label=task, linestyle="none")
    furthest = [max(end[1] if end else 0.0, *(s.speedup or 0.0 for s in row.values())) for end, row in
                zip(ends, by_method.values(), strict=True)]  # fmt: skip
    for place, mean, edge in zip(places, means, furthest, strict=True):
        axes.annotate(f"τ {mean.acceptance_length:.2f}", (edge, place), (6, 0), textcoords="offset points",
                      va="center", fontsize=8)  # fmt: skip
    axes.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes.set_yticks(places, list(by_method))
    axes.invert_yaxis()
    axes.set_xlabel("speedup over plain decoding; lines: 95 % intervals of the mean")
    axes.margins(x=0.12, y=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    return png(figure)


def plot_time(times: dict[str, Spent]) -> bytes:
    """A PNG: milliseconds per token by part, a bar for every method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.4 + 0.36 * len(times)), layout="constrained")
    axes = figure.add_subplot()
    draw_time(axes, [row.milliseconds for row in times.values()], TIME_LABELS, TIME_COLOURS)
    axes.set_yticks(range(len(times)), list(times))
    axes.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=len(TIME_LABELS), frameon=False)
    return png(figure)


def plot_choices(choices: dict[str, Drafted]) -> bytes:
    """A PNG, a row for every method that tells what it drafts: how often which depth, and which size."""
    from matplotlib.figure import Figure

    told = {method: row for method, row in choices.items() if row.size is not None}
    figure = Figure(figsize=(11, 1.4 + 0.36 * max(1, len(told))), layout="constrained")
    if told:
        depths, sizes = figure.subplots(1, 2, sharey=True)
        deepest = max(max(row.depths, default=0) for row in told.values())
        draw_depths(depths, [depth_shares(row.depths, row.cycles, deepest) for row in told.values()])
        draw_sizes(sizes, [size_shares(row.sizes, row.cycles) for row in told.values()])
        depths.set_yticks(range(len(told)), list(told))
    return png(figure)


# --- chain drafts ---


def is_chain(method: str) -> bool:
    """Whether a method drafts a chain, by its name."""
    return split_label(method)[1].startswith("chain:")


def pareto_points(choices: dict[str, Drafted], means: dict[str, Score]) -> list[Record]:
    """For every chain method that accepted anything: what it discards, and how often it calls the target.

    Returns:
        records of `method`, `family` (constant, threshold or heuristic), `discarded_per_accepted`, `calls_per_token`,
        and the mean over the tasks of `tokens_per_second` and `speedup` (null without plain decoding).
    """
    return [
        {
            "method": method,
            "family": family(method),
            "discarded_per_accepted": row.discarded,
            "calls_per_token": row.target_calls / 100,
            "tokens_per_second": means[method].tokens_per_second,
            "speedup": means[method].speedup,
        }
        for method, row in choices.items()
        if is_chain(method) and row.discarded is not None and row.target_calls is not None
    ]


def family(method: str) -> str:
    """What kind of rule decides the length of a chain."""
    rule = split_label(method)[1].split(":")[1]
    if rule.isdecimal():
        return "constant"
    return "heuristic" if rule == "heuristic" else "threshold"


def plot_pareto(points: Sequence[Record]) -> bytes:
    """A PNG: against discarded tokens per accepted one, on the left target calls per token, on the right speed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    calls, speed = figure.subplots(1, 2)
    has_speedup = all(point["speedup"] is not None for point in points)
    draw_families(calls, points, "calls_per_token")
    draw_families(speed, points, "speedup" if has_speedup else "tokens_per_second")
    calls.set(ylabel="target calls per token", title="lower left is better")
    unit = "speedup over plain decoding" if has_speedup else "tokens per second"
    speed.set(ylabel=unit, title="higher is faster")
    figure.legend(*calls.get_legend_handles_labels(), loc="outside lower center", ncols=len(FAMILIES), frameon=False)
    return png(figure)


def draw_families(axes: Axes, points: Sequence[Record], value: str) -> None:
    """A line for every family, along discarded tokens, with each point's number or threshold beside it."""
    for name, label in FAMILIES.items():
        mine = sorted((p for p in points if p["family"] == name), key=lambda point: point["discarded_per_accepted"])
        if mine:
            places = [point["discarded_per_accepted"] for point in mine], [point[value] for point in mine]
            axes.plot(*places, "o-", label=label, markersize=5)
        for point in mine:
            place = (point["discarded_per_accepted"], point[value])
            axes.annotate(short(point["method"]), place, (5, 5), textcoords="offset points", fontsize=8)
    axes.set_xlabel("discarded tokens per accepted one")
    axes.margins(0.1)
    axes.spines[["top", "right"]].set_visible(False)


def short(method: str) -> str:
    """What tells a chain method from the others of its family: K, or the threshold."""
    _, rule, *options = method.split(":")
    thresholds = [option.partition("=")[2] for option in options if option.startswith("threshold=")]
    if family(method) == "threshold":
        return thresholds[0] if thresholds else "default"
    return rule if family(method) == "constant" else ""
