"""A decoder that samples by recursive rejection, to compare with.

It drafts and verifies as `Decoder` does, with trees of a fixed shape (`ltd.rejection.shape`), and keeps of them what
rejection accepts (`ltd.rejection.acceptance`). So it differs from a static tree with shared noise in how the tree is
shaped, and in what is accepted: the candidates of a node are drawn with the same noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ltd.common.argument_types import wrong_type
from ltd.common.arrays import Integers
from ltd.decoding.decoder import Decoder, PolicyChoice
from ltd.decoding.prompts import check_prompts
from ltd.decoding.request import CallOptions, Request
from ltd.decoding.speculation import Speculation
from ltd.drafts import Draft
from ltd.errors import InputError
from ltd.policies import Static
from ltd.rejection.acceptance import RejectionAcceptor
from ltd.rejection.shape import Shape, ranked_shape
from ltd.rejection.tree import DrawnTree
from ltd.target.target import Target


@dataclass(slots=True)
class RejectionRequest(Request):
    """A request whose trees are drawn.

    Attributes:
        shape: of all of them.
    """

    shape: Shape = field(kw_only=True)

    def new_tree(self, batch: int, device: torch.device) -> DrawnTree:
        """Buffers for the trees of so many sequences."""
        return DrawnTree(batch, self.shape, device)


class RejectionDecoder(Decoder):
    """Samples from the target's distribution with recursive rejection, and is greedy at temperature 0.

    The text of a seed depends on draft and tree; its distribution does not.

    Args:
        target: on the CPU.
        draft: proposes tokens.
        tree: depth and size of every tree; its shape is `ranked_shape`'s.
        tokenizer, stop_ids, max_length: as for `Decoder`.

    Raises:
        InputError: another device, a tree that cannot be, or an argument of the wrong type.
    """

    def __init__(
        self,
        target: Target,
        draft: Draft,
        tree: Static,
        *,
        tokenizer: Any = None,
        stop_ids: Sequence[int] = (),
        max_length: int | None = None,
    ) -> None:
        if not isinstance(tree, Static):
            raise wrong_type("tree", tree, "the depth and size of a fixed tree, such as ltd.Static(2, 8)")
        super().__init__(target, draft, tree, tokenizer=tokenizer, stop_ids=stop_ids, max_length=max_length)
        check_device(target.device)
        self.shape = ranked_shape(tree.depth, tree.size, tree.width or draft.width)
        self.words = words_of(draft)

    @classmethod
    def sharing(cls, decoder: Decoder, tree: Static) -> RejectionDecoder:
        """Shares target, draft and settings of a loaded decoder.

        Raises:
            InputError: it has no draft, or honours logits processors, which rejection does not.
        """
        if decoder.draft is None:
            raise InputError("recursive rejection draws its trees from a draft, and there is none; load a head")
        if decoder.rules is not None:
            raise InputError(
                f"the model's generation config asks for {decoder.rules}, which recursive rejection does not honour; "
                "take it out of generation_config.json, or use trees with the noise of the place"
            )
        return cls(
            decoder.target,
            decoder.draft,
            tree,
            tokenizer=decoder.tokenizer,
            stop_ids=decoder.stop_ids,
            max_length=decoder.max_length,
        )

    def speculation(self, policy: PolicyChoice = None) -> Speculation | None:
        """See `Decoder.speculation`; raises InputError if a call has a policy, whose trees could not be drawn ones."""
        if policy is not None:
            raise InputError(
                "recursive rejection has trees of a fixed shape, as the decoder was made with; leave the policy out"
            )
        return super().speculation()

    def request(self, prompts: list[list[int]], options: CallOptions, speculation: Speculation | None) -> Request:
        """See `Decoder.request`."""
        sampling = options.sampling()
        check_prompts(prompts, self.target.vocab_size, self.max_length)
        stops, draws = options.stops(prompts, self.stop_ids, self.max_length), sampling.draws()
        accept = sampling.acceptor() if draws is None else RejectionAcceptor(sampling, draws.seed, self.words)
        return RejectionRequest(prompts, accept, stops, speculation, draws=draws, shape=self.shape)


def check_device(device: torch.device) -> None:
    """Raises InputError unless it is the CPU."""
    if device.type != "cpu":
        raise InputError(
            f"recursive rejection runs on the CPU alone, not on {device}; use device cpu, or trees with the noise of "
            "the place"
        )


def words_of(draft: Draft) -> Integers | None:
    """int64 (Vd,): the target's ids of a draft's words; None if they are the same."""
    return None if draft.d2t is None else np.arange(len(draft.d2t)) + draft.d2t.numpy()
