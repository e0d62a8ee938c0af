"""From names to drafts: the one place that knows which kinds there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from ltd.common.argument_types import as_path
from ltd.common.assets import shipped_head
from ltd.common.files import expand_user
from ltd.drafts.base import Draft, Origin
from ltd.drafts.eagle3.device import HeadDeviceEngine
from ltd.drafts.eagle3.draft import Eagle3Draft
from ltd.drafts.eagle3.engine import HeadEngine
from ltd.drafts.eagle3.files import FORMAT, load_head, read_config
from ltd.drafts.eagle3.head import Eagle3Head
from ltd.drafts.sharpness import SAMPLING
from ltd.engine.packed_layers import PackedEmbedding
from ltd.engine.packed_linear import pack_linears
from ltd.errors import InputError
from ltd.lookup import TextScores, default_text_scores, load_text_scores
from ltd.lookup.scores import TEXT_SCORES
from ltd.ops import build_info

NONE = "none"  # instead of a draft's folder: plain decoding
LOOKUP = "lookup"  # the same: no draft, but tokens are looked up in the text so far
COMPANIONS = {SAMPLING: "how sharp its scores of sampled text are", TEXT_SCORES: "how likely looked-up tokens are"}
"""By name, what files beside a head's weights say about these, where they have been fitted."""


@dataclass(frozen=True, slots=True)
class StoredDraft:
    """A draft's weights, read from its folder and checked; it drafts once it has the target's embedding.

    Two steps, because a target must know which hidden states to tap when it is made, and one that packs its weights has
    its embedding only then.

    Attributes:
        head: the weights.
        origin: where they came from.
    """

    head: Eagle3Head
    origin: Origin

    @property
    def feature_layers(self) -> tuple[int, ...]:
        """The target's hidden states it reads, see `Draft`."""
        return self.head.config.feature_layers

    def at_work(self, embedding: nn.Embedding | PackedEmbedding) -> Draft:
        """The draft; see `make_draft`."""
        return make_draft(self.head, embedding, self.origin)


def read_draft(
    folder: Path, dtype: torch.dtype, device: torch.device, *, model: PreTrainedModel, fingerprint: str | None
) -> StoredDraft:
    """Reads the draft in a folder, whatever its kind.

    Args:
        folder: an EAGLE-3 head, in our own or a published layout.
        dtype, device: of its weights.
        model: the target, with its weights; some published heads leave parts to it.
        fingerprint: of the target's tokenizer; None does not compare it with the one that the draft was made for.

    Raises:
        InputError: there is no draft in the folder, it is not whole, or it was made for another tokenizer.
    """
    head = load_head(folder, dtype, device, target=model)
    if fingerprint is not None and head.config.tokenizer_fingerprint not in (None, fingerprint):
        raise InputError(
            f"the head in {folder} was trained for another tokenizer than the target's; "
            f"use a head trained for this target, or the draft {LOOKUP} or {NONE}"
        )
    origin = Origin(folder)
    _ = origin.sharpness  # now, as it may not be whole
    return StoredDraft(head, origin)


def make_draft(head: Eagle3Head, embedding: nn.Embedding | PackedEmbedding, origin: Origin | None = None) -> Draft:
    """A draft on the fastest path that there is for a head, whose weights it takes over.

    Args:
        embedding: the target's; head and embedding are on one device.
        origin: where the head came from.

    Raises:
        InputError: the head does not fit the target's vocabulary or hidden states.
    """
    draft = Eagle3Draft(head, embedding, origin=origin)
    if embedding.weight.device.type == "cpu":
        if HeadEngine.supports(head):
            draft.forward = HeadEngine(head)
        pack_linears(head)
    elif build_info()["cuda"] and HeadDeviceEngine.supports(head):
        draft.forward = HeadDeviceEngine(head)
    return draft


def find_head(draft: str | Path | None) -> Path | None:
    """The folder of the head, or None for `NONE` and `LOOKUP`; InputError if it is no path."""
    if draft is None:
        return shipped_head()
    return None if str(as_path(draft, "draft")) in (NONE, LOOKUP) else expand_user(draft)


def check_named(draft: str | Path | None, target: PretrainedConfig | None = None) -> None:
    """Looks at the draft of a name without reading its weights.

    Args:
        draft: see `find_head`.
        target: that it is for; None does not compare them. Only heads in our own layout say for whom they are made.

    Raises:
        InputError: there is no draft in the folder, or it was made for a target of other sizes.
    """
    folder = find_head(draft)
    if folder is None:
        return
    head = read_config(folder)
    if target is None or head.get("format") != FORMAT:
        return
    for said, name in (("vocab_size", "vocab_size"), ("target_hidden_size", "hidden_size")):
        if head.get(said) != getattr(target, name):
            raise InputError(
                f"the head in {folder} was made for a target with {name} {head.get(said)}, but this one has "
                f"{getattr(target, name)}; use a head that was trained for this target"
            )


def is_published(head: Path) -> bool:
    """Whether the head in a folder has another layout than our own; InputError if there is none."""
    return read_config(head).get("format") != FORMAT


def default_draft(config: PretrainedConfig, fingerprint: Callable[[], str | None] = lambda: None) -> str | None:
    """The draft for a target if none is named: None, the shipped head, where it was made for such a one, or `LOOKUP`.

    Args:
        config: the target's, whose sizes are compared.
        fingerprint: of its tokenizer, asked for where the sizes are the head's; None does not compare it.
    """
    head = read_config(shipped_head())
    made_for = (head.get("vocab_size"), head.get("target_hidden_size"))
    if made_for != tuple(getattr(config, name, None) for name in ("vocab_size", "hidden_size")):
        return LOOKUP
    words = head.get("tokenizer_fingerprint")
    return None if words is None or fingerprint() in (None, words) else LOOKUP


def find_text_scores(draft: str | Path | None) -> TextScores | None:
    """How likely looked-up tokens are beside a draft: as its folder says, or as is known without; None for `NONE`.

    Raises:
        InputError: what the folder says cannot be read.
    """
    if str(draft) == NONE:
        return None
    file = text_scores_file(find_head(draft))
    return default_text_scores() if file is None else load_text_scores(file)


def text_scores_file(head: Path | None) -> Path | None:
    """The file in a head's folder that says how likely looked-up tokens are; None if it does not."""
    return head / TEXT_SCORES if head is not None and (head / TEXT_SCORES).exists() else None


def companions(head: Path) -> list[Path]:
    """Those of `COMPANIONS` that are in a head's folder."""
    return [head / name for name in COMPANIONS if (head / name).is_file()]


def head_hash(folder: Path | None) -> str | None:
    """By what the weights of a head are known, see `ltd.drafts.weights`; None without one."""
    return None if folder is None else Origin(folder).sha256


def state_size(folder: Path) -> int:
    """The size of the states of the draft in a folder, as far as its config says without its weights; 0 if it does not.

    Raises:
        InputError: there is no draft in the folder.
    """
    size = read_config(folder).get("hidden_size", 0)
    return size if isinstance(size, int) else 0
