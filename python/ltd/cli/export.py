"""`ltd export`: a head for another engine, or a model's folder that `transformers` decodes with ltd."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ltd.cli.options import layer_numbers, refuse_unused
from ltd.errors import InputError

CUSTOM_GENERATE = "custom-generate"
OF_HEADS, OF_MODELS = ("feature_layers", "rope_theta"), ("policy", "keep_weights")


def export(
    context: typer.Context,
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] OUT",
            help="The folder that is made; with custom-generate before it the model, a local folder, GGUF file or hub "
            "name, SmolLM2-135M-Instruct if not given.",
        ),
    ],
    to: Annotated[
        str,
        typer.Option(help="The layout of a head: vllm, sglang, speculators or ltd, our own; or custom-generate."),
    ],
    head: Annotated[
        str | None,
        typer.Option(
            help="Folder with an EAGLE-3 head in any layout; the shipped one if not given. With custom-generate as the "
            "draft of ltd generate, also lookup or none."
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Of the weights: bfloat16, float16, float32 or auto. A head's is bfloat16 if not given; with "
            "custom-generate it is the type in which the model is loaded, the fastest here if not given."
        ),
    ] = None,
    feature_layers: Annotated[
        str | None,
        typer.Option(
            help="Which hidden states of the target it reads, with commas between, in place of what its files say."
        ),
    ] = None,
    rope_theta: Annotated[
        float | None, typer.Option(help="The base of its rotary positions, where its files say a wrong one.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="With custom-generate: static, none or the folder of a policy bundle. By default what ltd generate "
            "takes where the model is loaded, one tuned there, if any."
        ),
    ] = None,
    keep_weights: Annotated[
        bool,
        typer.Option(
            "--keep-weights", help="With custom-generate: leave the model whole for other uses, which is slower."
        ),
    ] = False,
) -> None:
    """Write a draft head in another layout, and check that it reads back the same; or a model for transformers.

    With --to custom-generate, OUT is a folder that transformers serve and AutoModelForCausalLM load with
    trust_remote_code as the model, and that decodes with ltd there.
    """
    if to == CUSTOM_GENERATE:
        refuse_unused(context, OF_HEADS, f"--to {to}")
        if len(folders) > 2:
            raise InputError(f"--to {to} takes a model and a folder, but there are {len(folders)} names")
        model = folders[0] if len(folders) == 2 else None
        write_model(model, folders[-1], head, policy, dtype or "auto", keep_weights)
        return
    refuse_unused(context, OF_MODELS, f"--to {to}")
    if len(folders) != 1:
        raise InputError(f"--to {to} takes one folder, OUT; name the head with --head")
    write_head(folders[0], to, head, dtype or "bfloat16", layer_numbers(feature_layers), rope_theta)


def write_head(
    out: str, to: str, head: str | None, dtype: str, feature_layers: tuple[int, ...] | None, rope_theta: float | None
) -> None:
    """Writes a head in the layout of another engine."""
    from ltd.common.assets import shipped_head
    from ltd.common.files import expand_user
    from ltd.drafts.eagle3.export import LAYOUTS, export_head
    from ltd.drafts.eagle3.files import load_head
    from ltd.drafts.opening import companions
    from ltd.target.device import CPU, resolve_dtype

    if to not in LAYOUTS:
        raise InputError(f"there is no layout {to!r}; use one of {', '.join((*LAYOUTS, CUSTOM_GENERATE))}")
    folder = shipped_head() if head is None else expand_user(head)
    loaded = load_head(folder, resolve_dtype(dtype, CPU), CPU, feature_layers=feature_layers, rope_theta=rope_theta)
    files = companions(folder)
    export_head(loaded, to, expand_user(out), files if to == "ltd" else ())
    if files and to != "ltd":
        names = " and ".join(file.name for file in files)
        print(f"{names} of the head stay behind: other engines have no use for them", file=sys.stderr)
    print(f"the head in {folder}, as {to} loads it, is in {out}", file=sys.stderr)


def write_model(
    model: str | None, out: str, head: str | None, policy: str | Path | None, dtype: str, keep_weights: bool
) -> None:
    """Writes a model's folder with a `generate` of ours."""
    from ltd.custom_generate.export import export_model

    chosen = export_model(model, out, draft=head, policy=policy, dtype=dtype, takes_weights=not keep_weights)
    print(f"{model or 'the default model'} is in {out}; it decodes with {chosen}", file=sys.stderr)
    print(f"to serve it: transformers serve {out} --trust-remote-code", file=sys.stderr)
