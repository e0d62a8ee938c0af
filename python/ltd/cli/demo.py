"""`ltd demo`: the same text twice, by draft trees and by plain decoding, and how fast each was."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from ltd.cli.generate import describe, stream_text
from ltd.cli.offer import offer_quick_tune
from ltd.cli.options import DeviceOption, DraftOption, DtypeOption, MaxNewTokensOption, TargetOption, ThreadsOption
from ltd.common.terminal import terminal
from ltd.errors import InputError

if TYPE_CHECKING:
    from ltd.decoding.decoder import Decoder

PROMPTS = (
    "Explain in a few sentences why the sky is blue.",
    "Write a short list of tips for learning to play the guitar.",
)
# Name and policy; None is the decoder's own.
METHODS: dict[str, Literal["none"] | None] = {"draft trees": None, "plain decoding": "none"}


@dataclass(slots=True)
class Outcome:
    """What one method did with one prompt: the text as ids, and of every run the tokens per second."""

    token_ids: list[int]
    acceptance_length: float
    speeds: list[float]


def demo(
    runs: Annotated[int, typer.Option(min=1, help="How often each prompt is decoded each way; the median counts.")] = 3,
    target: TargetOption = None,
    draft: DraftOption = None,
    max_new_tokens: MaxNewTokensOption = 128,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Show what drafting does: generate with and without it, and compare speed and text.

    On a CPU the text is the same to the last token; on a GPU, in bfloat16 and float16, the two can part at a near tie.
    """
    from ltd.loading import load

    decoder = load(target, draft, device=device, dtype=dtype, threads=threads, reuse_mib=0)
    if decoder.policy is None:
        raise InputError("the demo compares drafting with plain decoding, so it needs a draft")
    table = Table("prompt", "plain, tokens/s", "draft trees, tokens/s", "speedup", "τ", "same text")
    for number, prompt in enumerate(PROMPTS, 1):
        drafted, plain = compare(decoder, prompt, runs, max_new_tokens)
        table.add_row(f"{number}", *cells(drafted, plain, str(decoder.target.dtype).removeprefix("torch.")))
    terminal().print("", table)
    offer_quick_tune(decoder)


def compare(decoder: Decoder, prompt: str, runs: int, max_new_tokens: int) -> list[Outcome]:
    """Decodes a prompt in every way, in turns; the text of the first is shown as it comes."""
    outcomes: list[Outcome] = []
    ids = decoder.encode(prompt)
    print(f"\n>>> {prompt}", flush=True)
    for name, policy in METHODS.items():
        token_ids, _ = stream_text(decoder, ids, quiet=bool(outcomes), max_new_tokens=max_new_tokens, policy=policy)
        print(f"    [{name}] {describe(decoder.last_statistics)}", flush=True)
        outcomes.append(Outcome(token_ids, decoder.last_statistics.acceptance_length, []))
    for _ in range(runs):
        for outcome, policy in zip(outcomes, METHODS.values(), strict=True):
            stream_text(decoder, ids, quiet=True, max_new_tokens=max_new_tokens, policy=policy)
            outcome.speeds.append(decoder.last_statistics.tokens_per_second)
    return outcomes


def cells(drafted: Outcome, plain: Outcome, dtype: str) -> list[str]:
    """A row of the table, but for the prompt."""
    from ltd.evaluation.lossless import first_difference

    fast, slow = median(drafted.speeds), median(plain.speeds)
    parting = first_difference(drafted.token_ids, plain.token_ids)
    same = "yes" if parting is None else f"for {parting} tokens, then {dtype} rounding; see ltd check"
    speedup = f"{fast / slow:.2f}x" if slow else "-"  # a text of one token has no cycles
    return [f"{slow:.1f}", f"{fast:.1f}", speedup, f"{drafted.acceptance_length:.2f}", same]
