"""`train_draft`: the stages from a target to a finished head, each of which keeps what it has finished."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltd.drafts.checkpoint import save_head
from ltd.drafts.head import Eagle3Config, Eagle3Head
from ltd.errors import InputError
from ltd.files import write_text
from ltd.loading import make_target
from ltd.memory import keep_freed_memory
from ltd.models import (
    DEFAULT_TARGET,
    LoadedModel,
    load_model,
    resolve_device,
    resolve_dtype,
    resolve_training_dtype,
    stop_token_ids,
    tokenizer_fingerprint,
)
from ltd.shards import check_space
from ltd.training.batches import Batch, load_batch
from ltd.training.chat import read_chat_format
from ltd.training.config import TrainDraftConfig
from ltd.training.conversations import (
    Conversation,
    learned_roles,
    load_conversations,
    make_conversations,
    tokens_written,
)
from ltd.training.features import FeatureReader, cache_features, features_cached, gigabytes_of_features
from ltd.training.forwards import open_forwards
from ltd.training.loop import Training, run_training
from ltd.training.report import data_facts, draw_curves, make_report
from ltd.training.start import new_head, target_parts
from ltd.training.trim import QUESTIONS, frequent_words, keep_words, largest_fast, trial_sizes, try_sizes
from ltd.training.vocabulary import DraftVocabulary, choose_vocabulary


def train_draft(config: TrainDraftConfig) -> Path:
    """Train an EAGLE-3 head for a target and return the folder of the finished head.

    Writes into `config.out`: `config.json`, `data/` (the conversations), `features/` (a cache, may be deleted
    afterwards), `checkpoint.pt`, and `head/` with the head, its training report and curves. Run again with the same
    config, it goes on where it was stopped; a finished run only returns.
    Raises InputError for a folder that holds another run, or a target that cannot be trained for.
    """
    out = Path(config.out)
    claim_folder(config, out)
    head_folder = out / "head"
    if (head_folder / "training.json").exists():
        return head_folder
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = resolve_device(config.device)
    dtype = resolve_training_dtype(config.dtype, device)
    keep_freed_memory()
    target = load_model(config.target, dtype, device)
    check_target(target, config)
    head_config = head_config_for(target, config)
    needed = gigabytes_of_features(head_config.target_hidden_size, head_config.feature_layers, config.tokens)
    what = f"the features of {config.tokens} tokens need"
    check_space(out / "features", needed, what, ("cache_gigabytes", config.cache_gigabytes), "tokens")
    write_data(config, out, target, dtype, head_config.feature_layers)
    _train(config, out, target, head_config, dtype)
    return head_folder


def claim_folder(config: TrainDraftConfig, out: Path) -> None:
    """Make the folder this config's, or raise InputError if it is another's."""
    file = out / "config.json"
    if file.exists():
        config.check_same(json.loads(file.read_text()))
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty and holds no training run; give a new or empty folder")
    out.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(config.to_dict(), indent=1) + "\n")


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
    forwards = open_forwards(model)
    chat = read_chat_format(target.tokenizer, stop_token_ids(target.model, target.tokenizer))
    make_conversations(forwards, chat, config, data)
    cache_features(forwards, layers, data, features)


def head_config_for(target: LoadedModel, config: TrainDraftConfig) -> Eagle3Config:
    """The head's sizes: the target's own, where the config does not say otherwise."""
    settings = target.model.config
    return Eagle3Config.for_target(
        settings,
        draft_vocab_size=config.draft_vocab_size,
        target=target_name(config),
        tokenizer_fingerprint=tokenizer_fingerprint(target.tokenizer, settings.vocab_size),
        **config.head_sizes(),
    )


def target_name(config: TrainDraftConfig) -> str:
    """The target's name without this machine's folders."""
    if config.target is None:
        return DEFAULT_TARGET
    return Path(config.target).name if Path(config.target).exists() else config.target


def learned_tokens(conversations: list[Conversation], user_turns: bool) -> Tensor:
    """All tokens (n,) int64 that the head is to predict."""
    roles = learned_roles(user_turns)
    return torch.tensor(
        [token for each in conversations for token, role in zip(each.tokens, each.roles, strict=True) if role in roles]
    )


def _train(
    config: TrainDraftConfig, out: Path, target: LoadedModel, head_config: Eagle3Config, dtype: torch.dtype
) -> None:
    """Training proper, the last measurement, and the finished head with its report."""
    conversations = load_conversations(out / "data")
    held_out = [each for each in conversations if each.is_held_out(config.held_out_share)]
    learned = [each for each in conversations if not each.is_held_out(config.held_out_share)]
    if not held_out or not learned:
        raise InputError(f"{len(conversations)} conversations cannot be split; ask for more tokens")
    tokens = learned_tokens(learned, config.user_turns)
    vocabulary = choose_vocabulary(tokens, head_config.vocab_size, config.draft_vocab_size)
    training = _training(config, target, head_config, vocabulary, learned, dtype)
    reader, device = FeatureReader(out / "features"), target.model.device

    def load(conversations: list[Conversation]) -> Batch:
        return load_batch(conversations, reader, user_turns=config.user_turns, device=device)

    def held_out_batches() -> Iterator[Batch]:
        return (load(held_out[first : first + config.batch]) for first in range(0, len(held_out), config.batch))

    run_training(
        training, lambda indices: load([learned[index] for index in indices]), held_out_batches, out / "checkpoint.pt"
    )
    facts: dict[str, Any] = data_facts(learned, held_out, vocabulary)
    report = make_report(config, target_name(config), facts, training)
    head = training.head
    if config.trim_vocabulary and device.type == "cpu":
        questions = [list(each.question) for each in held_out]
        head, report["vocabulary_sizes"] = trimmed(config, head, tokens, questions)
    (out / "head").mkdir(exist_ok=True)
    draw_curves(report, out / "head" / "training.png")
    save_head(head, out / "head", report)  # writes the report last: it marks the run as finished


def trimmed(
    config: TrainDraftConfig, head: Eagle3Head, tokens: Tensor, questions: list[list[int]]
) -> tuple[Eagle3Head, list[dict[str, Any]]]:
    """The last stage: the head with the words that pay here, and what every size brought."""
    dtype = resolve_dtype(config.dtype, torch.device("cpu"))
    model = load_model(config.target, dtype, torch.device("cpu")).model
    target = make_target(model, head.config.feature_layers, takes_weights=True)
    trials = try_sizes(copy.deepcopy(head).to(dtype), target, tokens, questions[:QUESTIONS], trial_sizes(head))
    kept = largest_fast(trials).words
    return keep_words(head, frequent_words(head, tokens, kept)), [trial.to_dict() for trial in trials]


def _training(
    config: TrainDraftConfig, target: LoadedModel, head_config: Eagle3Config, vocabulary: DraftVocabulary,
    learned: list[Conversation], dtype: torch.dtype,
) -> Training:  # fmt: skip
    head = new_head(head_config, target.model, vocabulary, from_target=config.start_from_target, seed=config.seed)
    parts = target_parts(target.model, vocabulary, dtype)
    return Training(head, parts, config, len(learned), dtype)
