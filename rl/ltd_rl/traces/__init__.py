"""Recorded generations: what every decision at every position would have gained and cost."""

from ltd_rl.traces.format import load_traces

__all__ = ["load_traces"]
