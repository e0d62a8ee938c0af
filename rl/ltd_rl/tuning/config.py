"""What `ltd tune` is asked to do, whether that can be done, and what for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ltd.common.number_ranges import check_least
from ltd.common.threads import check_threads, set_threads
from ltd.errors import InputError
from ltd.evaluation.questions import load_questions
from ltd.evaluation.sources import expand_tasks
from ltd.latency.cycle_bench import Plan
from ltd.policies.learned.setting import Setting
from ltd.policy_choice import expected_setting
from ltd.target.device import resolve_device, resolve_dtype
from ltd.target.locate import DEFAULT_TARGET
from ltd.training.data.own_questions import OWN
from ltd_rl.environments.rewards import TRAINERS, check_reward
from ltd_rl.traces.human_eval import TASK, find_problems
from ltd_rl.traces.samplings import check_turns_for, checked_temperatures
from ltd_rl.traces.splits import LEAST_COMPARED, LEAST_QUESTIONS, check_three_ways


@dataclass(frozen=True, slots=True)
class TuneConfig:
    """What to tune, and how.

    Attributes:
        out: work folder; None is one in the user's cache.
        data_dir, tasks: the training questions; without a folder `own` ones that the target writes, HumanEval from the
            package human-eval, or other well-known tasks by name.
        limit: only the first so many questions of every task; None for all.
        max_new_tokens: per recorded answer.
        temperatures: of the answers, 0 being greedy: the questions take them in turns where answers are recorded, and
            at each of them all held-out questions are decoded to compare.
        trainer: exact or ppo.
        reward: by name, one that the trainer knows, see `ltd_rl.environments.rewards`.
        seconds: about how long to measure costs.
        width: beam width of the trees; None is that of the policy that is shipped for a machine like this one, or else
            the draft's own.
        questions: about so many held-out ones are decoded to compare, shared by the tasks.
        target, draft, device, dtype, threads: as for `ltd.load`.

    Raises:
        InputError: a setting that cannot work.
    """

    out: Path | None = None
    data_dir: Path | None = None
    tasks: tuple[str, ...] = (OWN,)
    limit: int | None = None
    max_new_tokens: int = 128
    temperatures: tuple[float, ...] = (0.0, 1.0)
    trainer: str = "exact"
    reward: str = "renewal"
    seconds: float = 60.0
    questions: int = 24
    width: int | None = None
    target: str | None = None
    draft: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.trainer not in TRAINERS:
            raise InputError(f"there is no trainer {self.trainer!r}; use {' or '.join(TRAINERS)}")
        check_reward(self.reward, self.trainer)
        object.__setattr__(self, "tasks", expand_tasks(self.data_dir, self.tasks))
        object.__setattr__(self, "temperatures", checked_temperatures(self.temperatures))
        if self.draft == "none":
            raise InputError('policies steer a draft, so there must be one; name a head, or use the draft "lookup"')
        check_least(self, questions=LEAST_COMPARED * len(self.tasks), max_new_tokens=1)
        check_threads(self.threads)
        Plan(seconds=self.seconds, width=self.width)  # raises if they are out of range


def check_questions(config: TuneConfig) -> None:
    """Raises InputError if there are too few questions to split or for the temperatures, before a model loads."""
    if config.data_dir is None and config.tasks in ((TASK,), (OWN,)):
        if config.tasks == (TASK,):
            find_problems()
        enough = max(LEAST_QUESTIONS, len(config.temperatures))  # there are many
        count = enough if config.limit is None else config.limit
        known = [(config.tasks[0], str(number)) for number in range(count)]
    else:
        questions = load_questions(config.data_dir, config.tasks, config.limit)
        known = [(question.task, question.question_id) for question in questions]
    check_three_ways(known)
    check_turns_for(config.temperatures, len(known))


def setting_here(target: str | None, draft: str | None, dtype: str, threads: int | None, device: str) -> Setting:
    """What policies are to be made for, known without loading weights; sets the number of threads.

    Args:
        target, draft, dtype, threads, device: as for `ltd.load`; the draft is not "none".

    Raises:
        InputError: there is no such target or head, or none that a bundle can be known to belong to.
    """
    set_threads(threads)  # a setting has the number of threads
    place = resolve_device(device)
    here = expected_setting(target, draft, resolve_dtype(dtype, place), place)
    assert here is not None, "the draft none leaves nothing to decide"
    if here.head_sha256 is None:
        raise InputError("the draft's weights have no hash to know them by; convert the head to ltd's own layout first")
    return replace(here, target=Path(target or DEFAULT_TARGET).name)
