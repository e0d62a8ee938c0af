"""Training a draft head for any supported target, from nothing but the target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ltd.training.config import TrainDraftConfig

if TYPE_CHECKING:
    from ltd.training.train import train_draft as train_draft

__all__ = ["TrainDraftConfig", "train_draft"]


def __getattr__(name: str) -> Any:
    if name != "train_draft":
        raise AttributeError(f"module 'ltd.training' has no attribute {name!r}")
    # Imported on first use: the command line needs only the config to show its help.
    from ltd.training.train import train_draft

    return train_draft
