"""`python -m ltd` is `ltd`."""

import sys

from ltd.cli import main

sys.exit(main())
