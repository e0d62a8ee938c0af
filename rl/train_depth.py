"""Trains the depth policy beside a constant size or a frozen size policy: `python rl/train_depth.py --help`."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from ltd_rl.scripts.main import main
from ltd_rl.scripts.options import Options, option


@dataclass(frozen=True, slots=True)
class DepthOptions(Options):
    """With the size policy as partner."""

    rl_token_model_path: str = option(
        "", "Size policy beside it: bundle folder or SB3 zip; empty is 60, or the best constant if no tree is so large."
    )

    @property
    def partner(self) -> str:
        """The size policy."""
        return self.rl_token_model_path


if __name__ == "__main__":
    sys.exit(main("depth", DepthOptions))
