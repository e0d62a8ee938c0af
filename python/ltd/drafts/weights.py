"""Which files of a folder hold a draft's weights, and by what they are known."""

from __future__ import annotations

from pathlib import Path

from ltd.common.files import files_hash


def weight_files(folder: Path) -> list[Path]:
    """Safetensors, one file or several; else those of PyTorch, as many published heads have them."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def weights_hash(folder: Path) -> str | None:
    """By what the weights in a folder are known, see `files_hash`; None without any."""
    return files_hash(weight_files(folder))
