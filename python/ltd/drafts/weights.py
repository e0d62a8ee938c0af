"""Which files of a folder hold a draft's weights, and by what they are known."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ltd.common.files import file_hash


def weight_files(folder: Path) -> list[Path]:
    """Safetensors, one file or several; else those of PyTorch, as many published heads have them."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def weights_hash(folder: Path) -> str | None:
    """SHA-256 of the one file with the weights; of several, of all their hashes in order; None without any."""
    hashes = [str(file_hash(file)) for file in weight_files(folder)]
    if len(hashes) > 1:
        return hashlib.sha256(" ".join(hashes).encode()).hexdigest()
    return hashes[0] if hashes else None
