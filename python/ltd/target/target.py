"""The model being accelerated: a `transformers` causal LM that checks a whole tree in one forward.

A `Forward` runs its layers; here is what stands around them: sessions, each with the sequences of one request, prompts
read chunk by chunk, and what becomes of a tree once it is known which of its nodes are accepted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ltd.common.argument_types import wrong_type
from ltd.common.turn_lock import TurnLock
from ltd.engine.captures import CaptureReport, Captures, CudaGraphs, Plain, Result, captures_for, with_memory
from ltd.engine.forward import Forward, TreeBlock, Verified
from ltd.engine.kept_texts import KeptTexts
from ltd.engine.kv_cache import KVCache, refilled
from ltd.engine.packed_layers import DTYPES, PackedEmbedding
from ltd.engine.pool import CachePool, Shelf
from ltd.errors import InputError
from ltd.target.model import FAMILIES
from ltd.target.transformers_layers import TransformersLayers
from ltd.tree import MAX_GAIN, TreeNodes

PREFILL_CHUNK = 512


class Target:
    """A causal LM, ready to check trees in sessions.

    Args:
        model: a model of a supported family, in evaluation mode.
        feature_layers: which hidden states to tap, as indices k of hs[k] = the input of layer k (hs[layers] = the last
            layer's output before the final norm), low to high.
        forward: runs the model; None is the layers of `transformers`, which leave it as it is.

    Raises:
        InputError: an unsupported family, a model that computes in another type than float32, bfloat16 or float16, or a
            layer index out of range.

    Attributes:
        workspaces: the memory of requests that have ended, with what was recorded over it.
        texts: what was read of earlier texts, as far as decoders keep it.
        capture_report: of the first workspace over which a graph could not be captured, else of the last over which any
            were to be recorded; None where there is none.
        turn: held during a forward and what belongs to it by those who share the target between threads: sessions then
            take turns, instead of sharing the cores in the middle of each other's work.
    """

    def __init__(
        self, model: PreTrainedModel, feature_layers: tuple[int, ...] = (), forward: Forward | None = None
    ) -> None:
        self.model, self.config = model, model.config
        if self.config.model_type not in FAMILIES:
            raise InputError(
                f"a {self.config.model_type!r} model cannot be a target; use one of the families {', '.join(FAMILIES)}"
            )
        layers = self.config.num_hidden_layers
        if any(not 0 <= index <= layers for index in feature_layers):
            raise InputError(
                f"the draft reads hidden states {feature_layers}, but this target has only 0 … {layers}; "
                "use a head trained for this target"
            )
        self.forward = TransformersLayers(model) if forward is None else forward
        if self.dtype not in DTYPES:
            raise InputError(
                f"the model computes in {str(self.dtype).removeprefix('torch.')}, which a target cannot; load it in "
                "float32, bfloat16 or float16, or convert it with model.float()"
            )
        self.feature_layers = feature_layers
        self.pool = CachePool(self.forward.open)
        self.turn = TurnLock()
        self.workspaces: Shelf[Any] = Shelf()
        self.texts = KeptTexts()
        self.capture_report: CaptureReport | None = None
        self._made_for = self._parts()

    @property
    def is_current(self) -> bool:
        """Whether the model still has the type, the place, the embedding and the output layer that it had at first.

        If not, this target, its sessions and the drafts made for it are out of date. What else is changed in a model,
        such as values or other layers, is followed from the next session on.
        """
        return all(now is before or now == before for now, before in zip(self._parts(), self._made_for, strict=True))

    def _parts(self) -> tuple[object, ...]:
        weight = self.embedding.weight
        return self.embedding, self.model.get_output_embeddings(), weight.dtype, weight.device, weight.shape

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.forward.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of its activations."""
        return self.embedding.weight.dtype

    @property
    def embedding(self) -> nn.Embedding | PackedEmbedding:
        """The token embedding, which drafts may share."""
        return self.forward.embedding

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return int(self.config.vocab_size)

    @property
    def context_limit(self) -> int:
        """The longest sequence, prompt and answer together, that the model was made for."""
        return int(self.config.max_position_embeddings)

    def captures(self) -> Captures:
        """What records the parts of a cycle over a new state: graphs on a GPU, for a forward that is ours alone.

        Nothing, once one could not be captured, see `records`.
        """
        if not (self.records and self.forward.is_ours):
            return Plain()
        captures = captures_for(self.device, self.spare, self._note_failure)
        if isinstance(captures, CudaGraphs):
            self.capture_report = captures.report
        return captures

    @property
    def records(self) -> bool:
        """Whether parts of cycles may be recorded: not once one could not be captured, over any workspace.

        The next request's parts could not be either, and trying takes time.
        """
        return self.capture_report is None or self.capture_report.failure is None

    def _note_failure(self, report: CaptureReport) -> None:
        if self.records:
            self.capture_report = report

    def spare(self) -> bool:
        """Lets go what requests that have ended left, memory, recordings and texts; whether there was any."""
        found = [self.workspaces.clear(), self.pool.clear(), self.texts.clear()]
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return any(found)

    def with_memory(self, work: Callable[[], Result]) -> Result:
        """What some work gives, see `ltd.engine.captures.with_memory`; what it needs, requests that ended may have."""
        return with_memory(work, self.spare)

    def session(self, batch: int, capacity: int, tap: bool = True) -> TargetSession:
        """New, empty sequences; to be used in a `with`, at whose end their memory is lent to the next session.

        Args:
            batch: sequences B.
            capacity: rows per sequence, the largest tree included.
            tap: whether to tap the hidden states.
        """
        self.forward.follow()
        return TargetSession(self, self.pool.take(batch, capacity), self.feature_layers if tap else ())


class TargetSession:
    """The sequences of one request: their keys and values, and what is done with them.

    Any number of sessions of one target may be open and take turns; who runs several threads has `Target.turn` for
    that.

    Attributes:
        cache: the keys and values; its `lengths` are the committed tokens.
        taps: the hidden states that its forwards keep.
        features: (B, MAX_GAIN, F * hidden), room for those of the nodes that were accepted last; None if nothing is
            tapped.
    """

    def __init__(self, target: Target, cache: KVCache, taps: tuple[int, ...]) -> None:
        self.target, self.cache, self.taps = target, cache, taps
        width = len(taps) * int(target.config.hidden_size)
        self.features = cache.keys.new_zeros(cache.batch, MAX_GAIN, width, dtype=target.dtype) if taps else None

    def __enter__(self) -> TargetSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the session; its memory may go to the next."""
        self.target.pool.give_back(self.cache)

    def restart(self, believed: int = 0) -> None:
        """Forgets all sequences, as if it had just been opened; its memory stays where it is. See `KVCache.clear`."""
        self.cache.clear(believed)

    @property
    def lengths(self) -> torch.Tensor:
        """int32 (B,): committed tokens per sequence."""
        return self.cache.lengths

    def prefill(self, row: int, token_ids: torch.Tensor) -> Verified:
        """Reads a prompt into the cache of one sequence, chunk by chunk, or the rest of one behind what is there of it.

        Args:
            row: which sequence.
            token_ids: int64 (n,), n >= 1.

        Returns:
            logits (1, 1, vocabulary) after the last token, and features (1, n, F * hidden) of all of these.
        """
        cache, features = self.cache.row(row), []
        prompt = cache.host_lengths[0] + len(token_ids)
        for chunk in token_ids[None].split(PREFILL_CHUNK, dim=1):
            count = chunk.shape[1]
            block = TreeBlock.chain(cache.lengths, count, read_with=prompt)
            verified = self.target.forward(chunk, block, cache, logits_to_keep=1, taps=self.taps)
            cache.advance([count])
            if verified.features is not None:
                features.append(verified.features)
        self.cache.advance_row(row, len(token_ids))
        return Verified(verified.logits, torch.cat(features, dim=1) if features else None)

    def verify(self, nodes: TreeNodes) -> Verified:
        """One forward over a tree (root first), behind each sequence's prefix."""
        block = TreeBlock(self.cache.lengths, nodes.positions, nodes.masks)
        return self.target.forward(nodes.tokens, block, self.cache, taps=self.taps)

    def commit(self, path: torch.Tensor, gained: torch.Tensor) -> None:
        """Makes the accepted nodes part of the prefix; `note` tells the host how many.

        Args:
            path: int32 (B, P), accepted nodes, root first; any behind them.
            gained: int32 (B,), how many count.
        """
        self.cache.commit(path, gained)

    def note(self, counts: list[int]) -> None:
        """Counts on the host what `commit` did on the device."""
        self.cache.note(counts)

    def refill(self, rows: list[int]) -> None:
        """Has these sequences alone, and copies of them in the others' places, see `KVCache.refill`."""
        self.cache.refill(rows)
        if self.features is not None:
            self.features.copy_(self.features[refilled(rows, self.cache.batch)])

    def keep(self, rows: list[int]) -> None:
        """Drops all sequences but these; the features are then any."""
        self.cache.keep(rows)
        if self.features is not None:
            self.features = self.features[: len(rows)]


def check_target(target: object) -> None:
    """Raises InputError unless it is a target, as where somebody gives the name of one."""
    if not isinstance(target, Target):
        raise wrong_type("target", target, "a Target; ltd.load makes a decoder from names and folders")
