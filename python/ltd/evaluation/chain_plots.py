"""What chain drafts pay for fewer target calls: the numbers, and a plot with a line for every like-minded rule."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ltd.chains.by_name import NAMED, split_sampler
from ltd.chains.samplers import RESIDUAL
from ltd.common.journal import Record
from ltd.common.named_options import options_of
from ltd.common.table import png
from ltd.evaluation.method_names import split_label
from ltd.evaluation.scores import Drafted, Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

KNOB = "threshold"  # the option along which a line goes
# Where a label may stand beside its point, the nearest first: directions, at distances in points.
DIRECTIONS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))
DISTANCES = range(6, 200, 8)
NEAR = 14  # points; a label further away is tied to its point by a line


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
    rule = split_sampler(split_label(method)[1].partition(":")[2])[0].partition(":")[0]
    if rule.isdecimal():
        return "constant"
    return "heuristic" if rule == "heuristic" else "threshold"


def series(method: str) -> tuple[str, float | None]:
    """The line that a chain method stands on, and where: its K or its threshold.

    Methods share a line if nothing but that one number tells them apart, defaults filled in.
    """
    typed, sampler = split_sampler(split_label(method)[1].partition(":")[2])
    rule, *given = typed.split(":")
    if rule.isdecimal():
        return "constant K" if sampler == RESIDUAL else f"constant K, {sampler}", int(rule)
    defaults = {name: str(parameter.default) for name, parameter in options_of(NAMED[rule].make).items()}
    defaults["sampler"] = RESIDUAL
    values = defaults | {option.partition("=")[0]: option.partition("=")[2] for option in given} | {"sampler": sampler}
    knob = values.pop(KNOB, None)
    others = [f"{name}={value}" for name, value in values.items() if value != defaults[name]]
    name = ", ".join([rule, *others])
    return (name, None) if knob is None else (f"{name}, by {KNOB}", float(knob))


def plot_pareto(points: Sequence[Record]) -> bytes:
    """A PNG: against discarded tokens per accepted one, on the left target calls per token, on the right speed."""
    return png(draw_pareto(points))


def draw_pareto(points: Sequence[Record]) -> Figure:
    """The figure of `plot_pareto`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    calls, speed = figure.subplots(1, 2)
    has_speedup = all(point["speedup"] is not None for point in points)
    labels = {calls: draw_series(calls, points, "calls_per_token")}
    labels[speed] = draw_series(speed, points, "speedup" if has_speedup else "tokens_per_second")
    calls.set(ylabel="target calls per token", title="lower left is better")
    unit = "speedup over plain decoding" if has_speedup else "tokens per second"
    speed.set(ylabel=unit, title="higher is faster")
    figure.legend(*calls.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.draw_without_rendering()  # from here on a point's place on the page is known
    for axes, mine in labels.items():
        place_labels(axes, mine, figure.dpi / 72)
    return figure


def draw_series(axes: Axes, points: Sequence[Record], value: str) -> list[Annotation]:
    """A line for every series along its K or threshold, which stands beside each point; returns what stands there."""
    lines: dict[str, list[tuple[float | None, Record]]] = {}
    for point in points:
        name, where = series(point["method"])
        lines.setdefault(name, []).append((where, point))
    labels = []
    for name, mine in lines.items():
        mine.sort(key=lambda pair: pair[0] or 0.0)
        places = [(point["discarded_per_accepted"], point[value]) for _, point in mine]
        (line,) = axes.plot(*zip(*places, strict=True), "o-", label=name, markersize=5)
        labels += [
            axes.annotate(f"{where:g}", place, (0, 0), textcoords="offset points", fontsize=8, ha="center",
                          va="center", color=line.get_color())
            for (where, _), place in zip(mine, places, strict=True)
            if where is not None
        ]  # fmt: skip
    axes.set_xlabel("discarded tokens per accepted one")
    axes.margins(0.12)
    axes.spines[["top", "right"]].set_visible(False)
    return labels


# --- labels that do not overprint ---


def place_labels(axes: Axes, labels: Sequence[Annotation], pixels: float) -> None:
    """Moves every label to the nearest place beside its point where it covers no point, line or other label.

    Args:
        axes: drawn, so that everything has its place.
        labels: each in the middle of its point.
        pixels: of one point of the page.
    """
    lines = [axes.transData.transform(line.get_xydata()) for line in axes.lines]
    points = [tuple(point) for line in lines for point in line]
    segments = [pair for line in lines for pair in pairwise(map(tuple, line))]
    taken: list[Bbox] = []
    for label in labels:
        middle = label.get_window_extent().padded(1.5)  # over its point, where it is made
        boxes = {place: moved(middle, place, pixels) for place in places_for(label)}
        clear = (place for place, box in boxes.items() if is_free(box, taken, points, segments))
        over_lines = (place for place, box in boxes.items() if is_free(box, taken, points, []))
        free = next(clear, None) or next(over_lines)
        label.set_position(free)
        taken.append(boxes[free])
        if max(map(abs, free)) > NEAR + float(label.get_fontsize()):
            axes.annotate("", label.xy, free, textcoords="offset points", arrowprops={"arrowstyle": "-", "lw": 0.5})


def places_for(label: Annotation) -> list[tuple[float, float]]:
    """Offsets of a label's middle from its point, in points of the page, the nearest first."""
    size = float(label.get_fontsize())
    return [
        (across * (distance + 0.3 * size * len(label.get_text())), up * (distance + 0.4 * size))
        for distance in DISTANCES
        for across, up in DIRECTIONS
    ]


def moved(box: Bbox, offset: tuple[float, float], pixels: float) -> Bbox:
    """The same box elsewhere; `pixels` are those of one unit of the offset."""
    from matplotlib.transforms import Bbox as Box

    across, up = offset
    x, y = pixels * across, pixels * up
    return Box.from_extents(box.x0 + x, box.y0 + y, box.x1 + x, box.y1 + y)


def is_free(
    box: Bbox, taken: Sequence[Bbox], points: Sequence[tuple[float, ...]], segments: Sequence[tuple[Any, Any]]
) -> bool:
    """Whether a box covers none of these."""
    return not (
        any(box.overlaps(other) for other in taken)
        or any(box.padded(3).contains(*point) for point in points)
        or any(crosses(box, *segment) for segment in segments)
    )


def crosses(box: Bbox, start: tuple[float, float], end: tuple[float, float]) -> bool:
    """Whether a straight line goes through a box: some of it lies between all four sides (Liang and Barsky)."""
    first, last = 0.0, 1.0
    for begin, stop, low, high in ((start[0], end[0], box.x0, box.x1), (start[1], end[1], box.y0, box.y1)):
        way = stop - begin
        if way == 0.0:
            if not low <= begin <= high:
                return False
            continue
        ends = sorted(((low - begin) / way, (high - begin) / way))
        first, last = max(first, ends[0]), min(last, ends[1])
    return first <= last
