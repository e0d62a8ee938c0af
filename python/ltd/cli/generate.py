"""`ltd generate`: the text as it comes, then one line of statistics."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ltd.cli.offer import offer_quick_tune
from ltd.cli.options import (
    GREEDY,
    DeviceOption,
    DraftOption,
    DtypeOption,
    MaxNewTokensOption,
    TargetOption,
    TemperatureOption,
    ThreadsOption,
    TopKOption,
    TopPOption,
    refuse_unused,
)
from ltd.common.launch import launched_processes
from ltd.errors import InputError

if TYPE_CHECKING:
    from ltd.decoding.decoder import Decoder
    from ltd.decoding.statistics import Statistics
    from ltd.policies import Policy

BYTE_ORDER_MARK = "\ufeff"  # some editors begin a file with it; no model should read it


def generate(
    context: typer.Context,
    prompt: Annotated[str | None, typer.Argument(help="The prompt; - reads it from standard input.")] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="Read the prompt from this file.")] = None,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--raw", help="Whether to use the chat template; by default if there is one."),
    ] = None,
    target: TargetOption = None,
    draft: DraftOption = None,
    history: Annotated[
        Path | None, typer.Option(help="A text, for example of earlier answers, in which tokens are looked up as well.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="static, a tree for this kind of machine; none, plain decoding; or the folder of a policy bundle. By "
            "default one tuned here, if any."
        ),
    ] = None,
    depth: Annotated[
        int | None, typer.Option(help="Depth of a static tree, 0 to 12; 8 if only the size is given.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Candidates to verify, 0 to 512; 60 if only the depth is given.")
    ] = None,
    max_new_tokens: MaxNewTokensOption = 128,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    top_k: TopKOption = 0,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Generate text from a prompt: the text as it comes, then one line of statistics."""
    text = read_prompt(prompt, prompt_file)
    known = "" if history is None else read_text(history)
    if history is not None and not known.strip():
        raise InputError(f"the history {history} is empty; name a file with text, or leave it out")
    if known and ("none" in (policy, draft) or depth is not None or size is not None):
        raise InputError("--history is looked up in, which plain decoding and static trees do not; leave it out")
    asked = asked_policy(policy, depth, size, draft)
    from ltd.decoding.acceptance import Sampling
    from ltd.loading import load
    from ltd.policies.base import text_limit

    sampling: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
    Sampling(**sampling)  # raises if a number is out of range, before a model is loaded
    if temperature == 0:
        refuse_unused(context, ("top_p", "top_k", "seed"), GREEDY)
    is_parallel = launched_processes() > 1
    decoder = load(
        target, draft, policy=asked, device=device, dtype=dtype, threads=threads, tensor_parallel=is_parallel
    )
    if known:
        if decoder.policy is None or not text_limit(decoder.policy):
            raise InputError(
                f"--history is looked up in, which the policy here, {decoder.policy}, does not; leave it out"
            )
        decoder.history = tuple(decoder.encode(known, chat=False))
    token_ids, shown = stream_text(
        decoder, decoder.encode(text, chat=chat), quiet=as_json, max_new_tokens=max_new_tokens, **sampling
    )
    if as_json:
        print(json.dumps({"text": shown, "token_ids": token_ids, **decoder.last_statistics.to_dict()}))
    else:
        print(describe(decoder.last_statistics), file=sys.stderr)
    if asked is None and not is_parallel:
        offer_quick_tune(decoder)


def read_prompt(prompt: str | None, prompt_file: Path | None) -> str:
    """The prompt from where the user put it."""
    if (prompt is None) == (prompt_file is None):
        raise InputError("give one prompt: as an argument, with --prompt-file, or - to read standard input")
    if prompt_file is not None:
        return read_text(prompt_file)
    try:
        text = sys.stdin.read().removeprefix(BYTE_ORDER_MARK) if prompt == "-" else str(prompt)
        text.encode()  # bytes that are not UTF-8 arrive as surrogates, which no tokenizer takes
        return text
    except (OSError, UnicodeError) as error:
        source = "standard input" if prompt == "-" else "the argument"
        raise InputError(f"cannot read the prompt as UTF-8 text from {source}: {error}") from error


def read_text(file: Path) -> str:
    """What a file holds. Raises InputError if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise InputError(f"cannot read {file} as UTF-8 text: {error}") from error


def asked_policy(
    name: str | None, depth: int | None, size: int | None, draft: str | None = None
) -> Policy | str | None:
    """What to ask `ltd.load` for; None leaves the choice to it. A depth or size alone means a static tree.

    Raises:
        InputError: options that do not go together, a tree out of range, or no such policy.
    """
    tree_given = depth is not None or size is not None
    if draft == "none" and (tree_given or name not in (None, "none")):
        raise InputError("--draft none drafts no tree, so it takes no --policy, --depth or --size; leave them out")
    if draft == "lookup" and tree_given:
        raise InputError("--draft lookup drafts no tree, so it takes neither --depth nor --size")
    if name == "none":
        if tree_given:
            raise InputError("--policy none drafts no tree, so it takes neither --depth nor --size")
        return "none"
    if name not in (None, "static"):
        from ltd.policy_choice import read_bundle

        read_bundle(name)  # raises before anything else is loaded
        if tree_given:
            raise InputError("a policy bundle decides by itself, so it takes neither --depth nor --size")
        return name
    if not tree_given:
        return name
    from ltd.policies import Static

    return Static(8 if depth is None else depth, 60 if size is None else size)


def stream_text(decoder: Decoder, prompt: list[int], *, quiet: bool = False, **settings: Any) -> tuple[list[int], str]:
    """Generates, and prints the text as it comes unless `quiet`; returns token ids and text."""
    from ltd.decoding.text_stream import TextStream

    text = TextStream(decoder.tokenizer)
    token_ids: list[int] = []
    for news in decoder.stream(prompt, **settings):
        token_ids += news
        if not quiet:
            print(text.push(news), end="", flush=True)
    if not quiet:
        print(text.finish(), flush=True)
    return token_ids, decoder.tokenizer.decode(token_ids, skip_special_tokens=True)


def describe(statistics: Statistics) -> str:
    """One line about a generation."""
    found = ", ".join(f"{count} of {name}" for name, count in statistics.sources.items())
    reused = f", {statistics.reused_tokens} of them known from before," if statistics.reused_tokens else ""
    return (
        f"{statistics.new_tokens} new tokens in {statistics.cycles} cycles, "
        f"acceptance length {statistics.acceptance_length:.2f}, {statistics.tokens_per_second:.1f} tokens/s; "
        f"{f'accepted {found}; ' if found else ''}"
        f"prefill of {statistics.prompt_tokens} tokens{reused} in {statistics.seconds['prefill']:.2f} s"
    )
