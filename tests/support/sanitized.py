"""A pytest plugin (`-p sanitized`): tests use the module ltd._C of the folder LTD_SANITIZED, not the usual one."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import torch  # noqa: F401 - the module needs its libraries

(_file,) = Path(os.environ["LTD_SANITIZED"]).glob("_C.*.so")
_spec = importlib.util.spec_from_file_location("ltd._C", _file)
assert _spec is not None and _spec.loader is not None
sys.modules["ltd._C"] = _module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
