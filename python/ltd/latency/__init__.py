"""What a cycle costs on one machine: measuring it, keeping it in a file, and asking it."""

from ltd.latency.model import LatencyModel, setup_of

__all__ = ["LatencyModel", "setup_of"]
