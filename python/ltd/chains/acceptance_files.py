"""The folder of a trained acceptance head: `acceptance.json` (facts) and `acceptance.safetensors` (bfloat16)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from safetensors.torch import save

from ltd.common.files import content_hash, file_hash
from ltd.common.json_files import Count, read_json
from ltd.common.trained_folder import facts_file, read_facts, read_weights, write_trained
from ltd.errors import InputError
from ltd.policies.baselines.acceptance_head import AcceptanceHead

FORMAT, SCHEMA = "ltd-acceptance", 1
FACTS, WEIGHTS = "acceptance.json", "acceptance.safetensors"
KEYS = ("inputs", "width", "blocks", "draft", "weights_sha256")
DRAFT_WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True)
class AcceptanceSizes:
    """What `acceptance.json` says of the head's weights."""

    inputs: Count
    width: Count
    blocks: Annotated[int, Field(ge=0, lt=2**31)]
    weights_sha256: str


def draft_hash(draft: str | Path) -> str:
    """SHA-256 of a chain draft's weights, or InputError where the folder has none."""
    found = file_hash(Path(draft) / DRAFT_WEIGHTS)
    if found is None:
        raise InputError(f"there is no chain draft in {draft}: {DRAFT_WEIGHTS} is missing")
    return found


def save_acceptance(head: AcceptanceHead, folder: Path, draft: str, report: dict[str, Any]) -> None:
    """Writes a head; its facts last, so that a folder with facts is whole.

    Args:
        head: the trained head.
        folder: made if it is not there.
        draft: what `draft_hash` says of the draft whose states the head reads.
        report: target, settings, held-out numbers and versions, as JSON can hold them.

    Raises:
        InputError: the folder cannot be written.
    """
    tensors = {name: tensor.detach().cpu().bfloat16().contiguous() for name, tensor in head.state_dict().items()}
    weights = save(tensors, metadata={"format": "pt"})
    facts = {
        "format": FORMAT,
        "schema": SCHEMA,
        "inputs": head.inputs,
        "width": head.width,
        "blocks": len(head.blocks),
        "draft": draft,
        "weights_sha256": content_hash(weights),
        **report,
    }
    write_trained(folder, {WEIGHTS: weights, FACTS: facts_file(facts)}, "the acceptance head")


def load_acceptance(folder: str | Path, draft: str | Path | None = None) -> AcceptanceHead:
    """The head of a folder, in float32 and evaluation mode.

    Args:
        folder: what `save_acceptance` wrote.
        draft: the folder of the chain draft it is to be used with; None leaves that unchecked.

    Raises:
        InputError: there is no whole head, or it was trained for another draft.
    """
    folder = Path(folder)
    _facts(folder)
    if draft is not None:
        check_draft(folder, draft)
    try:
        sizes = read_json(folder / FACTS, AcceptanceSizes)
        tensors = read_weights(folder / WEIGHTS, sizes.weights_sha256, FACTS)
        with torch.device("meta"):  # nothing is allocated before the sizes are known to be those of the file
            outline = AcceptanceHead(sizes.inputs, sizes.width, min(sizes.blocks, len(tensors)))
        if {name: tensor.shape for name, tensor in outline.state_dict().items()} != {
            name: tensor.shape for name, tensor in tensors.items()
        }:
            raise ValueError
        head = AcceptanceHead(sizes.inputs, sizes.width, sizes.blocks)
        head.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except InputError as error:
        raise InputError(f"the acceptance head in {folder} cannot be used: {error}") from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the acceptance head in {folder} does not have the sizes that {FACTS} says") from error
    return head.requires_grad_(False).eval()


def check_draft(folder: str | Path, draft: str | Path) -> None:
    """Raises InputError if the head in a folder was trained for another chain draft than the one in `draft`."""
    if draft_hash(draft) != _facts(Path(folder))["draft"]:
        raise InputError(
            f"the acceptance head in {folder} was trained for another draft than {draft}; make one for it with "
            "ltd train-acceptance and name it: chain:specdecpp:model=FOLDER"
        )


def _facts(folder: Path) -> dict[str, Any]:
    try:
        return read_facts(folder / FACTS, FORMAT, SCHEMA, KEYS)
    except InputError as error:
        raise InputError(f"the acceptance head in {folder} cannot be used: {error}") from error
