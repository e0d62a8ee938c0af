"""What every draft can do."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from ltd.drafts.sharpness import UNFITTED, Sharpness, load_sharpness
from ltd.drafts.weights import weights_hash
from ltd.engine.kept_texts import ReadText
from ltd.errors import InputError
from ltd.noise import SharedNoise
from ltd.ops import Noise
from ltd.tree import DraftTree

DEFAULT_WIDTH = 10  # beam width W of EAGLE-3, where nothing names another


@dataclass(frozen=True)
class Origin:
    """Where a draft's weights came from.

    Args:
        folder: of the draft.
    """

    folder: Path

    @cached_property
    def sha256(self) -> str | None:
        """By what its weights are known, see `weights_hash`, read when it is first asked for; None without any."""
        return weights_hash(self.folder)

    @cached_property
    def sharpness(self) -> Sharpness:
        """How far its values with noise can be trusted, read when it is first asked for.

        Raises:
            InputError: what the folder says cannot be used.
        """
        return load_sharpness(self.folder, lambda: self.sha256)


class Draft(Protocol):
    """Proposes the candidates of trees, level by level, in sessions that each belong to one request.

    What it proposes at a place depends on the text before that place alone, not on the cycles that led there. So a
    session can go back (`rewind`), and many places of one text can be drafted from at once (`spread`), which is how
    traces are recorded. A text is known to it as all its tokens in order and, where it reads features, those of all but
    the last token, whose feature comes with the token after it.

    Attributes:
        width: the beam width W it drafts with.
        feature_layers: the target's hidden states it reads, as indices k of hs[k] = the input of layer k; empty of a
            draft that reads tokens alone, which is given None wherever others get features.
        d2t: int64 (Vd,) offsets from its ids to the target's, or None if they are the same.
        state_size: H, the size of its states; 0 of a draft without any.
        origin: where its weights came from; None if that is not known. Policies made for a draft know it by this.
    """

    @property
    def width(self) -> int: ...

    @property
    def feature_layers(self) -> tuple[int, ...]: ...

    @property
    def d2t(self) -> torch.Tensor | None: ...

    @property
    def state_size(self) -> int: ...

    @property
    def origin(self) -> Origin | None: ...

    def start(self, batch: int, capacity: int) -> DraftSession:
        """B new sequences, with room for so many rows each, the largest tree included."""
        ...


@runtime_checkable
class ResizableDraft(Draft, Protocol):
    """A draft that works with any beam width."""

    def with_width(self, width: int) -> Draft:
        """The same draft with another beam width; the same object for the same width.

        Raises:
            InputError: the width is out of range for it.
        """
        ...


def at_width(draft: Draft, width: int | None) -> Draft:
    """A draft with a beam width, which is its own where `width` is None.

    Raises:
        InputError: it has another and cannot change it, or the width is out of range.
    """
    if width is None or width == draft.width:
        return draft
    if not isinstance(draft, ResizableDraft):
        raise InputError(f"beam width {width} is asked for, but this draft's is {draft.width} and cannot be changed")
    return draft.with_width(width)


def reads_features(draft: Draft | None) -> bool:
    """Whether a draft reads hidden states of the target; None is no draft."""
    return draft is not None and len(draft.feature_layers) > 0


class DraftSession(Protocol):
    """The sequences of one request, as a draft knows them.

    Attributes:
        root_states: floating type (B, 1, H), after `begin` until the next one: the draft's states at the roots, which
            all candidates grow from, for policies to read; None if H is 0.
        beam_states: floating type (B, W, H), after `expand`: its states at the beam that it expanded; None if H is 0.
    """

    @property
    def root_states(self) -> torch.Tensor | None: ...

    @property
    def beam_states(self) -> torch.Tensor | None: ...

    def read_prompt(self, row: int, features: torch.Tensor | None, tokens: torch.Tensor) -> None:
        """Reads a prompt into one new sequence, or the rest of one whose beginning the sequence knows.

        Args:
            row: which sequence.
            features: (1, n, F * Ht), the target's features of the tokens. The last is left out: `begin` brings it
                again, with the token after it.
            tokens: int64 (n,), n >= 1: the whole prompt, or what of it comes from the last token on that it knows.
        """
        ...

    def begin(self, features: torch.Tensor | None, tokens: torch.Tensor, gained: torch.Tensor | None) -> torch.Tensor:
        """Reads what the last cycle gained and drafts from the root.

        What the cycles before gained, if it was left out there, comes with it, or in calls before it.

        Args:
            features: (B, n, F * Ht), the target's true features of the newly committed tokens.
            tokens: int64 (B, n), the token that follows each of them; the last valid one is the root.
            gained: int32 (B,), valid entries per sequence, 1 … n, on the device; None where all n are.

        Returns:
            draft logits (B, 1, Vd) for the root's children.
        """
        ...

    def note(self, counts: list[int]) -> None:
        """Tells the host how many tokens of each sequence the last `begin` read."""
        ...

    def expand(self, tree: DraftTree) -> torch.Tensor:
        """Draft logits (B, W, Vd) for the children of the tree's newest beam."""
        ...

    def keep(self, rows: list[int]) -> None:
        """Drops all sequences but these, in ascending order."""
        ...

    def spread(self) -> None:
        """Makes every sequence a copy of the first."""
        ...

    def rewind(self, lengths: list[int]) -> None:
        """Goes back: sequence b forgets all but its first lengths[b] tokens, 1 … as many as it has read."""
        ...

    def pretend_read(self, lengths: list[int]) -> None:
        """For timing alone: sequence b, which is new, goes on as if it had read a text of lengths[b] >= 1 tokens.

        Which tokens they are does not matter, so a draft need not spend time on any; what it proposes from then on
        means nothing, but takes as long as after a real text.
        """
        ...

    def close(self) -> None:
        """Ends the session; its memory may go to the next."""
        ...


@runtime_checkable
class RecordedDraftSession(DraftSession, Protocol):
    """A session whose `begin` and `expand` may be recorded, see `ltd.engine.captures`.

    They read nothing on the host but the tree's levels, and all that they keep from one call to the next stays at its
    place in memory.
    """

    def restart(self, believed: int = 0) -> None:
        """Forgets all sequences, as if it had just been started; its memory stays where it is.

        Args:
            believed: tokens that the host is to believe every sequence to have, until it is restarted again.
        """
        ...

    def refill(self, rows: list[int]) -> None:
        """Has these sequences alone, in ascending order, and copies of them in turn behind them, as many as before."""
        ...

    def longest(self, tree_rows: int) -> int:
        """What `begin` of so many tokens, or `expand` of so many candidates with all before them, is recorded for.

        A recording serves as long as this stays the same, as `KVCache.longest` does for longer and longer texts; 0 of
        a draft whose work does not depend on how long they are.
        """
        ...


@runtime_checkable
class ReusableDraftSession(DraftSession, Protocol):
    """A session that can go on where another one ended, so that a text which begins alike is not read again.

    Without these methods every prompt is read as a whole, also where the target could go on.

    Attributes:
        bytes_per_token: memory that what was read of a token takes, apart from any session.
    """

    @property
    def bytes_per_token(self) -> int: ...

    def copy_read(self, row: int, length: int) -> ReadText:
        """Copies what was read of the first `length` >= 1 tokens of a sequence, or of as many as it has read."""
        ...

    def take_read(self, row: int, text: ReadText, length: int) -> None:
        """Lets a new sequence know the first `length` tokens of a text, 1 … as many as were read of it.

        Args:
            text: of a session of the same draft.
        """
        ...


def shared_with(draft: Draft | None, noise: Noise, temperature: float) -> SharedNoise:
    """The noise that a target draws with at a temperature, for a draft to propose with; None is no draft."""
    origin = None if draft is None else draft.origin
    sharpness = UNFITTED if origin is None else origin.sharpness
    return SharedNoise(noise, temperature, sharpness.at(temperature))
