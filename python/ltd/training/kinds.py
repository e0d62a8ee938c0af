"""What differs between the kinds of draft: which features they read, what is trained, and how it is written."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ltd.chains.model_files import ChainFacts, save_chain
from ltd.common.files import expand_user
from ltd.common.json_files import read_json
from ltd.drafts.eagle3.files import save_head
from ltd.drafts.eagle3.head import Eagle3Config, Eagle3Head
from ltd.drafts.weights import weights_hash
from ltd.errors import InputError
from ltd.loading import make_target
from ltd.target.device import resolve_dtype
from ltd.target.locate import DEFAULT_TARGET
from ltd.target.model import LoadedModel, load_model, tokenizer_fingerprint
from ltd.training.chain import ChainObjective, new_chain
from ltd.training.config import TrainDraftConfig
from ltd.training.data.batches import Batch
from ltd.training.data.conversation import Conversation, learned_roles
from ltd.training.eagle3.measure import HeadObjective
from ltd.training.eagle3.start import StateScales, new_head, target_parts, trained_head
from ltd.training.eagle3.trials import HeadTrials, HeadWatch, faster
from ltd.training.eagle3.trim import frequent_words, keep_words, largest_fast, trial_sizes
from ltd.training.eagle3.words import with_new_words, word_ids
from ltd.training.loop import Objective, Training, TrainingWatch
from ltd.training.report import Curves, CurveWatch, draw_chain_curves, draw_head_curves
from ltd.training.vocabulary import DraftVocabulary, choose_vocabulary, known_vocabulary

UNROLLED = 16  # times as much takes a token that is learned as one that is only read, measured on a processor
FOLDERS = {"eagle3": "head", "chain": "draft"}  # of the finished draft, in the run's folder


class Maker(Protocol):
    """One kind of draft, for a config and a target.

    feature_layers: the hidden states hs[k] of the target that it reads.
    measures_kinds: whether it can be measured on some of the held-out conversations too.
    beginning: what the report says of the draft that training started from.
    """

    feature_layers: tuple[int, ...]
    measures_kinds: bool
    beginning: dict[str, Any]

    def vocabulary(self, words: Tensor) -> DraftVocabulary:
        """What the draft can propose, where `words` (n,) int64 are to be predicted."""

    def objective(self, vocabulary: DraftVocabulary, dtype: torch.dtype, sample: Batch) -> Objective:
        """The draft that training starts from, and what it is trained for; `sample` are some of the conversations."""

    def work(self, conversation: Conversation) -> int:
        """How much there is to compute of a conversation beside others."""

    def watch(self, folder: Path, held_out: list[Conversation]) -> TrainingWatch:
        """What looks at the training on its way, and shows it in the run's folder."""

    def choose(self, training: Training) -> dict[str, Any]:
        """Decide between the last and the averaged weights, which are then the draft's; what was found."""

    def finish(self, folder: Path, tokens: Tensor, report: dict[str, Any]) -> None:
        """Write the trained draft, the report last: it marks the run as finished.

        tokens: (n,) int64, those that it learned to predict.
        """


class HeadMaker:
    """EAGLE-3 heads."""

    measures_kinds = True

    def __init__(self, config: TrainDraftConfig, target: LoadedModel) -> None:
        settings = target.model.config
        self.config, self.target = config, target
        self.first: Eagle3Head | None = None  # that training starts from, if it learned before
        self.beginning: dict[str, Any] = {}
        if config.start_from is None:
            self.head_config = Eagle3Config.for_target(
                settings,
                draft_vocab_size=config.draft_vocab_size,
                target=target_name(config),
                tokenizer_fingerprint=tokenizer_fingerprint(target.tokenizer, settings.vocab_size),
                **config.head_options(),
            )
        else:
            self.first = trained_head(expand_user(config.start_from), target)
            self.head_config = self.first.config
            if config.new_words and self.head_config.hidden_size != self.head_config.target_hidden_size:
                raise InputError(
                    f"new_words: words that are new to a head begin with the target's own rows of the output layer, "
                    f"which are {self.head_config.target_hidden_size} wide, but those of the head in "
                    f"{config.start_from} are {self.head_config.hidden_size}; leave new_words out"
                )
            self.beginning = {"started_from": facts_of(expand_user(config.start_from))}
        self.feature_layers = self.head_config.feature_layers

    def vocabulary(self, words: Tensor) -> DraftVocabulary:
        """See `Maker`; a head that has learned before keeps its words, unless new ones are asked for."""
        known = None if self.first is None else word_ids(self.first)
        if known is not None and not self.config.new_words:
            return known_vocabulary(known, words)
        return choose_vocabulary(words, self.head_config.vocab_size, self.head_config.draft_vocab_size, known)

    def objective(self, vocabulary: DraftVocabulary, dtype: torch.dtype, sample: Batch) -> Objective:
        """See `Maker`."""
        config, model = self.config, self.target.model
        if self.first is not None:
            head = copy.deepcopy(self.first)
            if config.new_words:
                output: Any = model.get_output_embeddings()
                head = with_new_words(head, vocabulary.target_ids, output.weight.detach().cpu())
            self.head = head.to(model.device).train()
            return HeadObjective(self.head, target_parts(model, vocabulary, dtype), config)
        scales = StateScales.of(sample, len(self.feature_layers))
        self.head = new_head(
            self.head_config, model, vocabulary, from_target=config.start_from_target, seed=config.seed, scales=scales
        )
        return HeadObjective(self.head, target_parts(model, vocabulary, dtype), config)

    def work(self, conversation: Conversation) -> int:
        """See `Maker`: what is only read is seen once, what is learned is unrolled."""
        roles = learned_roles(self.config.user_turns)
        return len(conversation.tokens) + UNROLLED * sum(role in roles for role in conversation.roles)

    def watch(self, folder: Path, held_out: list[Conversation]) -> TrainingWatch:
        """See `Maker`; the head decodes on the way."""
        self.trials = self._trials(held_out)
        return HeadWatch(self.head, self.trials, Curves(folder, self.config, draw_head_curves))

    def choose(self, training: Training) -> dict[str, Any]:
        """See `Maker`: by tokens per second."""
        if training.average is None:
            return {}
        last = copy.deepcopy(self.head)
        training.average.swap()
        names, heads = ("last", "averaged"), (last, self.head)
        trials = self.trials.compare(heads, "choosing the weights")
        index = faster(trials)
        if names[index] == "last":
            training.average.swap()
        found = {name: trial.to_dict() for name, trial in zip(names, trials, strict=True)}
        return {"weights": {"chosen": names[index], **found}}

    def finish(self, folder: Path, tokens: Tensor, report: dict[str, Any]) -> None:
        """See `Maker`; on the CPU the words that do not pay in speed go first."""
        head = self.head
        if self.config.trim_vocabulary and self.target.model.device.type == "cpu":
            head, report["vocabulary_sizes"] = trimmed(self.trials, head, tokens)
        draw_head_curves(report, folder / "training.png")
        save_head(head, folder, report)

    def _trials(self, held_out: list[Conversation]) -> HeadTrials:
        """Held-out questions of all kinds of text, and a target of its own, whose weights may be packed."""
        questions = [list(each.question) for each in held_out]
        random.Random(self.config.seed).shuffle(questions)
        device = self.target.model.device
        model = load_model(self.config.target, resolve_dtype(self.config.dtype, device), device).model
        return HeadTrials(make_target(model, self.feature_layers, takes_weights=True), questions)


class ChainMaker:
    """Chain drafts: a few of the target's layers, as a model of their own."""

    feature_layers: tuple[int, ...] = ()
    measures_kinds = False  # it keeps what it computed of all held-out batches, in their order

    def __init__(self, config: TrainDraftConfig, target: LoadedModel) -> None:
        count = target.model.config.num_hidden_layers
        self.config, self.target = config, target
        self.beginning: dict[str, Any] = {}
        self.layers = config.layers or tuple(sorted({0, count - 1}))
        if self.layers[-1] >= count:
            raise InputError(f"layers is {self.layers}, but the target has only layers 0 … {count - 1}")

    def vocabulary(self, words: Tensor) -> DraftVocabulary:
        """See `Maker`."""
        vocab_size = self.target.model.config.vocab_size
        return choose_vocabulary(words, vocab_size, self.config.draft_vocab_size or vocab_size)

    def objective(self, vocabulary: DraftVocabulary, dtype: torch.dtype, sample: Batch) -> Objective:
        """See `Maker`."""
        model = self.target.model
        self.model, self.words = new_chain(model, self.layers), vocabulary.target_ids
        parts = target_parts(model, vocabulary, dtype)
        whole: Any = model.get_output_embeddings()
        return ChainObjective(self.model, parts, self.words.to(model.device), whole.weight.detach().to(dtype))

    def work(self, conversation: Conversation) -> int:
        """See `Maker`; conversations of a batch are filled up to the longest."""
        return len(conversation.tokens)

    def watch(self, folder: Path, held_out: list[Conversation]) -> TrainingWatch:
        """See `Maker`."""
        return CurveWatch(Curves(folder, self.config, draw_chain_curves))

    def choose(self, training: Training) -> dict[str, Any]:
        """See `Maker`: chains have no averaged weights."""
        return {}

    def finish(self, folder: Path, tokens: Tensor, report: dict[str, Any]) -> None:
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


def facts_of(head: Path) -> dict[str, Any]:
    """What a report says of the head that training starts from: its hash, and what its own report says of its data."""
    file = head / "training.json"
    report = read_json(file, dict[str, Any], str(file)) if file.exists() else {}
    known = ("data", "learned_tokens", "started_from")
    return {"head_sha256": weights_hash(head), **{name: report[name] for name in known if name in report}}


def target_name(config: TrainDraftConfig) -> str:
    """The target's name without this machine's folders."""
    if config.target is None:
        return DEFAULT_TARGET
    return Path(config.target).name if Path(config.target).exists() else config.target


def trimmed(trials: HeadTrials, head: Eagle3Head, tokens: Tensor) -> tuple[Eagle3Head, list[dict[str, Any]]]:
    """The head with the words that pay here, and what every size brought."""
    heads = [keep_words(head, frequent_words(head, tokens, size)) for size in trial_sizes(head)]
    found = trials.compare(heads, "choosing the draft vocabulary")
    kept = largest_fast(found).words
    return keep_words(head, frequent_words(head, tokens, kept)), [trial.to_dict() for trial in found]
