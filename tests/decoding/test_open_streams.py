"""Programs that end with streams that nobody has read to their ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAM = """
import sys, ltd
decoder = ltd.load(sys.argv[1], sys.argv[2], dtype="float32")
prompt = decoder.encode("Say 7")
streams = [decoder.stream(prompt, max_new_tokens=20) for _ in range(2)]
print([next(stream) for stream in streams] != [])
"""


@pytest.mark.parametrize("held", ["", "import builtins; builtins.held = streams"])
def test_nothing_is_printed_about_them(
    held: str, tiny_target: Callable[[str], Path], tiny_head: Callable[[str], Path]
) -> None:
    program = PROGRAM + held
    command = [sys.executable, "-c", program, str(tiny_target("llama")), str(tiny_head("llama"))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert ended.stdout == "True\n"
    assert "Error" not in ended.stderr and "Exception" not in ended.stderr


KEPT = """
texts = decoder.target.texts
texts.add = lambda *arguments: print("kept")
"""


def test_nothing_is_kept_of_them(tiny_target: Callable[[str], Path], tiny_head: Callable[[str], Path]) -> None:
    """Nor are other processes told to keep anything: nobody asks any more. A stream closed before is kept."""
    folders = str(tiny_target("llama")), str(tiny_head("llama"))
    for closing, said in (("", "True\n"), ("streams[0].close()", "True\nkept\n")):
        program = f"{PROGRAM}{KEPT}{closing}"
        ended = subprocess.run([sys.executable, "-c", program, *folders], capture_output=True, text=True, check=True)
        assert ended.stdout == said
