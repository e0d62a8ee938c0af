"""`train_acceptance`: from the conversations of a run to a finished acceptance head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from ltd.chains.acceptance_files import FACTS, draft_hash, save_acceptance
from ltd.chains.model_files import chain_for_transformers, read_chain
from ltd.common.differences import difference
from ltd.common.files import content_hash, expand_user, write_text
from ltd.common.json_files import read_json
from ltd.common.lock import holds_nothing, only_run
from ltd.common.shards import leading_shards
from ltd.common.threads import set_threads
from ltd.errors import InputError
from ltd.policies.baselines.acceptance_head import AcceptanceHead
from ltd.target.device import resolve_training_dtype
from ltd.target.locate import DEFAULT_TARGET
from ltd.target.model import load_model
from ltd.target.quantised import check_trainable
from ltd.training.acceptance.config import AcceptanceConfig
from ltd.training.acceptance.loop import measure, train_head
from ltd.training.acceptance.samples import Reader, answer_positions, cache_samples, load_samples
from ltd.training.data.conversation import Conversation
from ltd.training.data.conversations import load_conversations

CHECKPOINT, CONFIG = "checkpoint.pt", "config.json"
PARTS = ("training", "held_out")
TEXTS = "texts_sha256"  # among what makes a training this one


class Finished(TypedDict):
    """What is read of the facts of a finished head."""

    held_out: dict[str, Any]


def train_acceptance(config: AcceptanceConfig) -> dict[str, Any]:
    """Trains an acceptance head for a chain draft, see `acceptance_data` and `acceptance_loop`.

    Writes into `config.out`: `config.json`, `samples/` (a cache, may be deleted afterwards), `checkpoint.pt`, and the
    head (`ltd.chains.acceptance_files`). Run again with the same settings, it goes on where it was stopped; a finished
    run only returns.

    Returns:
        the held-out numbers of `measure`.

    Raises:
        InputError: the draft, the run or the target cannot be used, or `out` holds another training or is in use.
    """
    out = expand_user(config.out)
    conversations = choose_texts(config)
    facts = facts_of(config, conversations)
    check_folder(facts, config.run, out)
    with only_run(out):
        return _run_stages(config, out, conversations, facts)


def _run_stages(
    config: AcceptanceConfig, out: Path, conversations: dict[str, list[Conversation]], facts: dict[str, Any]
) -> dict[str, Any]:
    """What is missing in a folder of this training."""
    draft = Path(config.draft)
    if (out / FACTS).exists():
        return read_json(out / FACTS, Finished, str(out / FACTS))["held_out"]
    set_threads(config.threads)
    device = torch.device("cpu")
    target = load_model(config.target, resolve_training_dtype(config.dtype, device), device)
    check_trainable(target.model, "ltd train-acceptance")
    chain, files = chain_for_transformers(draft, target.model), read_chain(draft)
    reader = Reader(target.model, chain, files.words, config.mixing)
    claim_folder(facts, config.run, out)  # only now: what was refused leaves the folder to the corrected command
    for number, part in enumerate(PARTS):
        cache_samples(reader, conversations[part], out / "samples" / part, 2 * config.seed + number)
    training, held_out = (load_samples(out / "samples" / part) for part in PARTS)
    if min(len(training.labels), len(held_out.labels)) == 0:
        raise InputError(f"{config.run} gives no drafted tokens to train or to measure on; use more --tokens")
    torch.manual_seed(config.seed)
    head = AcceptanceHead(training.states.size(1), config.width)
    losses = train_head(head, training, config, out / CHECKPOINT)
    found = measure(head, held_out, config.weight)
    report = {
        "target": DEFAULT_TARGET if config.target is None else Path(config.target).name,
        "choices": config.choices(),
        "training": {"tokens": len(training.labels), "losses": [round(loss, 4) for loss in losses]},
        "held_out": found,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    save_acceptance(head, out, draft_hash(draft), report)
    return found


def choose_texts(config: AcceptanceConfig) -> dict[str, list[Conversation]]:
    """The first conversations of the run that together have `config.tokens` answer tokens, in two parts."""
    data = expand_user(config.run) / "data"
    if not leading_shards(data):
        raise InputError(f"{config.run} holds no conversations; give the folder of an ltd train-draft run")
    parts: dict[str, list[Conversation]] = {part: [] for part in PARTS}
    left = config.tokens
    for conversation in load_conversations(data):
        if left > 0 and len(answer_positions(conversation)) > 0:
            parts[PARTS[conversation.is_held_out(config.held_out)]].append(conversation)
            left -= len(answer_positions(conversation))
    if not all(parts.values()):
        raise InputError(
            f"{config.tokens} tokens of {config.run} leave no conversation to train or to measure on; use more tokens"
        )
    return parts


def facts_of(config: AcceptanceConfig, conversations: dict[str, list[Conversation]]) -> dict[str, Any]:
    """What makes a training this one: settings, the draft, and what the run gives it to learn from."""
    return {**config.choices(), "draft_hash": draft_hash(config.draft), TEXTS: texts_hash(conversations)}


def texts_hash(conversations: dict[str, list[Conversation]]) -> str:
    """SHA-256 of the parts' conversations in their order; a run that goes on may have others."""
    texts = {part: [[each.tokens, each.roles] for each in conversations[part]] for part in PARTS}
    return content_hash(json.dumps(texts).encode())


def check_folder(facts: dict[str, Any], run: str | Path, out: Path) -> None:
    """Raise InputError if the folder is not that of the training with these facts, and not free.

    Args:
        facts: see `facts_of`.
        run: the folder that the conversations are from.
        out: the folder.
    """
    file = out / CONFIG
    if file.exists():
        stored = read_json(file, dict[str, Any], str(file))
        settings = {name: value for name, value in facts.items() if name != TEXTS}
        if (found := difference({name: stored.get(name) for name in settings}, settings)) is not None:
            raise InputError(f"{out} holds a training {found}; use the same settings to go on, or another folder")
        if stored.get(TEXTS, facts[TEXTS]) != facts[TEXTS]:  # folders from before this was kept have none
            raise InputError(
                f"{out} holds a training on other conversations than those that {run} has now, as that run went on or "
                "was made anew; give another folder"
            )
    elif not holds_nothing(out):
        raise InputError(f"{out} is not empty and holds no training of an acceptance head; give a new or empty folder")


def claim_folder(facts: dict[str, Any], run: str | Path, out: Path) -> None:
    """Make the folder that of this training, or raise InputError if it is another's; see `check_folder`."""
    check_folder(facts, run, out)
    if not (out / CONFIG).exists():
        write_text(out / CONFIG, json.dumps(facts, indent=1) + "\n")
