"""Trains the size policy beside random depths or a frozen depth policy: `python rl/train_size.py --help`."""

from __future__ import annotations

import sys

from ltd_rl.scripts.main import main
from ltd_rl.scripts.options import SizeOptions

if __name__ == "__main__":
    sys.exit(main("size", SizeOptions))
