"""Questions to tune policies on: those of a folder, of HumanEval, of tasks by name, or the target's own."""

from __future__ import annotations

from pathlib import Path

from ltd.evaluation.sources import fetch
from ltd.training.data.own_questions import OWN, OwnQuestionsConfig, write_own_questions
from ltd_rl.traces.human_eval import TASK, write_human_eval
from ltd_rl.traces.opening import NamedModels


def training_folder(data_dir: Path | None, tasks: tuple[str, ...], folder: Path, models: NamedModels) -> Path:
    """The data folder of some tasks to train on.

    Args:
        data_dir: the one that is named, or None.
        tasks: their names; of `humaneval` alone the prompts are those of the package `human-eval`, and `own` alone are
            questions that the target writes.
        folder: where these two are written to.
        models: the target that writes.

    Raises:
        InputError: as `write_human_eval`, `write_own_questions` or `ltd.evaluation.sources.fetch`.
    """
    if data_dir is not None:
        return data_dir
    if tasks == (TASK,):
        write_human_eval(folder)
        return folder
    if tasks == (OWN,):
        write_own_questions(
            OwnQuestionsConfig(
                folder, target=models.target, device=models.device, dtype=models.dtype, threads=models.threads
            )
        )
        return folder
    return fetch(tasks)
