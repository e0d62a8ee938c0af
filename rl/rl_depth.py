"""`train_depth.py` under its official name: `python -m rl.rl_depth --help`."""

from __future__ import annotations

import sys

from ltd_rl.scripts.main import main
from ltd_rl.scripts.options import DepthOptions

if __name__ == "__main__":
    sys.exit(main("depth", DepthOptions))
