"""The paper's iterative co-adaptation: the two policies are trained in turn, each beside the other.

Iteration 0 is a depth policy trained against a constant size (`ltd_rl.trainers.partners.constants`) and a size policy
trained against random depths, put together. Then the size policy is retrained beside the frozen depth policy, the depth
policy beside the frozen size policy, and so on, size policies in odd iterations. A retrained policy begins with its
weights of before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltd.common.files import write_text
from ltd.common.lock import only_run
from ltd.policies.learned.bundle import Bundle, save_bundle
from ltd.policies.learned.network import Network
from ltd.policies.learned.policy import Learned
from ltd.policies.learned.setting import Setting
from ltd_rl.traces.observations import Role, decided
from ltd_rl.traces.outcomes import Outcomes
from ltd_rl.trainers.partners import RANDOM
from ltd_rl.trainers.ppo import BEST
from ltd_rl.trainers.ppo_config import PPOConfig
from ltd_rl.trainers.stage import Partner, Stage, constant_policy, layout_named, with_network
from ltd_rl.trainers.validation import Figures, figures

ITERATIONS = 3
HISTORY, BUNDLE = "iterations.json", "bundle"


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """What to train.

    Args:
        training, validation: the outcomes, with the same ladder and depths.
        made_for: written into the bundle.
        depth, size: how to train either policy.
        observation: paper, summary or summary+state.
        reward: by name.
        iterations: after iteration 0.
    """

    training: Outcomes
    validation: Outcomes
    made_for: Setting
    depth: PPOConfig
    size: PPOConfig
    observation: str = "paper"
    reward: str = "ratio"
    iterations: int = ITERATIONS

    def train(self, role: Role, partner: Partner, folder: Path, start: Path | None = None) -> Network:
        """The best network of one stage; one that is finished is only read."""
        layout = layout_named(self.observation, role, self.training)
        stage = Stage(role, layout, self.reward, partner, self.training, self.validation)
        return stage.train(self.depth if role == "depth" else self.size, folder, start).network


def iterate(schedule: Schedule, folder: Path) -> Learned:
    """Runs what is missing of the schedule, and returns the policy of the best iteration.

    The folder gets a folder per stage, `iterations.json` with the validation of every iteration, and `bundle` with the
    best policy.

    Raises:
        InputError: the folder holds stages with other settings or is in use by another run, or something does not fit,
            see `ltd_rl.trainers.stage`.
    """
    with only_run(folder):
        return _iterate(schedule, folder)


def _iterate(schedule: Schedule, folder: Path) -> Learned:
    """In a folder that is this run's."""
    best: Learned | None = None
    history: list[dict[str, Any]] = []
    for iteration, policy in enumerate(iterations(schedule, folder)):
        found = {"iteration": iteration, **validated(policy, schedule.validation)}
        if best is None or found["throughput"] > max(entry["throughput"] for entry in history):
            best = policy
            training = {"schedule": "iterative", "observation": schedule.observation, "iteration": iteration}
            save_bundle(Bundle(best, schedule.reward, training, found), folder / BUNDLE)
        history.append(found)
        write_text(folder / HISTORY, json.dumps(history, indent=1) + "\n")
    assert best is not None
    return best


def iterations(schedule: Schedule, folder: Path) -> Iterator[Learned]:
    """The policies after iteration 0, 1, …; each is trained when it is asked for. Their stages are in `stage_names`."""
    outcomes, names = schedule.training, stage_names(schedule.iterations)
    policy = constant_policy(outcomes, schedule.made_for)
    first: dict[Role, Partner] = {"depth": outcomes.sizes.index(policy.sizes[0]), "size": RANDOM}
    folders: dict[Role, Path] = {}
    for role, name in zip(first, names, strict=False):
        folders[role] = folder / name
        policy = with_network(policy, role, schedule.train(role, first[role], folders[role]), outcomes)
    yield policy
    for iteration, name in enumerate(names[len(first) :], start=1):
        role = retrained(iteration)
        network = schedule.train(role, policy, folder / name, folders[role] / BEST)
        folders[role], policy = folder / name, with_network(policy, role, network, outcomes)
        yield policy


def retrained(iteration: int) -> Role:
    """Which policy an iteration after 0 retrains."""
    return "size" if iteration % 2 else "depth"


def stage_names(iterations: int) -> list[str]:
    """The folders of the stages in order: two of iteration 0, then one of each."""
    return ["iter0-depth", "iter0-size", *(f"iter{count}-{retrained(count)}" for count in range(1, iterations + 1))]


def validated(policy: Learned, outcomes: Outcomes) -> Figures:
    """What a policy with both networks comes to, see `ltd_rl.trainers.validation.figures`."""
    return figures(decided(policy, outcomes), outcomes)
