"""Trains one policy with Stable-Baselines3's PPO, as the paper does.

Validation first rises and then falls, so the network of the best validation is kept, not the last. A run may be killed
at any time: it goes on from its last validation, and ends as if it had not been killed, on one thread bit by bit.

A folder of a run holds `run.jsonl`, its settings; `checkpoint.pt`, where it is; `best.zip`, what `PPO.save` wrote at
the best validation; `step_N.zip`, the same at every validation, where these are to be kept; and `tensorboard`. There,
after every rollout, are the mean of its rewards as `rollout/reward_per_step`, and of its cycles' rewards, tokens,
seconds, depths, sizes and context lengths as `cycle/…`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnv
from torch import nn
from tqdm import tqdm

from ltd.common.files import file_hash
from ltd.common.journal import Journal, Record
from ltd.policies.learned.network import Activation, Network
from ltd.policies.learned.sb3_import import TRAINED, read_network
from ltd_rl.trainers.checkpoints import Evaluations, load_checkpoint, save_checkpoint, save_zip, start_from
from ltd_rl.trainers.ppo_config import PPOConfig
from ltd_rl.trainers.validation import Judge

RUN, CHECKPOINT, BEST, LOGS = "run.jsonl", "checkpoint.pt", "best.zip", "tensorboard"
ABOUT = ("role", "observation", "sizes", "width", "depth")  # settings that every zip says of its policy
FUNCTIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


@dataclass(frozen=True, slots=True, eq=False)
class PPOResult:
    """What a run found.

    Attributes:
        network: the best.
        evaluations: every validation in order: `timesteps`, and what `ltd_rl.trainers.validation.figures` gives.
    """

    network: Network
    evaluations: Evaluations

    @property
    def best(self) -> dict[str, float]:
        """The validation of the network."""
        return best_of(self.evaluations)


def train(
    config: PPOConfig,
    env: VecEnv,
    judge: Judge,
    folder: Path,
    settings: Record,
    start: Path | None = None,
    keep: bool = False,
) -> PPOResult:
    """Trains in a folder, or goes on there, or only reads what is finished.

    Args:
        config: how.
        env: with `config.count` environments.
        judge: of the same policy as the environment.
        folder: of the run.
        settings: what the environment and the judge depend on, as JSON values.
        start: zip of `PPO.save` whose networks and optimiser a new run begins with, see `start_from`; None begins with
            random weights.
        keep: the model of every validation, not only of the best.

    Raises:
        InputError: the folder holds a run with other settings or cannot be written, or the start does not fit.
    """
    origin = None if start is None else file_hash(start)
    everything = json.loads(json.dumps({**asdict(config), **settings, "start_sha256": origin}))
    with Journal(folder / RUN, everything, CHECKPOINT):
        model = make_model(config, env)
        model.__dict__[TRAINED] = {name: everything.get(name) for name in ABOUT}  # PPO.save writes all attributes
        evaluations: Evaluations = []
        if (folder / CHECKPOINT).exists():
            evaluations = load_checkpoint(folder / CHECKPOINT, model)
        elif start is not None:
            print(start_from(start, model, config.activation), file=sys.stderr)
        left = config.total_timesteps - model.num_timesteps
        if left > 0:
            run(model, left, Watch(config, judge, folder, evaluations, keep))
        return PPOResult(read_network(folder / BEST, judge.layout), evaluations)


def make_model(config: PPOConfig, env: VecEnv) -> PPO:
    """PPO with these settings, quiet."""
    return PPO(
        "MlpPolicy",
        env,
        learning_rate=config.learning_rate,
        n_steps=config.n_steps // env.num_envs,
        batch_size=config.batch_size,
        n_epochs=config.n_epochs,
        gamma=config.gamma,
        ent_coef=config.ent_coef,
        target_kl=config.target_kl,
        policy_kwargs={
            "net_arch": {"pi": list(config.pi_arch), "vf": list(config.vf_arch)},
            "activation_fn": FUNCTIONS[config.activation],
        },
        seed=config.seed,
        device="cpu",
    )


def run(model: PPO, left: int, watch: Watch) -> None:
    """Trains for the steps that are left; ends with a validation."""
    logger = configure(str(watch.folder / LOGS), ["tensorboard"])
    model.set_logger(logger)
    try:
        with watch.progress:
            model.learn(left, watch, reset_num_timesteps=False)
            watch.evaluate()
    finally:
        logger.close()


def best_of(evaluations: Evaluations) -> dict[str, float]:
    """The validation with the highest throughput, the first of equals."""
    return max(evaluations, key=lambda evaluation: evaluation["throughput"])


class Watch(BaseCallback):
    """Validates and saves between rollouts, where nothing but weights, environments and generators has a state.

    Args:
        config: of the run. judge: of its networks. folder: for its files.
        evaluations: so far; the new ones are appended. keep: the model of every one.
    """

    def __init__(
        self, config: PPOConfig, judge: Judge, folder: Path, evaluations: Evaluations, keep: bool = False
    ) -> None:
        super().__init__()
        self.config, self.judge, self.folder, self.evaluations, self.keep = config, judge, folder, evaluations, keep
        self.cycles: list[dict[str, float]] = []  # of the present rollout
        done = evaluations[-1]["timesteps"] if evaluations else 0
        self.progress: tqdm[Any] = tqdm(
            total=config.total_timesteps, initial=int(done), unit="step", desc=f"training {judge.role}", mininterval=1
        )

    def _on_step(self) -> bool:
        self.progress.update(self.training_env.num_envs)
        self.cycles += [info["cycle"] for info in self.locals["infos"] if "cycle" in info]
        return True

    def _on_rollout_end(self) -> None:
        self.logger.record("rollout/reward_per_step", float(self.locals["rollout_buffer"].rewards.mean()))
        for name in self.cycles[0] if self.cycles else ():
            self.logger.record(f"cycle/{name}", sum(cycle[name] for cycle in self.cycles) / len(self.cycles))
        self.cycles.clear()

    def _on_rollout_start(self) -> None:
        last = self.evaluations[-1]["timesteps"] if self.evaluations else 0
        if self.model.num_timesteps // self.config.eval_freq > last // self.config.eval_freq:
            self.evaluate()

    def evaluate(self) -> None:
        """Validates, keeps the network if it is the best so far, and saves where the run is."""
        assert isinstance(self.model, PPO)
        network = self.judge.network(self.model.policy.state_dict(), self.config.activation)
        found = self.judge.evaluate(network)
        evaluation = {"timesteps": self.model.num_timesteps, **found}
        self.evaluations.append(evaluation)
        best = best_of(self.evaluations)
        if best is evaluation:
            save_zip(self.folder / BEST, self.model)
        if self.keep:
            save_zip(self.folder / f"step_{self.model.num_timesteps}.zip", self.model)
        save_checkpoint(self.folder / CHECKPOINT, self.model, self.evaluations)
        for name, value in found.items():
            self.logger.record(f"validation/{name}", value)
        self.logger.record("validation/best_throughput", best["throughput"])
        self.logger.dump(self.model.num_timesteps)
        self.progress.set_postfix_str(
            f"{found['throughput']:.2f} tokens/s in validation, best {best['throughput']:.2f}", refresh=False
        )
