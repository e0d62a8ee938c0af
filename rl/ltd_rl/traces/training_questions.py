"""Questions to tune policies on: those of a folder, of HumanEval, of tasks by name, or the target's own."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ltd.evaluation.sources import fetch
from ltd.training.data.own_questions import OWN, OwnQuestionsConfig, write_own_questions
from ltd_rl.traces.human_eval import TASK, write_human_eval
from ltd_rl.traces.opening import NamedModels


class NamedQuestions(NamedModels, Protocol):
    """What names questions to train on, and the models that they are for."""

    @property
    def data_dir(self) -> Path | None:
        """The folder that is named, or None."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Their names."""


def training_folder(config: NamedQuestions, folder: Path) -> Path:
    """The data folder of the tasks to train on.

    Where none is named, the prompts of `humaneval` alone are those of the package `human-eval`, and `own` alone are
    questions that the target writes; both are written to `folder`. Others are fetched by name.

    Raises:
        InputError: as `write_human_eval`, `write_own_questions` or `ltd.evaluation.sources.fetch`.
    """
    if config.data_dir is not None:
        return config.data_dir
    if config.tasks == (TASK,):
        write_human_eval(folder)
        return folder
    if config.tasks == (OWN,):
        write_own_questions(
            OwnQuestionsConfig(
                folder, target=config.target, device=config.device, dtype=config.dtype, threads=config.threads
            )
        )
        return folder
    return fetch(config.tasks)
