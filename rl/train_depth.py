"""Trains the depth policy beside a constant size or a frozen size policy: `python rl/train_depth.py --help`."""

from __future__ import annotations

import sys

from ltd_rl.scripts.main import main
from ltd_rl.scripts.options import DepthOptions

if __name__ == "__main__":
    sys.exit(main("depth", DepthOptions))
