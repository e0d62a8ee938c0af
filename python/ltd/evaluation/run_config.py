"""What `ltd eval` and `ltd check` share: what to ask, whom, and what the answers depend on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from ltd.chains.acceptance_files import draft_hash
from ltd.common.assets import shipped_head
from ltd.common.files import file_hash
from ltd.common.journal import Record
from ltd.common.launch import launched_processes
from ltd.common.number_ranges import check_least
from ltd.common.threads import check_threads
from ltd.common.workers import Crew, Here, absolute, local_paths
from ltd.drafts.opening import find_head, head_hash, text_scores_file
from ltd.drafts.sharpness import SAMPLING
from ltd.errors import InputError
from ltd.evaluation.answerers import find_chain
from ltd.evaluation.methods import Method, NewBundle
from ltd.evaluation.questions import TASKS, Question, fingerprint
from ltd.evaluation.sources import expand_tasks
from ltd.policies.learned.bundle import Bundle
from ltd.policy_choice import expected_setting, resolve_draft
from ltd.target.device import resolve_device, resolve_dtype

T = TypeVar("T")
M = TypeVar("M")
C = TypeVar("C", bound="RunConfig")
NOT_IN_RESULTS = ("data_dir", "out", "against")  # what no answer depends on


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Which questions, which model, and where the results go.

    Attributes:
        data_dir: holds `{task}/question.jsonl`; None fetches well-known tasks by name, see `ltd.evaluation.sources`.
        out: where the results go; a rerun to the same place goes on where the last one was.
        tasks: task names.
        limit: only the first so many questions of every task; None for all.
        max_new_tokens: per turn.
        target, draft, device, dtype, threads, tensor_parallel: as for `ltd.load`.
    """

    data_dir: Path | None
    out: Path
    tasks: tuple[str, ...] = TASKS
    limit: int | None = None
    max_new_tokens: int = 128
    target: str | None = None
    draft: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    tensor_parallel: bool = False

    def __post_init__(self) -> None:
        check_least(self, max_new_tokens=1)
        check_threads(self.threads)
        object.__setattr__(self, "tasks", expand_tasks(self.data_dir, self.tasks))

    @property
    def is_sampled(self) -> bool:
        """Whether any text of this run is sampled, so that the head's factors for that count."""
        return False

    def load_options(self) -> dict[str, Any]:
        """What `ltd.load` is told beside the names."""
        options: dict[str, Any] = {"device": self.device, "dtype": self.dtype, "threads": self.threads}
        return options | ({"tensor_parallel": True} if self.tensor_parallel else {})


def in_rotation(turns: Sequence[T], methods: Sequence[M]) -> list[tuple[T, M]]:
    """Every turn with every method: turn by turn, each starting one method further on than the one before."""
    return [
        (turn, methods[(place + step) % len(methods)])
        for place, turn in enumerate(turns)
        for step in range(len(methods))
    ]


def choose_methods(
    config: RunConfig, names: Sequence[str], bundles: Mapping[str, Bundle] | None = None
) -> list[Method]:
    """The methods by name, with the policies that they come to here.

    Args:
        config, names: of the run.
        bundles: by name, those whose folders are still to be written.

    Raises:
        InputError: as `Method.parse` and `Method.choose` do, or one cannot have its target spread as the run has it.
    """
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    setting = cache(partial(expected_setting, config.target, config.draft, dtype, device))  # it reads the whole head
    new = bundles or {}
    methods = [NewBundle.of(name, new[name]) if name in new else Method.parse(name) for name in names]
    if config.tensor_parallel and (alone := [method.name for method in methods if not method.can_be_spread]):
        raise InputError(f"{', '.join(alone)} runs in one process only; leave it out, or start without torchrun")
    return [method.choose(setting, device) for method in methods]


def check_chain(chain: str | None, methods: Sequence[Method]) -> None:
    """Raises InputError if a chain draft is named that no method uses."""
    if chain is not None and not any(method.needs_chain for method in methods):
        raise InputError(f"chain is {chain}, but no method here uses a chain draft; leave it out, or add such a method")


def check_samplers(config: RunConfig, methods: Sequence[Method], why: str = "") -> None:
    """Raises InputError if a method names a sampler and nothing is sampled.

    Args:
        config, methods: of the run.
        why: it never samples, to be told behind that it does not.
    """
    names = [method.name for method in methods if method.names_sampler]
    if names and not config.is_sampled:
        raise InputError(f"this run is greedy and makes no use of the sampler in {', '.join(names)}{why}; leave it out")


def for_workers(config: C) -> C:
    """The config as workers on other machines take it: paths that are whole, and device and dtype as they are here.

    Raises:
        InputError: it asks for what the workers' place decides.
    """
    if config.threads is not None:
        raise InputError("with --ray, --ray-cpus says how many threads a worker has; leave --threads out")
    device = resolve_device(config.device)
    if device.index is not None:
        raise InputError(f"with --ray, Ray chooses the GPU of each worker; give device {device.type}, not {device}")
    head = find_head(config.draft)
    # The shipped head may lie elsewhere there: without a name each worker finds its own.
    draft = config.draft if head is None else None if head == shipped_head() else str(head.absolute())
    places = {"target": absolute(config.target), "draft": draft}
    if hasattr(config, "chain"):
        places["chain"] = absolute(config.chain)
    dtype = str(resolve_dtype(config.dtype, device)).removeprefix("torch.")
    return dataclasses.replace(config, device=str(device), dtype=dtype, **places)


def model_files(config: RunConfig) -> list[Path]:
    """The target's and the draft's files and folders, as far as they are local and named."""
    return local_paths(config.target, None if config.draft is None else find_head(config.draft))


def run_settings(
    config: RunConfig, questions: Sequence[Question], methods: Sequence[Method] = (), crew: Crew | None = None
) -> Record:
    """Everything that results depend on, as JSON values: the config, the machine, and what the names stood for.

    Args:
        config, questions, methods: of the run.
        crew: who does the work; None is this process.
    """
    device = resolve_device(config.device)
    machine = (crew or Here()).machine_facts(device)
    values = {**dataclasses.asdict(config), **machine}
    head = find_head(resolve_draft(config.target, config.draft))
    values["dtype"] = str(resolve_dtype(config.dtype, device)).removeprefix("torch.")
    values["device"] = str(device)
    if device.type == "cpu":  # as runs were kept when there was no other
        del values["device"]
    values["threads"] = config.threads or machine.get("threads")
    if values.pop("tensor_parallel"):
        values["processes"] = launched_processes()
    values["draft_sha256"] = head_hash(head)
    values["text_scores_sha256"] = None if (scores := text_scores_file(head)) is None else file_hash(scores)
    if config.is_sampled and head is not None and (head / SAMPLING).exists():  # else as when there was none
        values["sampling_sha256"] = file_hash(head / SAMPLING)
    if hashes := {method.name: found for method in methods if (found := hash_files(method))}:
        values["policies_sha256"] = hashes
    if any(method.needs_chain for method in methods):
        values["chain_sha256"] = draft_hash(find_chain(values["chain"]))
    values["questions"] = fingerprint(questions)
    kept = {name: value for name, value in values.items() if name not in NOT_IN_RESULTS}
    settings: Record = json.loads(json.dumps(kept))  # tuples become lists, as they will be when read back
    return settings


def hash_files(method: Method) -> str | list[str | None] | None:
    """Hashes of the files that say what a method decides; None where its name does."""
    hashes = method.hashes()
    return hashes[0] if len(hashes) == 1 else hashes or None
