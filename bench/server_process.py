"""`transformers serve` in a process of its own, on a free port of this machine; it always ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 180.0  # importing torch on a busy machine
LOCAL = "127.0.0.1"


@contextmanager
def served(folder: Path, work: Path, *options: str) -> Iterator[str]:
    """The address of a server of the model in a folder.

    Args:
        folder: of the model.
        work: a folder for its log and caches.
        options: more of `transformers serve`, such as --trust-remote-code.
    """
    port = free_port()
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), "--host", LOCAL,
               "--port", str(port), "--device", "cpu", *options]  # fmt: skip
    environment = {**os.environ, "HF_HOME": str(work / "hub"), "PYTHONPATH": os.pathsep.join(sys.path)}
    log = work / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=work)
    try:
        address = f"http://{LOCAL}:{port}"
        wait_for(address, process, log)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Waits until a server answers; a failure, with its log, if it ends or takes too long."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"the server is not there:\n{log.read_text()}")


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        return int(probe.getsockname()[1])
