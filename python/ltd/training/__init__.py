"""Training a draft head for any supported target, from nothing but the target."""

from ltd.training.config import TrainDraftConfig
from ltd.training.driver import train_draft

__all__ = ["TrainDraftConfig", "train_draft"]
