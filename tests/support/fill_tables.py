"""Writes the numbers of results files into the marked tables of pages.

    python tests/support/fill_tables.py bench/results/install/README.md

Rows and columns stay as they are; where the data has nothing for them, that is printed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from page_checks import filled, wrong_numbers

for page in map(Path, sys.argv[1:]):
    text = filled(page, page.read_text(encoding="utf-8"))
    page.write_text(text, encoding="utf-8")
    for problem in wrong_numbers(page, text):
        print(f"{page}: {problem}")
