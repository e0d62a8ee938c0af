"""`train_size.py` under its official name: `python -m rl.rl_total --help`."""

from __future__ import annotations

import sys

from ltd_rl.scripts.main import main
from ltd_rl.scripts.options import SizeOptions

if __name__ == "__main__":
    sys.exit(main("size", SizeOptions))
