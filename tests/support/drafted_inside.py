"""`CustomGenerate` with a draft that is often right, so that cycles gain several tokens."""

from __future__ import annotations

import copy

from oracle_draft import OracleDraft
from transformers import PreTrainedModel

import ltd
from ltd.decoding.decoder import Decoder
from ltd.target.target import Target


def often_right(model: PreTrainedModel, noise: float = 1.0) -> ltd.CustomGenerate:
    """For one model: its copy drafts, with noise on its logits."""
    custom = ltd.CustomGenerate("none", policy=ltd.Static(3, 12))
    custom.decoder = Decoder(Target(model), OracleDraft(copy.deepcopy(model), noise=noise))
    return custom
