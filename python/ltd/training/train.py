"""`train_draft`: the stages from a target to a finished draft, each of which keeps what it has finished."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltd.common.files import expand_user, write_text
from ltd.common.json_files import read_json
from ltd.common.lock import holds_nothing, only_run
from ltd.common.shards import check_space
from ltd.common.threads import set_threads
from ltd.engine.attention import attend_in_lockstep
from ltd.errors import InputError
from ltd.target.device import resolve_device, resolve_training_dtype
from ltd.target.model import LoadedModel, load_model, stop_token_ids
from ltd.target.opening import open_forward
from ltd.training.config import TrainDraftConfig
from ltd.training.data.batches import Batch, load_batch
from ltd.training.data.chat_format import read_chat_format
from ltd.training.data.conversations import (
    Conversation,
    learned_roles,
    load_conversations,
    make_conversations,
    tokens_written,
)
from ltd.training.data.features import FeatureReader, cache_features, features_cached, gigabytes_of_features
from ltd.training.kinds import FOLDERS, Maker, open_maker, target_name
from ltd.training.loop import Training, run_training
from ltd.training.memory import keep_freed_memory
from ltd.training.report import data_facts, make_report
from ltd.training.vocabulary import choose_vocabulary

CONFIG = "config.json"


def train_draft(config: TrainDraftConfig) -> Path:
    """Train a draft for a target and return the folder of the finished draft.

    Writes into `config.out`: `config.json`, `data/` (the conversations), `features/` (a cache, may be deleted
    afterwards), `checkpoint.pt`, and `head/` or `draft/` with the draft, its training report and curves.
    Run again with the same config, it goes on where it was stopped; a finished run only returns.
    Raises InputError for a folder that holds another run or is in use by one, or a target that cannot be trained for.
    """
    out = expand_user(config.out)
    check_folder(config, out)
    with only_run(out):
        claim_folder(config, out)
        return _run_stages(config, out)


def _run_stages(config: TrainDraftConfig, out: Path) -> Path:
    """What is missing in a folder of this run."""
    finished = out / FOLDERS[config.kind]
    if (finished / "training.json").exists():
        return finished
    set_threads(config.threads)
    device = resolve_device(config.device)
    dtype = resolve_training_dtype(config.dtype, device)
    keep_freed_memory()
    target = load_model(config.target, dtype, device)
    check_target(target, config)
    maker = open_maker(config, target)
    needed = gigabytes_of_features(target.model.config.hidden_size, maker.feature_layers, config.tokens)
    what = f"the features of {config.tokens} tokens need"
    check_space(out / "features", needed, what, ("cache_gigabytes", config.cache_gigabytes), "tokens")
    write_data(config, out, target, dtype, maker.feature_layers)
    _train(config, out, target, maker, dtype)
    return finished


def check_folder(config: TrainDraftConfig, out: Path) -> None:
    """Raise InputError if the folder is not this config's and not free."""
    file = out / CONFIG
    if file.exists():
        config.check_same(read_json(file, dict[str, Any], str(file)))
    elif not holds_nothing(out):
        raise InputError(f"{out} is not empty and holds no training run; give a new or empty folder")


def claim_folder(config: TrainDraftConfig, out: Path) -> None:
    """Make the folder this config's, or raise InputError if it is another's."""
    check_folder(config, out)
    if not (out / CONFIG).exists():
        write_text(out / CONFIG, json.dumps(config.to_dict(), indent=1) + "\n")


def check_target(target: LoadedModel, config: TrainDraftConfig) -> None:
    """Raise InputError where the config does not suit the target."""
    chat = read_chat_format(target.tokenizer, stop_token_ids(target.model, target.tokenizer))
    settings = target.model.config
    window = getattr(settings, "sliding_window", None) if getattr(settings, "use_sliding_window", True) else None
    longest = min(settings.max_position_embeddings, window or settings.max_position_embeddings)
    if config.length > longest:
        raise InputError(f"length is {config.length}, but the target attends to at most {longest} tokens")
    shortest = len(chat.prefix) + len(chat.to_answer) + 2
    if config.length < shortest:
        raise InputError(f"length is {config.length}, but the chat template alone needs {shortest} tokens")
    if config.feature_layers and max(config.feature_layers) > settings.num_hidden_layers:
        highest = settings.num_hidden_layers
        raise InputError(f"feature_layers is {config.feature_layers}, but the target has only hs[0] … hs[{highest}]")
    if config.draft_vocab_size > settings.vocab_size:
        raise InputError(
            f"draft_vocab_size is {config.draft_vocab_size}, but the target has only {settings.vocab_size} words"
        )


def write_data(
    config: TrainDraftConfig, out: Path, target: LoadedModel, dtype: torch.dtype, layers: tuple[int, ...]
) -> None:
    """The first two stages, conversations and features, as far as they are not there."""
    data, features = out / "data", out / "features"
    if tokens_written(data) >= config.tokens and features_cached(data, features):
        return
    model, device = target.model, target.model.device
    if device.type == "cpu":
        # A copy, because packed weights cannot be read back.
        model = load_model(config.target, dtype, device).model
    forward = open_forward(model, takes_weights=True, attention=attend_in_lockstep)
    chat = read_chat_format(target.tokenizer, stop_token_ids(target.model, target.tokenizer))
    make_conversations(forward, chat, config, data)
    cache_features(forward, layers, data, features)


def learned_tokens(conversations: list[Conversation], user_turns: bool) -> Tensor:
    """All tokens (n,) int64 that the draft is to predict."""
    roles = learned_roles(user_turns)
    return torch.tensor(
        [token for each in conversations for token, role in zip(each.tokens, each.roles, strict=True) if role in roles]
    )


def _train(config: TrainDraftConfig, out: Path, target: LoadedModel, maker: Maker, dtype: torch.dtype) -> None:
    """Training proper, the last measurement, and the finished draft with its report."""
    conversations = load_conversations(out / "data")
    held_out = [each for each in conversations if each.is_held_out(config.held_out_share)]
    learned = [each for each in conversations if not each.is_held_out(config.held_out_share)]
    if not held_out or not learned:
        raise InputError(f"{len(conversations)} conversations cannot be split; ask for more tokens")
    tokens = learned_tokens(learned, config.user_turns)
    vocab_size = target.model.config.vocab_size
    vocabulary = choose_vocabulary(tokens, vocab_size, config.draft_vocab_size or vocab_size)
    training = Training(maker.objective(vocabulary, dtype), config, len(learned), dtype)
    reader, device = FeatureReader(out / "features"), target.model.device

    def load(conversations: list[Conversation]) -> Batch:
        return load_batch(conversations, reader, user_turns=config.user_turns, device=device)

    def held_out_batches() -> Iterator[Batch]:
        return (load(held_out[first : first + config.batch]) for first in range(0, len(held_out), config.batch))

    run_training(
        training, lambda indices: load([learned[index] for index in indices]), held_out_batches, out / "checkpoint.pt"
    )
    facts: dict[str, Any] = data_facts(learned, held_out, vocabulary)
    folder = out / FOLDERS[config.kind]
    folder.mkdir(exist_ok=True)
    maker.finish(folder, tokens, held_out, make_report(config, target_name(config), facts, training))
