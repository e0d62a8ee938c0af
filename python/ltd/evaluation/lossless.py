"""Compares the decoder's greedy text with `transformers`' own `generate`, and judges where they part.

In float32 the two must be equal, token for token. In bfloat16 and float16 the order of summation decides between tokens
whose logits are almost equal, so the two may part, but only at a near tie, and exactly that is checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel

from ltd.decoding.decoder import Decoder
from ltd.evaluation.answerers import Answerer, TreeAnswerer
from ltd.evaluation.transformers_reference import greedy_settings

# How far rounding moves the gap between two logits, in units in the last place of the position's largest logit by
# magnitude. That one sets the scale because a logit near zero is a sum of large terms and as uncertain as they are.
# Measured with the default target in bfloat16: computing the same logits in one forward or token by token moves the gap
# of the top two by 0.5 such units in the median, and by 3 in the worst of 1,387 positions.
NEAR_TIE_ULPS = 4


@dataclass(frozen=True, slots=True)
class NearTie:
    """How close the tokens were at which two greedy texts part.

    Attributes:
        gap: the largest logit minus the smallest of these tokens' logits.
        bound: the largest gap that rounding explains.
    """

    gap: float
    bound: float

    @property
    def explained(self) -> bool:
        """Whether it was a near tie; not so if a logit is NaN."""
        return self.gap <= self.bound


@dataclass(frozen=True, slots=True)
class Comparison:
    """One prompt's two greedy texts.

    Attributes:
        verdict: "equal", "near tie" or "wrong".
        tokens: how many were compared, the first different one included.
        token_ids: the decoder's.
        reference_ids: those of `transformers`.
        divergence: index of the first difference, or None.
        gap, bound: see `NearTie`; None where there was nothing to judge.
    """

    verdict: Literal["equal", "near tie", "wrong"]
    tokens: int
    token_ids: list[int]
    reference_ids: list[int]
    divergence: int | None = None
    gap: float | None = None
    bound: float | None = None


Process = Callable[[torch.Tensor, list[int]], torch.Tensor]


def as_is(logits: torch.Tensor, answer: list[int]) -> torch.Tensor:
    """The logits (vocabulary,) after an answer's first tokens, where nothing processes them."""
    return logits


def check_greedy(
    decoder: Decoder,
    reference: PreTrainedModel,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    answerer: Answerer | None = None,
) -> Iterator[Comparison]:
    """Compares the decoder's greedy tokens with those of `transformers`' `generate(do_sample=False)`.

    Args:
        decoder: what is checked.
        reference: the same weights, loaded by `transformers` and untouched.
        prompts: token ids. The reference generates for all of them together, padded on the left, which is several times
            faster; a prompt whose texts differ is generated again by itself, and only that counts.
        max_new_tokens: per prompt.
        answerer: answers with the decoder's target in another way; None is the decoder with its own policy.

    Yields:
        one comparison per prompt, as it is done.
    """
    answerer = answerer or TreeAnswerer(decoder, None)
    references = reference_greedy(reference, prompts, max_new_tokens, decoder.stop_ids)
    for prompt, expected in zip(prompts, references, strict=True):
        token_ids, _ = answerer.answer(prompt, max_new_tokens=max_new_tokens)
        room = decoder.max_length - len(prompt)  # `transformers` goes on where the context ends, with a warning
        if token_ids != expected[:room]:
            expected = reference_greedy(reference, [prompt], max_new_tokens, decoder.stop_ids)[0]
        process = processing(decoder, prompt, min(max_new_tokens, room))
        yield compare(reference, prompt, token_ids, expected[:room], process)


def processing(decoder: Decoder, prompt: list[int], max_new_tokens: int) -> Process:
    """What becomes of the logits after a prompt and a part of its answer, by the model's own generation settings."""

    def process(logits: torch.Tensor, answer: list[int]) -> torch.Tensor:
        if decoder.rules is None:
            return logits
        return decoder.rules.scores(logits, prompt, answer, max_new_tokens, decoder.stop_ids)

    return process


def compare(
    reference: PreTrainedModel, prompt: list[int], token_ids: list[int], expected: list[int], process: Process = as_is
) -> Comparison:
    """Compares two texts up to their first difference, and judges that one by a forward over what they share."""
    index = first_difference(token_ids, expected)
    if index is None:
        return Comparison("equal", len(token_ids), token_ids, expected)
    if index == min(len(token_ids), len(expected)):  # one goes on where the other ended: no rounding does that
        return Comparison("wrong", index + 1, token_ids, expected, index)
    logits = process(next_logits(reference, prompt + expected[:index]), expected[:index])
    tie = judge(logits, (token_ids[index], expected[index]))
    verdict: Literal["near tie", "wrong"] = "near tie" if tie.explained else "wrong"
    return Comparison(verdict, index + 1, token_ids, expected, index, tie.gap, tie.bound)


def judge(logits: torch.Tensor, tokens: Sequence[int]) -> NearTie:
    """Whether greedy decoding could have taken each of these tokens, but for rounding.

    Args:
        logits: (vocabulary,) of one position, in the type that the model computes in; -inf what may not be chosen.
        tokens: ids.

    Returns:
        gap and bound; the bound is NEAR_TIE_ULPS units in the last place, and 0 in float32.
    """
    gap = (logits.max() - logits[list(tokens)].min()).float().item()
    if logits.dtype == torch.float32:
        return NearTie(gap, 0.0)
    largest = logits.nan_to_num(0.0, 0.0, 0.0).abs().max().item()
    exponent = math.frexp(largest)[1] - 1  # 2^exponent is the largest power not above it
    return NearTie(gap, NEAR_TIE_ULPS * torch.finfo(logits.dtype).eps * 2.0**exponent)


@torch.inference_mode()
def next_logits(model: PreTrainedModel, token_ids: list[int]) -> torch.Tensor:
    """(vocabulary,): the logits after these tokens, from one plain forward."""
    ids = torch.tensor([token_ids], device=model.device)
    logits: torch.Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
    return logits[0, -1]


@torch.inference_mode()
def reference_greedy(
    model: PreTrainedModel, prompts: Sequence[list[int]], max_new_tokens: int, stop_ids: Sequence[int]
) -> list[list[int]]:
    """The new tokens of `transformers`' greedy `generate`, the stop token included; shorter prompts are padded."""
    width = max(map(len, prompts))
    rows = [[0] * (width - len(prompt)) + prompt for prompt in prompts]
    shown = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    output = model.generate(  # type: ignore[operator]  # its stub does not know the method
        input_ids=torch.tensor(rows, device=model.device),
        attention_mask=torch.tensor(shown, device=model.device),
        **greedy_settings(max_new_tokens, stop_ids),
    )
    return [until_stop(row, stop_ids) for row in output[:, width:].tolist()]


def until_stop(token_ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    """The tokens up to the first stop token, which is kept."""
    ends = (index + 1 for index, token in enumerate(token_ids) if token in stop_ids)
    return token_ids[: next(ends, len(token_ids))]


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """The first index at which two token lists part (the shorter one's length if it begins the other), or None."""
    if list(one) == list(other):
        return None
    pairs = zip(one, other, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
