"""Trains the size policy beside random depths or a frozen depth policy: `python rl/train_size.py --help`."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from ltd_rl.scripts.main import main
from ltd_rl.scripts.options import Options, option


@dataclass(frozen=True, slots=True)
class SizeOptions(Options):
    """With the depth policy as partner."""

    rl_depth_model_path: str = option(
        "", "Depth policy beside it: bundle folder or SB3 zip; empty is a depth drawn uniformly from 1 to the limit."
    )

    @property
    def partner(self) -> str:
        """The depth policy."""
        return self.rl_depth_model_path


if __name__ == "__main__":
    sys.exit(main("size", SizeOptions))
