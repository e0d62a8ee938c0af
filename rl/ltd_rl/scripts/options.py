"""The command lines of `train_depth.py` and `train_size.py`, with the official scripts' option names."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from ltd.common.named_options import numbers_of
from ltd.errors import InputError
from ltd_rl.environments.rewards import describe_rewards
from ltd_rl.traces.observations import Role
from ltd_rl.trainers.ppo_config import PAPER, PPOConfig

CALIBRATION_SECONDS = 60.0
PAPER_SIZES = tuple(range(20, 241, 20))


def option(default: Any, text: str) -> Any:
    """A field of options that says what it is."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, slots=True)
class Options:
    """What both scripts ask; empty texts are not given, and None is the paper's setting."""

    save_path: Path = field(metadata={"help": "Folder for the run; a rerun goes on where the last one was."})
    base_model_path: str = option("", "Target: folder, GGUF file or hub name; empty is SmolLM2-135M-Instruct.")
    ea_model_path: str = option("", "Folder with an EAGLE-3 head; empty is the shipped head.")
    rl_checkpoint_path: str = option("", "SB3 zip whose networks and optimiser a new run begins with; empty is random.")
    data_dir: str = option("", "Folder that holds TASK/question.jsonl; well-known tasks are fetched without it.")
    dataset_train: str = option("", "Task to train on, for example humaneval; needed without --traces.")
    traces: str = option("", "Folder of ltd record; empty records into the run's folder first.")
    latency: str = option("", "JSON file of ltd calibrate; empty calibrates into the run's folder first.")
    live: bool = option(False, "Train on live cycles, timed one by one; traces then only validate.")
    reward: str = option("ratio", f"What a cycle is worth: {describe_rewards('ppo')}.")
    observation: str = option("paper", "What the policy sees: paper, summary or summary+state.")
    sizes: str = option("", "Ladder of sizes, ascending; 20,40 … 240, or what a size policy here brings, if not given.")
    depth_limit: int = option(12, "Deepest tree, 1 to 12.")
    total_timesteps: int | None = option(None, "Decisions to learn from.")
    lr: float | None = option(None, "Highest learning rate.")
    warmup_timesteps: int | None = option(None, "Steps until that learning rate; 1 % of all if not given.")
    n_steps: int | None = option(None, "Decisions in the rollout buffer, of all environments together.")
    batch_size: int | None = option(None, "Decisions in a minibatch.")
    n_epochs: int | None = option(None, "Passes over the buffer.")
    gamma: float | None = option(None, "Discount per decision.")
    ent_coef: float | None = option(None, "Weight of the entropy.")
    target_kl: float | None = option(None, "Divergence at which the passes over a buffer end; none if not given.")
    eval_freq: int | None = option(None, "Steps between validations, each of which is kept as ppo/step_N.zip.")
    pi_arch: str = option("", "Hidden layers of the policy network, with commas or spaces between.")
    vf_arch: str = option("", "Hidden layers of the value network, with commas or spaces between.")
    activation: str | None = option(None, "relu or tanh, between the layers; that of rl_checkpoint_path, if given.")
    count: int | None = option(None, "Replayed generations in parallel.")
    seed: int = option(0, "Of everything random.")
    limit: int | None = option(None, "Record the first so many questions only.")
    max_new_tokens: int = option(128, "Most tokens of a recorded answer.")
    calibration_seconds: float = option(CALIBRATION_SECONDS, "About how long to calibrate.")
    device: str = option("auto", "cpu, cuda or cuda:N; auto is the GPU once make gpu-check has passed on it.")
    dtype: str = option("auto", "auto (the fastest here), float32, bfloat16 or float16.")
    threads: int | None = option(None, "CPU threads; torch's own choice if not given.")

    @property
    def partner(self) -> str:
        """Bundle folder or SB3 zip of the other policy; empty is the paper's first partner."""
        raise NotImplementedError

    def config(self, role: Role) -> PPOConfig:
        """The settings of PPO; raises InputError if they cannot be."""
        names = {field.name for field in fields(PPOConfig)} - {"pi_arch", "vf_arch"}
        given = {name: getattr(self, name) for name in names}
        layers = {name: whole_numbers(getattr(self, name)) or None for name in ("pi_arch", "vf_arch")}
        if self.live:
            if self.count not in (None, 1):
                raise InputError(f"count is {self.count}, but --live trains on one answer at a time; leave it out")
            given["count"] = 1
        elif self.count is None and self.n_steps is not None and self.n_steps > 0:
            given["count"] = math.gcd(
                PPO_DEFAULTS[role]["count"], self.n_steps
            )  # official commands know no such number
        return PPOConfig.paper(role, **given, **layers)


@dataclass(frozen=True, slots=True)
class DepthOptions(Options):
    """With the size policy as partner."""

    rl_token_model_path: str = option(
        "", "Size policy beside it: bundle folder or SB3 zip; empty is 60, or the best constant if no tree is so large."
    )

    @property
    def partner(self) -> str:
        """The size policy."""
        return self.rl_token_model_path


@dataclass(frozen=True, slots=True)
class SizeOptions(Options):
    """With the depth policy as partner, which the official script names by `--use_dyn_depth --depth_model`.

    Raises:
        InputError: two depth policies, none where one is wanted, or a size policy as partner.
    """

    rl_depth_model_path: str = option(
        "", "Depth policy beside it: bundle folder or SB3 zip; empty is a depth drawn uniformly from 1 to the limit."
    )
    use_dyn_depth: bool = option(False, "Train beside the depth policy of depth_model.")
    depth_model: str = option("", "The same as rl_depth_model_path, with --use_dyn_depth; without it, nobody asks it.")
    rl_token_model_path: str = option("", "Nothing: official command lines give it, empty.")

    def __post_init__(self) -> None:
        if self.rl_token_model_path:
            raise InputError(
                f"rl_token_model_path is {self.rl_token_model_path}, but the size policy is what is trained "
                "here; begin with one by --rl_checkpoint_path"
            )
        if self.use_dyn_depth and not self.depth_model:
            raise InputError("--use_dyn_depth needs a depth policy; name its file or folder with --depth_model")
        if self.use_dyn_depth and self.rl_depth_model_path:
            raise InputError("--depth_model and --rl_depth_model_path name the same thing; give one of them")

    @property
    def partner(self) -> str:
        """The depth policy."""
        return self.depth_model if self.use_dyn_depth else self.rl_depth_model_path


def whole_numbers(text: str) -> tuple[int, ...]:
    """The numbers in `1024,256`, `[1024, 256]` or `1024 256`.

    Raises:
        InputError: something else.
    """
    sizes = numbers_of(text.strip("[]() ").replace(",", " ").split())
    if sizes is None:
        raise InputError(f"{text!r} is no list of whole numbers; write them with commas between, for example 1024,256")
    return sizes


def parameter(entry: Field[Any], kind: Any, defaults: Mapping[str, Any]) -> inspect.Parameter:
    """A field as typer reads a function's parameter; its help says which default stands for it where it is empty."""
    text = entry.metadata["help"]
    if entry.name in defaults and entry.default in (None, ""):
        value = defaults[entry.name]
        text = f"{text.rstrip('.')}; {','.join(map(str, value)) if isinstance(value, tuple) else value} if not given."
    default = inspect.Parameter.empty if entry.default is MISSING else entry.default
    annotation = Annotated[kind, typer.Option(f"--{entry.name}", help=text, show_default=default not in ("", None))]
    return inspect.Parameter(entry.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _defaults(role: Role) -> dict[str, Any]:
    config = PPOConfig.paper(role)
    return {name: value for name, value in asdict(config).items() if value is not None}


PPO_DEFAULTS: dict[Role, dict[str, Any]] = {role: _defaults(role) for role in PAPER}
