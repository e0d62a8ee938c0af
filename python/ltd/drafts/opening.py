"""From names to drafts: the one place that knows which kinds there are."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ltd.common.assets import shipped_head
from ltd.common.files import file_hash
from ltd.drafts.eagle3.draft import Eagle3Draft
from ltd.drafts.eagle3.engine import HeadEngine
from ltd.drafts.eagle3.head import Eagle3Head
from ltd.engine.packed_layers import PackedEmbedding
from ltd.engine.packed_linear import pack_linears


def make_draft(head: Eagle3Head, embedding: nn.Embedding | PackedEmbedding) -> Eagle3Draft:
    """A draft on the fastest path that there is for a head, whose weights it takes over on the CPU.

    Args:
        embedding: the target's; head and embedding are on one device.
    """
    draft = Eagle3Draft(head, embedding)
    if embedding.weight.device.type == "cpu":
        if HeadEngine.supports(head):
            draft.forward = HeadEngine(head)
        pack_linears(head)
    return draft


def find_head(draft: str | Path | None) -> Path | None:
    """The folder of the head, or None for plain decoding."""
    if draft is None:
        return shipped_head()
    return None if str(draft) == "none" else Path(draft).expanduser()


def head_hash(folder: Path | None) -> str | None:
    """SHA-256 of the weights of a head in our own layout; None without one."""
    return None if folder is None else file_hash(folder / "model.safetensors")
