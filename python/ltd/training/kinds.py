"""What differs between the kinds of draft: which features they read, what is trained, and how it is written."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ltd.chains.model_files import ChainFacts, save_chain
from ltd.drafts.eagle3.files import save_head
from ltd.drafts.eagle3.head import Eagle3Config, Eagle3Head
from ltd.errors import InputError
from ltd.loading import make_target
from ltd.target.device import resolve_dtype
from ltd.target.locate import DEFAULT_TARGET
from ltd.target.model import LoadedModel, load_model, tokenizer_fingerprint
from ltd.training.chain import ChainObjective, new_chain
from ltd.training.config import TrainDraftConfig
from ltd.training.data.conversations import Conversation
from ltd.training.eagle3.measure import HeadObjective
from ltd.training.eagle3.start import new_head, target_parts
from ltd.training.eagle3.trim import QUESTIONS, frequent_words, keep_words, largest_fast, trial_sizes, try_sizes
from ltd.training.loop import Objective
from ltd.training.report import draw_chain_curves, draw_head_curves
from ltd.training.vocabulary import DraftVocabulary

FOLDERS = {"eagle3": "head", "chain": "draft"}  # of the finished draft, in the run's folder


class Maker(Protocol):
    """One kind of draft, for a config and a target.

    feature_layers: the hidden states hs[k] of the target that it reads.
    """

    feature_layers: tuple[int, ...]

    def objective(self, vocabulary: DraftVocabulary, dtype: torch.dtype) -> Objective:
        """The draft that training starts from, and what it is trained for."""

    def finish(self, folder: Path, tokens: Tensor, held_out: list[Conversation], report: dict[str, Any]) -> None:
        """Write the trained draft, the report last: it marks the run as finished.

        tokens: (n,) int64, those that it learned to predict.
        """


class HeadMaker:
    """EAGLE-3 heads."""

    def __init__(self, config: TrainDraftConfig, target: LoadedModel) -> None:
        settings = target.model.config
        self.config, self.target = config, target
        self.head_config = Eagle3Config.for_target(
            settings,
            draft_vocab_size=config.draft_vocab_size,
            target=target_name(config),
            tokenizer_fingerprint=tokenizer_fingerprint(target.tokenizer, settings.vocab_size),
            **config.head_sizes(),
        )
        self.feature_layers = self.head_config.feature_layers

    def objective(self, vocabulary: DraftVocabulary, dtype: torch.dtype) -> Objective:
        """See `Maker`."""
        config, model = self.config, self.target.model
        self.head = new_head(
            self.head_config, model, vocabulary, from_target=config.start_from_target, seed=config.seed
        )
        return HeadObjective(self.head, target_parts(model, vocabulary, dtype), config)

    def finish(self, folder: Path, tokens: Tensor, held_out: list[Conversation], report: dict[str, Any]) -> None:
        """See `Maker`; on the CPU the words that do not pay in speed go first."""
        head = self.head
        if self.config.trim_vocabulary and self.target.model.device.type == "cpu":
            questions = [list(each.question) for each in held_out]
            head, report["vocabulary_sizes"] = trimmed(self.config, head, tokens, questions)
        draw_head_curves(report, folder / "training.png")
        save_head(head, folder, report)


class ChainMaker:
    """Chain drafts: a few of the target's layers, as a model of their own."""

    feature_layers: tuple[int, ...] = ()

    def __init__(self, config: TrainDraftConfig, target: LoadedModel) -> None:
        count = target.model.config.num_hidden_layers
        self.config, self.target = config, target
        self.layers = config.layers or tuple(sorted({0, count - 1}))
        if self.layers[-1] >= count:
            raise InputError(f"layers is {self.layers}, but the target has only layers 0 … {count - 1}")

    def objective(self, vocabulary: DraftVocabulary, dtype: torch.dtype) -> Objective:
        """See `Maker`."""
        model = self.target.model
        self.model, self.words = new_chain(model, self.layers), vocabulary.target_ids
        parts = target_parts(model, vocabulary, dtype)
        whole: Any = model.get_output_embeddings()
        return ChainObjective(self.model, parts, self.words.to(model.device), whole.weight.detach().to(dtype))

    def finish(self, folder: Path, tokens: Tensor, held_out: list[Conversation], report: dict[str, Any]) -> None:
        """See `Maker`."""
        vocab_size = self.target.model.config.vocab_size
        words = self.words if len(self.words) < vocab_size else None
        facts = ChainFacts(
            target=target_name(self.config),
            tokenizer_fingerprint=tokenizer_fingerprint(self.target.tokenizer, vocab_size),
            layers_of_target=self.layers,
            words=None if words is None else len(words),
        )
        draw_chain_curves(report, folder / "training.png")
        save_chain(self.model, words, folder, facts, report)


def open_maker(config: TrainDraftConfig, target: LoadedModel) -> Maker:
    """The maker of the config's kind; raises InputError where the config does not suit the target."""
    return ChainMaker(config, target) if config.kind == "chain" else HeadMaker(config, target)


def target_name(config: TrainDraftConfig) -> str:
    """The target's name without this machine's folders."""
    if config.target is None:
        return DEFAULT_TARGET
    return Path(config.target).name if Path(config.target).exists() else config.target


def trimmed(
    config: TrainDraftConfig, head: Eagle3Head, tokens: Tensor, questions: list[list[int]]
) -> tuple[Eagle3Head, list[dict[str, Any]]]:
    """The head with the words that pay here, and what every size brought."""
    dtype = resolve_dtype(config.dtype, torch.device("cpu"))
    model = load_model(config.target, dtype, torch.device("cpu")).model
    target = make_target(model, head.config.feature_layers, takes_weights=True)
    trials = try_sizes(copy.deepcopy(head).to(dtype), target, tokens, questions[:QUESTIONS], trial_sizes(head))
    kept = largest_fast(trials).words
    return keep_words(head, frequent_words(head, tokens, kept)), [trial.to_dict() for trial in trials]
