"""The paper's iterative co-adaptation: the two policies are trained in turn, each beside the other.

Iteration 0 is a depth policy trained against a constant size and a size policy trained against random depths, put
together. Then the size policy is retrained beside the frozen depth policy, the depth policy beside the frozen size
policy, and so on, size policies in odd iterations. A retrained policy begins with its weights of before.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltd.files import write_text
from ltd.policies.bundle import Bundle, save_bundle
from ltd.policies.learned import Learned, Setting
from ltd.policies.network import Network
from ltd_rl.config import PPOConfig
from ltd_rl.judge import Figures, figures
from ltd_rl.observations import Role, chosen_steps, stops
from ltd_rl.outcomes import Outcomes, total
from ltd_rl.partners import RANDOM, nearest_step
from ltd_rl.ppo import BEST
from ltd_rl.stage import Partner, Stage, constant_policy, layout_named, with_network

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
        InputError: the folder holds stages with other settings, or something does not fit, see `ltd_rl.stage`.
    """
    outcomes = schedule.training
    folders: dict[Role, Path] = {"depth": folder / "iter0-depth", "size": folder / "iter0-size"}
    policy = constant_policy(outcomes, schedule.made_for)
    first: dict[Role, Partner] = {"depth": nearest_step(outcomes.sizes), "size": RANDOM}
    for role, partner in first.items():
        policy = with_network(policy, role, schedule.train(role, partner, folders[role]), outcomes)
    best = policy
    history: list[dict[str, Any]] = []
    for iteration in range(schedule.iterations + 1):
        if iteration > 0:
            role = "size" if iteration % 2 else "depth"
            place = folder / f"iter{iteration}-{role}"
            network = schedule.train(role, policy, place, folders[role] / BEST)
            folders[role], policy = place, with_network(policy, role, network, outcomes)
        found = {"iteration": iteration, **validated(policy, schedule.validation)}
        if not history or found["throughput"] > max(entry["throughput"] for entry in history):
            best = policy
            training = {"schedule": "iterative", "observation": schedule.observation, "iteration": iteration}
            save_bundle(Bundle(best, schedule.reward, training, found), folder / BUNDLE)
        history.append(found)
        write_text(folder / HISTORY, json.dumps(history, indent=1) + "\n")
    return best


def validated(policy: Learned, outcomes: Outcomes) -> Figures:
    """What a policy with both networks comes to, see `ltd_rl.judge.figures`."""
    depths = stops(policy, outcomes)
    return figures(total(outcomes, depths, chosen_steps(policy, outcomes, depths)), outcomes)
