"""The learned policies of a tuning: the third stage."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from tqdm import tqdm

from ltd.common.files import write_text
from ltd.common.journal import Record
from ltd.latency.model import LatencyModel
from ltd.lookup import TEXT_FEATURES
from ltd.policies.learned.bundle import BEST_STATIC, Bundle, save_bundle
from ltd.policies.learned.policy import Learned
from ltd.policies.static import Static
from ltd_rl.traces.limits import relative_costs, summary_for
from ltd_rl.traces.outcomes import Outcomes
from ltd_rl.traces.sources import PPO
from ltd_rl.trainers.exact import Epoch, ExactConfig, train_exact
from ltd_rl.trainers.iterate import Schedule, iterate
from ltd_rl.trainers.ppo_config import PPOConfig
from ltd_rl.tuning.work import BUNDLE, TRAINING, Work, announce


def train(
    work: Work, latency: LatencyModel, static: Static | None, training: Outcomes, validation: Outcomes
) -> Learned:
    """Trains the policies and writes them to the work folder."""
    config = work.config
    depths = f", depths up to {training.depth}" * work.drafts
    announce(
        3,
        f"training by {config.trainer} for the reward {config.reward}: sizes up to {training.sizes[-1]}{depths}, "
        f"{training.positions} positions, {validation.positions} to choose the epoch",
    )
    trainer = train_by_ppo if config.trainer == "ppo" else train_exactly
    policy, course = trainer(work, training, validation)
    policy = replace(policy, costs=relative_costs(training, latency))
    settings = {"trainer": config.trainer, "tasks": list(config.tasks), "max_new_tokens": config.max_new_tokens,
                "temperatures": list(config.temperatures), "positions": training.positions,
                **({} if static is None else {BEST_STATIC: (static.depth, static.size)}),
                **course}  # fmt: skip
    write_text(work.folder / TRAINING, json.dumps(settings, indent=1) + "\n")
    save_bundle(Bundle(policy, config.reward, settings), work.folder / BUNDLE)
    return policy


def train_exactly(work: Work, training: Outcomes, validation: Outcomes) -> tuple[Learned, Record]:
    """By the exact trainer; and its settings and course."""
    config = ExactConfig(reward=work.config.reward)
    summary = summary_for(training.sizes, TEXT_FEATURES)
    with tqdm(total=config.epochs, unit="epoch", desc="training") as progress:

        def told(epoch: Epoch) -> None:
            progress.set_postfix_str(f"{epoch.validation:.1f} tokens/s held out", refresh=False)
            progress.update()

        result = train_exact(training, validation, (summary, summary), config, work.setting, told)
    return result.policy, {**config.to_dict(), "epochs": [asdict(epoch) for epoch in result.epochs]}


def train_by_ppo(work: Work, training: Outcomes, validation: Outcomes) -> tuple[Learned, Record]:
    """By PPO in the paper's schedule, on our own observation; and its settings."""
    depth, size = PPOConfig.paper("depth"), PPOConfig.paper("size")
    schedule = Schedule(
        training, validation, work.setting, depth, size, observation="summary", reward=work.config.reward
    )
    return iterate(schedule, work.folder / PPO), {"depth": asdict(depth), "size": asdict(size)}
