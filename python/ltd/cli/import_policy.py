"""`ltd import-policy`: a policy bundle from what the paper's official scripts trained."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def import_policy(
    out: Annotated[Path, typer.Option(help="Folder for the bundle.")],
    depth_zip: Annotated[Path | None, typer.Option(help="The depth policy; without one, every depth is 8.")] = None,
    size_zip: Annotated[Path | None, typer.Option(help="The size policy; without one, every size is 60.")] = None,
    relu: Annotated[
        bool, typer.Option("--relu", help="The networks use ReLU, whatever the files say; wrong, it costs speed.")
    ] = False,
    length_range: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Shortest and longest context that they were trained on; longer ones count as the longest."),
    ] = None,
) -> None:
    """Make a bundle of the official scripts' policies (zip files of Stable-Baselines3), running no pickled code."""
    from ltd.policies.learned.bundle import save_bundle
    from ltd.policies.learned.observation import ANY_LENGTH
    from ltd.policies.learned.sb3_import import import_policies

    bundle = import_policies(depth_zip, size_zip, states_relu=relu, length_range=length_range or ANY_LENGTH)
    save_bundle(bundle, out)
    print(f"{bundle.policy}; the bundle is in {out}", file=sys.stderr)
