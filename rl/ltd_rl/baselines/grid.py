"""Grid search, the paper's row GS: the static depth and size with the highest throughput on the training questions.

Recorded traces say what every setting would have gained, and measured latencies what it would have cost, so no setting
has to be run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ltd.policies.grid import write_grid
from ltd.policies.static import Static
from ltd_rl.traces.limits import EVERY_SIZE
from ltd_rl.traces.outcomes import named_width, outcomes_of, plain_total, total
from ltd_rl.traces.sources import Source, given_latency, latency_for, obtain_generations

SIZES = EVERY_SIZE[1:]


def search_grid(source: Source, out: Path) -> dict[str, Any]:
    """Finds the best setting and writes `grid.json`.

    Args:
        source: traces and latencies, or what to make them from.
        out: folder.

    Returns:
        what is written: "depth", "size", "tokens_per_second" by depth and size, "plain_tokens_per_second", "sizes".

    Raises:
        InputError: something is missing or does not fit, or the folder cannot be written.
    """
    latency = given_latency(source)
    if source.traces is None or source.latency is None:  # else no model is loaded
        source.check_drafts()
    generations = obtain_generations(source)
    latency = latency or latency_for(source, generations)
    outcomes = outcomes_of(generations, latency, SIZES)
    table = [
        [total(outcomes, depth, step).throughput for step in range(len(SIZES))] for depth in range(outcomes.depth + 1)
    ]
    _, depth, size = max(
        (rate, -depth, -SIZES[step]) for depth, row in enumerate(table) for step, rate in enumerate(row)
    )
    facts = {
        "made_for": dict(latency.setup),
        "tasks": sorted({generation.task for generation in generations}),
        "positions": outcomes.positions,
        "plain_tokens_per_second": plain_total(outcomes).throughput,
        "sizes": list(SIZES),
        "tokens_per_second": table,
    }
    return write_grid(Static(-depth, -size, named_width(outcomes.width)), facts, out)
