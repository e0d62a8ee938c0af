"""The paper's evaluation with the official option names: `python rl/evaluate.py --help`."""

from __future__ import annotations

import sys

from ltd_rl.scripts.evaluation import main

if __name__ == "__main__":
    sys.exit(main())
