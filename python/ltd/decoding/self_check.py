"""Whether a head that others made proposes what its target says: the sign that it was loaded as it was meant."""

from __future__ import annotations

import warnings
from pathlib import Path

from ltd.decoding.decoder import Decoder, Generation
from ltd.decoding.statistics import Statistics
from ltd.errors import InputError
from ltd.policies import Static

PROMPTS = (
    "Count from one to twenty in words.",
    "Write a short paragraph about what a river does on its way from the mountains to the sea.",
)
NEW_TOKENS = 24
TREE = Static(depth=2, size=16)
IMPLAUSIBLE = 1.15
"""Tokens per cycle: a head that guesses by chance gains 1.0, poor ones of this depth 1.3, usual ones 2 to 3."""


class ImplausibleHeadWarning(UserWarning):
    """A head's proposals are hardly ever the target's tokens: its files probably say something wrong about it."""


def check_head(decoder: Decoder, folder: Path) -> None:
    """Generates a little, greedily, with the head that was read from a folder.

    Decoders without a tokenizer are not checked, as there is nothing to make prompts with. A check refuses nothing:
    what the prompts here cannot do, those of the user may.

    Warns:
        ImplausibleHeadWarning: its candidates are hardly ever accepted.
        UserWarning: nothing could be generated, and why; so nothing is known.
    """
    if decoder.draft is None or decoder.tokenizer is None:
        return
    tokens = cycles = 0
    try:
        for prompt in PROMPTS:
            answer = decoder.generate(decoder.encode(prompt), max_new_tokens=NEW_TOKENS, policy=TREE)
            assert isinstance(answer, Generation)
            tokens += sum(answer.statistics.gains)
            cycles += len(answer.statistics.gains)
    except InputError as error:
        warnings.warn(f"the head in {folder} could not be tried: {error}", UserWarning, stacklevel=3)
        return
    finally:
        decoder.last_statistics = Statistics()
    if cycles and tokens / cycles < IMPLAUSIBLE:
        layers = ", ".join(map(str, decoder.draft.feature_layers))
        warnings.warn(
            f"of what the head in {folder} proposes the target takes hardly anything: {tokens / cycles:.2f} tokens "
            f"per cycle; either it was made for another model, or its files are wrong about the hidden states that it "
            f"reads (taken as {layers}), its RoPE base or its norms; ltd inspect shows what was found, and "
            "ltd export --to ltd writes it with other --feature-layers or another --rope-theta",
            ImplausibleHeadWarning,
            stacklevel=3,
        )
