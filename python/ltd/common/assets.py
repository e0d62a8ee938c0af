"""Where what comes with this package lies: drafts and policies for the default target."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

TRACES_FACTS = "traces.json"  # in the folder of the traces: what wrote them
SHIPPED_FOR = "smollm2-135m-instruct"  # the default target


def assets() -> Path:
    """The folder of all of it."""
    return Path(str(resources.files("ltd") / "assets"))


def shipped_head() -> Path:
    """The folder of the EAGLE-3 head."""
    return assets() / f"eagle3-{SHIPPED_FOR}"


def shipped_chain() -> Path:
    """The folder of the chain draft, with its acceptance head in it."""
    return assets() / f"chain-{SHIPPED_FOR}"


def shipped_policies() -> Path:
    """The folder of the policy bundles, all of them made for processors."""
    return assets() / "policies"


def shipped_traces() -> Path:
    """The folder of the compact traces that `ltd tune --quick` learns from."""
    return assets() / f"traces-{SHIPPED_FOR}"


def shipped_baseline(kind: str) -> Path:
    """The folder of a trained baseline, which may not exist."""
    return assets() / "baselines" / f"{kind}-{SHIPPED_FOR}"


def shipped_text_scores() -> Path:
    """The file with how likely looked-up tokens are."""
    return assets() / "lookup.json"
