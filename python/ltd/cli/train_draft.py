"""`ltd train-draft`: make a draft head for a target."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ltd.cli.options import (
    DtypeOption,
    RayCpusOption,
    RayOption,
    TargetOption,
    ThreadsOption,
    layer_numbers,
    refuse_unused,
)
from ltd.training.config import TrainDraftConfig

DEFAULT = TrainDraftConfig(out="")
QUICK_HOURS = 1.0


def train_draft(
    context: typer.Context,
    out: Annotated[
        str, typer.Option(help="Folder of the run; the finished draft is in its head/ or draft/. A rerun goes on.")
    ],
    kind: Annotated[
        str, typer.Option(help="eagle3: a head that reads the target's states; chain: a few of the target's layers.")
    ] = DEFAULT.kind,
    target: TargetOption = None,
    start_from: Annotated[
        str | None,
        typer.Option(help="Folder of a head whose training goes on; its layout stays, and its words."),
    ] = None,
    new_words: Annotated[
        bool, typer.Option("--new-words", help="Choose that head's words anew, by what is frequent in this run's text.")
    ] = DEFAULT.new_words,
    hours: Annotated[
        float, typer.Option(help="About how long it may take: decides how much data there is, by rates measured here.")
    ] = DEFAULT.hours,
    quick: Annotated[bool, typer.Option("--quick", help="The same as --hours 1.")] = False,
    tokens: Annotated[
        int | None, typer.Option(help="Size of the self-made data, in tokens, instead of --hours.")
    ] = DEFAULT.tokens,
    mix: Annotated[
        str, typer.Option(help="Kinds of text and their shares of the answer tokens; chat=1: chats alone.")
    ] = DEFAULT.mix,
    length: Annotated[
        int, typer.Option(help="Longest chat, in tokens; how long a given text makes it is in --context-length.")
    ] = DEFAULT.length,
    context_length: Annotated[
        int, typer.Option(help="Longest conversation about a given text or of many turns, in tokens.")
    ] = DEFAULT.context_length,
    user_length: Annotated[int, typer.Option(help="Longest user turn, in tokens.")] = DEFAULT.user_length,
    answer_length: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = DEFAULT.answer_length,
    user_temperature: Annotated[
        float, typer.Option(help="Temperature at which the target writes user turns.")
    ] = DEFAULT.user_temperature,
    two_turn_share: Annotated[
        float, typer.Option(help="Share of the conversations that have a second turn.")
    ] = DEFAULT.two_turn_share,
    opening_share: Annotated[
        float, typer.Option(help="Share of first user turns that begin with given words (code, maths, ...).")
    ] = DEFAULT.opening_share,
    greedy_share: Annotated[
        float, typer.Option(help="Share answered greedily; the others at temperature 1.")
    ] = DEFAULT.greedy_share,
    user_turns: Annotated[bool, typer.Option(help="Train on the user's tokens too.")] = DEFAULT.user_turns,
    held_out_share: Annotated[
        float, typer.Option(help="Share of the conversations kept for measuring.")
    ] = DEFAULT.held_out_share,
    rows: Annotated[
        int | None, typer.Option(help="Conversations written at the same time; 128, or 1,024 on a GPU, if not given.")
    ] = DEFAULT.rows,
    shards_at_once: Annotated[
        int, typer.Option(help="Shards written without knowing each other, so that --ray can share them out.")
    ] = DEFAULT.shards_at_once,
    draft_vocab_size: Annotated[
        int, typer.Option(help="Words the draft can propose; 0, for a chain: all.")
    ] = DEFAULT.draft_vocab_size,
    trim_vocabulary: Annotated[
        bool, typer.Option(help="At the end, keep only as many of them as pay in speed here.")
    ] = DEFAULT.trim_vocabulary,
    feature_layers: Annotated[
        list[int] | None, typer.Option(help="Hidden state the head reads; once for each, from low to high.")
    ] = None,
    intermediate_size: Annotated[
        int | None, typer.Option(help="Width of the head's feed-forward block; default: the target's.")
    ] = None,
    fc_norm: Annotated[
        bool, typer.Option(help="Norm every feature before they are joined, as EAGLE-3.1 does.")
    ] = DEFAULT.fc_norm,
    norm_output: Annotated[
        bool, typer.Option(help="Feed states back after the final norm, as EAGLE-3.1 does.")
    ] = DEFAULT.norm_output,
    layers: Annotated[
        str | None,
        typer.Option(help="chain: the target's layers to keep, as in 0,29; default: the first and the last."),
    ] = None,
    ttt_steps: Annotated[int, typer.Option(help="Steps of training-time test.")] = DEFAULT.ttt_steps,
    ttt_decay: Annotated[
        float, typer.Option(help="Weight of a step's loss relative to the step before.")
    ] = DEFAULT.ttt_decay,
    loss: Annotated[
        str,
        typer.Option(
            help="weighed: a place counts as much as the draft's words cover of the target's distribution there; "
            "masked: fully, or not at all where the target's best word is none of them, as in EAGLE-3."
        ),
    ] = DEFAULT.loss,
    average_share: Annotated[
        float, typer.Option(help="Share of the updates that the averaged weights look back; 0: last weights only.")
    ] = DEFAULT.average_share,
    batch: Annotated[int, typer.Option(help="Conversations per update.")] = DEFAULT.batch,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = DEFAULT.epochs,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate of AdamW.")] = DEFAULT.learning_rate,
    warmup_share: Annotated[
        float, typer.Option(help="Share of the updates that lead up to it.")
    ] = DEFAULT.warmup_share,
    start_from_target: Annotated[
        bool, typer.Option(help="Start from weights of the target.")
    ] = DEFAULT.start_from_target,
    seed: Annotated[int, typer.Option(help="Of the data, the first weights and the order.")] = DEFAULT.seed,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = DEFAULT.device,
    dtype: DtypeOption = DEFAULT.dtype,
    threads: ThreadsOption = DEFAULT.threads,
    features: Annotated[
        str,
        typer.Option(
            help="The target's states: cached on disk, or live, made anew for every batch; auto: live on a GPU."
        ),
    ] = DEFAULT.features,
    checkpoint_seconds: Annotated[float, typer.Option(help="Time between checkpoints.")] = DEFAULT.checkpoint_seconds,
    cache_gigabytes: Annotated[
        float, typer.Option(help="Most disk space for cached features.")
    ] = DEFAULT.cache_gigabytes,
    ray: RayOption = None,
    ray_cpus: RayCpusOption = None,
) -> None:
    """Train a draft for a target, on text that the target writes itself."""
    options = {**locals(), "layers": layer_numbers(layers)}
    for name in ("context", "ray", "ray_cpus"):
        del options[name]
    if options.pop("quick"):
        refuse_unused(context, ("hours", "tokens"), "--quick, which is the same as --hours 1,")
        options["hours"] = QUICK_HOURS
    if tokens is not None:
        refuse_unused(context, ("hours",), "training with --tokens")
    config = TrainDraftConfig(**options)  # its fields are this command's options
    from ltd.common.ray_crew import open_crew
    from ltd.training import train_draft as run

    with open_crew(ray, ray_cpus, lambda: device != "cpu") as crew:
        folder = run(config, crew)
    print(f"the draft is in {folder}", file=sys.stderr)
