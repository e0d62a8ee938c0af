"""The command line. Each command has its file here; what is heavy is imported when a command runs."""

from ltd.cli.main import main

__all__ = ["main"]
