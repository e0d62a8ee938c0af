"""`ltd fit-sampling`: says beside a draft how far its values can be trusted where text is sampled.

Sampled answers of the target are recorded, as text alone, and the draft's trees are grown along them, see
`ltd_rl.traces.sharpness_fit`. What comes out is written into the draft's folder, where decoding reads it. Only scores
depend on it, and so what is chosen among candidates: never the text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path

from ltd.decoding.decoder import Decoder
from ltd.drafts.opening import LOOKUP, find_head
from ltd.drafts.sharpness import Sharpness, save_sharpness
from ltd.errors import InputError
from ltd.evaluation.questions import load_questions
from ltd.evaluation.run_config import RunConfig
from ltd.loading import load as load_decoder
from ltd.policy_choice import resolve_draft
from ltd.tree import check_tree_limits
from ltd_rl.traces.format import load_traces
from ltd_rl.traces.opening import open_decoder
from ltd_rl.traces.record import RecordConfig, record
from ltd_rl.traces.samplings import checked_temperatures
from ltd_rl.traces.sharpness_fit import fit_sharpness

ANSWERS = "answers"


@dataclass(frozen=True, slots=True)
class SamplingFitConfig(RunConfig):
    """What to fit to; `out` is a work folder.

    Attributes:
        temperatures: that answers are sampled at, above 0; the questions take them in turns.
        depth: of the trees.
        seed: every question gets a seed of its own from it.
    """

    temperatures: tuple[float, ...] = (0.6, 1.0)
    depth: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)  # not super(): a dataclass with slots is a new class that super() does not know
        if not all(checked_temperatures(self.temperatures)):
            raise InputError("greedy text has no noise that a draft could share; name temperatures above 0")
        check_tree_limits(1, self.depth, 0)

    @property
    def head(self) -> Path:
        """The folder that is written into; raises InputError if there is no head."""
        head = find_head(resolve_draft(self.target, self.draft))
        if head is None:
            raise InputError("the fit is of a draft head, so there must be one; name its folder with --draft")
        return head


def fit_sampling(config: SamplingFitConfig, load: Callable[..., Decoder] = load_decoder) -> Sharpness:
    """Fits, and writes the factors into the head's folder.

    Args:
        config: what to fit to.
        load: stands in for `ltd.load`.

    Raises:
        InputError: something in the config or the data is wrong, before a model loads; the answers are too few or too
            short; or the head's folder cannot be written.
    """
    head = config.head
    questions = load_questions(config.data_dir, config.tasks, config.limit)
    shared = {each.name: getattr(config, each.name) for each in fields(RunConfig)}
    answers = RecordConfig(**shared, temperatures=config.temperatures, seed=config.seed)
    answers = replace(answers, out=config.out / ANSWERS, draft=LOOKUP)  # text alone: it is the same for all drafts

    @cache
    def opened() -> Decoder:
        return open_decoder(config, load)

    record(answers, lambda *_, **__: opened())
    generations, decoder = load_traces(answers.out).generations, opened()
    sharpness = fit_sharpness(decoder, generations, config.depth)
    facts = {
        "fitted_to": {
            "tasks": list(config.tasks),
            "questions": len(questions),
            "positions": sum(generation.positions for generation in generations),
            "max_new_tokens": config.max_new_tokens,
            "dtype": str(decoder.target.dtype).removeprefix("torch."),
        }
    }
    save_sharpness(sharpness, head, facts)
    return sharpness
