"""`train_draft`: the stages from a target to a finished draft, each of which keeps what it has finished."""

from __future__ import annotations

import json
import sys
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
from ltd.common.workers import Crew, Here
from ltd.drafts.opening import check_named
from ltd.errors import InputError
from ltd.target.device import resolve_device, resolve_training_dtype
from ltd.target.model import LoadedModel, attended_tokens, load_model
from ltd.target.quantised import check_trainable
from ltd.training.config import TrainDraftConfig
from ltd.training.data.batches import Batch, load_batch
from ltd.training.data.chat_format import chat_format_of
from ltd.training.data.conversation import Conversation, learned_roles
from ltd.training.data.conversations import load_conversations
from ltd.training.data.features import Reads
from ltd.training.data.mix import KINDS
from ltd.training.data.stage import DataStage
from ltd.training.data.writers import shortest_context
from ltd.training.data.writing_rates import WritingRates
from ltd.training.kinds import FOLDERS, Maker, open_maker, target_name
from ltd.training.learning_speed import learning_facts
from ltd.training.loop import Training, run_training
from ltd.training.memory import keep_freed_memory
from ltd.training.plan import DataPlan, fitting_plan, read_plan, seconds_per_call, write_plan
from ltd.training.report import data_facts, make_report

CONFIG = "config.json"
BEGINNING = "start.json"
SAMPLE = 8  # conversations that say how large the target's states are
COUNTED = 8  # conversations that say how much an update computes


def train_draft(config: TrainDraftConfig, crew: Crew | None = None) -> Path:
    """Train a draft for a target and return the folder of the finished draft.

    Writes into `config.out`: `config.json`, `start.json` (the head that it started from), `plan.json` where the time
    decides about the data, `data/` (the conversations), `features/` (a cache, may be deleted afterwards),
    `checkpoint.pt`, `training.json` and `training.png` with the curves so far, and `head/` or `draft/` with the draft,
    its training report and curves.
    Run again with the same config, it goes on where it was stopped; a finished run only returns.
    The crew writes conversations and computes features; None is this process, which does all else.
    Raises InputError for a folder that holds another run or is in use by one, or a target that cannot be trained for.
    """
    out = expand_user(config.out)
    check_folder(config, out)
    with only_run(out):
        return _run_stages(config, out, crew or Here())


def _run_stages(config: TrainDraftConfig, out: Path, crew: Crew) -> Path:
    """What is missing in a folder of this run."""
    finished = out / FOLDERS[config.kind]
    if (finished / "training.json").exists():
        return finished
    if config.start_from is not None:
        check_named(config.start_from)  # before the target, which may be large, is loaded
    set_threads(config.threads)
    device = resolve_device(config.device)
    dtype = resolve_training_dtype(config.dtype, device)
    keep_freed_memory()
    target = load_model(config.target, dtype, device)
    check_target(target, config)
    maker = open_maker(config, target)
    stage = DataStage(config, out, target, dtype, maker.feature_layers, crew)
    if config.tokens is not None:
        _check_space(config, stage, config.tokens)
    claim_folder(config, out)  # only now: what was refused leaves the folder to the corrected command
    keep_beginning(out, maker.beginning)
    tokens = config.tokens
    if tokens is None:
        tokens = _planned(config, out, stage, maker).tokens
        _check_space(config, stage, tokens)
    stage.write(tokens)
    stage.cache()
    _train(config, out, stage, maker, tokens)
    return finished


def _check_space(config: TrainDraftConfig, stage: DataStage, tokens: int) -> None:
    """Raises InputError if the features of so many tokens take more space than there is, or than is allowed."""
    what, most = f"the features of {tokens} tokens need", ("cache_gigabytes", config.cache_gigabytes)
    check_space(stage.features, stage.gigabytes(tokens), what, most, "tokens")


def _planned(config: TrainDraftConfig, out: Path, stage: DataStage, maker: Maker) -> DataPlan:
    """The plan for `config.hours`, made once with rates measured on the first shard of real data."""
    plan = read_plan(out)
    if plan is None:
        writing = stage.writing_seconds()
        stage.cache()
        conversations = load_conversations(stage.data)
        words = learned_tokens(conversations, config.user_turns)
        training = new_training(config, stage, maker, conversations, words)
        reader = stage.reader()

        def update() -> None:
            indices = training.batch_indices(training.update)
            training.step(_load(config, stage, reader, [conversations[index] for index in indices]))

        mean = sum(len(each.tokens) for each in conversations) / training.updates_per_epoch
        seconds = seconds_per_call(update) / mean
        plan = fitting_plan(config, writing, seconds, stage.most_tokens(), int(mean))
        write_plan(out, plan)
    print(plan, file=sys.stderr)
    return plan


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


def keep_beginning(out: Path, beginning: dict[str, Any]) -> None:
    """Remember what a run started from, or raise InputError if that is not what is there now."""
    file = out / BEGINNING
    if not file.exists():
        write_text(file, json.dumps(beginning, indent=1) + "\n")
    elif read_json(file, dict[str, Any], str(file)) != beginning:
        raise InputError(f"the head that the run in {out} started from has changed; use another folder")


def check_target(target: LoadedModel, config: TrainDraftConfig) -> None:
    """Raise InputError where the config does not suit the target."""
    check_trainable(target.model, "ltd train-draft")
    chat = chat_format_of(target)
    settings = target.model.config
    longest = attended_tokens(settings)
    if config.length > longest:
        raise InputError(f"length is {config.length}, but the target attends to at most {longest} tokens")
    if config.has_long_texts and config.context_length > longest:
        raise InputError(
            f"context_length is {config.context_length}, but the target attends to at most {longest} tokens; "
            f"give --context-length {longest} or less"
        )
    shortest = len(chat.prefix) + len(chat.to_answer) + 2
    if config.length < shortest:
        raise InputError(f"length is {config.length}, but the chat template alone needs {shortest} tokens")
    needed = shortest_context(chat, config)
    if config.context_length < needed:
        raise InputError(
            f"context_length is {config.context_length}, but conversations about given texts need {needed} tokens; "
            "raise it, or ask for shorter turns or another mix"
        )
    if config.feature_layers and max(config.feature_layers) > settings.num_hidden_layers:
        highest = settings.num_hidden_layers
        raise InputError(f"feature_layers is {config.feature_layers}, but the target has only hs[0] … hs[{highest}]")
    if config.start_from is None and config.draft_vocab_size > settings.vocab_size:
        raise InputError(
            f"draft_vocab_size is {config.draft_vocab_size}, but the target has only {settings.vocab_size} words"
        )


def learned_tokens(conversations: list[Conversation], user_turns: bool) -> Tensor:
    """All tokens (n,) int64 that the draft is to predict."""
    roles = learned_roles(user_turns)
    return torch.tensor(
        [token for each in conversations for token, role in zip(each.tokens, each.roles, strict=True) if role in roles]
    )


def new_training(
    config: TrainDraftConfig, stage: DataStage, maker: Maker, learned: list[Conversation], words: Tensor
) -> Training:
    """A training on these conversations that has not begun; `words` (n,) int64 are those that it is to predict."""
    vocabulary = maker.vocabulary(words)
    sample = _load(config, stage, stage.reader(), learned[:SAMPLE])
    objective = maker.objective(vocabulary, stage.dtype, sample)
    return Training(objective, config, [maker.work(each) for each in learned], stage.dtype)


def _load(config: TrainDraftConfig, stage: DataStage, reader: Reads, conversations: list[Conversation]) -> Batch:
    return load_batch(conversations, reader, user_turns=config.user_turns, device=stage.target.model.device)


def _train(config: TrainDraftConfig, out: Path, stage: DataStage, maker: Maker, asked: int) -> None:
    """Training proper, the choice of the weights, the last measurement, and the finished draft with its report."""
    conversations = load_conversations(stage.data)
    held_out = [each for each in conversations if each.is_held_out(config.held_out_share)]
    learned = [each for each in conversations if not each.is_held_out(config.held_out_share)]
    if not held_out or not learned:
        raise InputError(f"{len(conversations)} conversations cannot be split; ask for more tokens")
    words, reader = learned_tokens(learned, config.user_turns), stage.reader()
    training = new_training(config, stage, maker, learned, words)

    def load(chosen: list[Conversation]) -> Batch:
        return _load(config, stage, reader, chosen)

    def batches(chosen: list[Conversation]) -> Iterator[Batch]:
        return (load(chosen[first : first + config.batch]) for first in range(0, len(chosen), config.batch))

    run_training(
        training,
        lambda indices: load([learned[index] for index in indices]),
        lambda: batches(held_out),
        out / "checkpoint.pt",
        maker.watch(out, held_out),
    )
    found = maker.choose(training)
    found["held_out"] = training.measure(batches(held_out)).to_dict()
    if maker.measures_kinds:
        groups = {kind.name: [each for each in held_out if KINDS[each.kind] is kind] for kind in KINDS}
        found["held_out_by_kind"] = {
            name: training.measure(batches(group)).to_dict() for name, group in groups.items() if group
        }
    facts = {"asked_tokens": asked, **data_facts(learned, held_out, maker.vocabulary(words))}
    facts["writing"] = WritingRates(out).facts()
    found["learning"] = learning_facts(training, (load([each]) for each in learned[:COUNTED]))
    found |= maker.beginning
    folder = out / FOLDERS[config.kind]
    folder.mkdir(exist_ok=True)
    maker.finish(folder, words, make_report(config, target_name(config), facts, training, found))
