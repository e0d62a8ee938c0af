"""The plots of an evaluation: speed, time and choices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ltd.common.table import png
from ltd.evaluation.choice_plots import depth_shares, draw_depths, draw_sizes, draw_time, size_shares
from ltd.evaluation.scores import MEAN, WHOLE, Drafted, Score, Spent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TIME_LABELS = {"draft": "draft", "lookup": "lookup", "verify": "verification", "policy": "policy",
               "rest": "rest of the cycle", WHOLE: "timed from outside, not in parts"}  # fmt: skip
TIME_COLOURS = {"draft": "#3182bd", "lookup": "#756bb1", "verify": "#e6550d", "policy": "#31a354", "rest": "#969696",
                WHOLE: "#d9c7e8"}  # fmt: skip
SOURCE_LABELS = {"draft": "accepted, of the draft", "both": "of both", "text": "of the text so far"}
SOURCE_COLOURS = {"draft": "#3182bd", "both": "#9e9ac8", "text": "#54278f"}
MANY = 6  # methods; with more, bars of every task beside each other can no longer be told apart
MANY_BARS = 28  # of all tasks; more do not fit on a page with numbers above them
REACH = 1.5  # an interval is drawn so far beyond the largest value, and no further
MARKS = "osD^vP*X"  # for tasks
ByMethod = Mapping[str, Mapping[str, Score]]


def plot_speed(by_method: ByMethod) -> bytes:
    """A PNG: speedup per task and method with intervals; bars if there are few methods, else a row for each.

    Without plain decoding to compare with, tokens per second take the place of the speedup.
    """
    return png(draw_speed(by_method))


def draw_speed(by_method: ByMethod) -> Figure:
    """The figure of `plot_speed`."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    bars = sum(map(len, by_method.values()))
    if len(by_method) <= MANY and bars <= MANY_BARS:
        figure.set_size_inches(max(7.0, 0.5 * bars + 2), 4.8)
        speed_bars(figure.add_subplot(), by_method)
    else:
        figure.set_size_inches(8, 1.4 + 0.36 * len(by_method))
        speed_rows(figure.add_subplot(), by_method)
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    return figure


def has_speedups(by_method: ByMethod) -> bool:
    """Whether there is plain decoding to compare with."""
    return any(score.speedup is not None for row in by_method.values() for score in row.values())


def heights(by_method: ByMethod) -> dict[str, dict[str, float]]:
    """What is drawn: speedups, 0 where there is none; or tokens per second if there is none at all."""
    relative = has_speedups(by_method)
    return {
        method: {task: (score.speedup or 0.0) if relative else score.tokens_per_second for task, score in row.items()}
        for method, row in by_method.items()
    }


def furthest(values: Iterable[Mapping[str, float]]) -> float:
    """Where intervals are cut off, so that a wild one does not make all others invisible."""
    return REACH * max((value for row in values for value in row.values()), default=0.0) or 1.0


def speed_bars(axes: Axes, by_method: ByMethod) -> None:
    """A bar for every task and method, with its interval, and τ above both."""
    values = heights(by_method)
    limit = furthest(values.values())
    width = 0.8 / len(by_method)
    for number, (method, row) in enumerate(by_method.items()):
        places = [group + (number - (len(by_method) - 1) / 2) * width for group in range(len(row))]
        axes.bar(places, list(values[method].values()), width * 0.92, label=method)
        for place, score, value in zip(places, row.values(), values[method].values(), strict=True):
            end, beyond = draw_interval(axes, score, place, limit, upright=True)
            text = f"{score.acceptance_length:.2f}" + (f"\n… {beyond:.3g}" if beyond else "")
            axes.annotate(text, (place, max(value, end)), (0, 4), textcoords="offset points", ha="center", fontsize=8)
    axes.set_xticks(range(len(next(iter(by_method.values())))), list(next(iter(by_method.values()))))
    name = "Speedup" if has_speedups(by_method) else "Tokens per second"
    axes.set_ylabel("speedup over plain decoding" if has_speedups(by_method) else "tokens per second")
    axes.set_title(f"{name} (bars), 95 % intervals (lines), acceptance length τ (numbers)", fontsize=10)
    if has_speedups(by_method):
        axes.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes.margins(y=0.15)
    axes.spines[["top", "right"]].set_visible(False)


def speed_rows(axes: Axes, by_method: ByMethod) -> None:
    """A row for every method: its mean as a bar with its interval and τ, and a mark for every task.

    More tasks than there are marks have dots without a name.
    """
    values = heights(by_method)
    limit = furthest(values.values())
    places = range(len(by_method))
    axes.barh(places, [row[MEAN] for row in values.values()], 0.62, color="#9ecae1", label=MEAN)
    tasks = [task for task in next(iter(values.values())) if task != MEAN]
    named = len(tasks) <= len(MARKS)
    for number, task in enumerate(tasks):
        mark, name = (MARKS[number], task) if named else (".", None if number else "a task")
        axes.plot([row[task] for row in values.values()], places, mark, markersize=3.5, color="#08519c", label=name,
                  linestyle="none")  # fmt: skip
    if has_speedups(by_method):
        axes.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
    for place, (method, row) in enumerate(by_method.items()):
        end, beyond = draw_interval(axes, row[MEAN], place, limit, upright=False)
        text = f"τ {row[MEAN].acceptance_length:.2f}" + (f", interval to {beyond:.3g}" if beyond else "")
        edge = (max(end, *values[method].values()), place)
        axes.annotate(text, edge, (6, 0), textcoords="offset points", va="center", fontsize=8,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})  # fmt: skip
    axes.set_yticks(places, list(by_method))
    axes.invert_yaxis()
    unit = "speedup over plain decoding" if has_speedups(by_method) else "tokens per second"
    axes.set_xlabel(f"{unit}; lines: 95 % intervals of the mean")
    axes.margins(x=0.2, y=0.01)
    axes.spines[["top", "right"]].set_visible(False)


def draw_interval(axes: Axes, score: Score, place: float, limit: float, *, upright: bool) -> tuple[float, float | None]:
    """Draws a score's interval as a line, up to a limit and with an arrow if it goes on.

    Returns:
        where the line ends, 0 if there is none, and where the interval really ends if that is beyond the limit.
    """
    if score.interval is None:
        return 0.0, None
    low, high = min(score.interval[0], limit), min(score.interval[1], limit)
    along, across = [low, high], [place, place]
    axes.plot(*((across, along) if upright else (along, across)), color="black", linewidth=0.9)
    if high == score.interval[1]:
        return high, None
    axes.plot(*((place, high) if upright else (high, place)), "^" if upright else ">", color="black", markersize=4)
    return high, score.interval[1]


def plot_time(times: dict[str, Spent]) -> bytes:
    """A PNG: milliseconds per token by part, a bar for every method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.6 + 0.36 * len(times)), layout="constrained")
    axes = figure.add_subplot()
    draw_time(axes, [row.milliseconds for row in times.values()], TIME_LABELS, TIME_COLOURS)
    axes.set_yticks(range(len(times)), list(times))
    axes.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return png(figure)


def plot_sources(choices: Mapping[str, Drafted]) -> bytes:
    """A PNG: tokens per cycle, the target's own one and the accepted ones by who proposed them; a bar per method.

    Only methods that look tokens up are drawn.
    """
    from matplotlib.figure import Figure

    rows = {method: row.sources for method, row in choices.items() if row.sources}
    figure = Figure(figsize=(8, 1.6 + 0.36 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(range(len(rows)), 1.0, 0.7, label="the target's own", color="#d9d9d9")
    left = [1.0] * len(rows)
    for source, label in SOURCE_LABELS.items():
        values = [row.get(source, 0.0) for row in rows.values()]
        axes.barh(range(len(rows)), values, 0.7, left, label=label, color=SOURCE_COLOURS[source])
        left = [before + value for before, value in zip(left, values, strict=True)]
    for place, total in enumerate(left):
        axes.text(total, place, f" {total:.2f}", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set(title="where the tokens come from", xlabel="tokens per cycle", xlim=(0, 1.12 * max(left, default=1.0)))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
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
