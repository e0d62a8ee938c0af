"""What `train_depth.py` and `train_size.py` do with their options."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path

from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from ltd.common.files import expand_user
from ltd.common.lock import only_run
from ltd.errors import InputError
from ltd.loading import load as load_decoder
from ltd.policies import Policy
from ltd.policies.learned.bundle import Bundle, load_bundle, save_bundle
from ltd.policies.learned.policy import Learned
from ltd.policies.learned.sb3_import import read_saved
from ltd.policies.learned.setting import Setting
from ltd_rl.environments.live_env import LiveEnv
from ltd_rl.environments.rewards import check_reward
from ltd_rl.scripts.options import CALIBRATION_SECONDS, PAPER_SIZES, Options, whole_numbers
from ltd_rl.scripts.zips import read_zip
from ltd_rl.traces.observations import Role
from ltd_rl.traces.opening import open_decoder
from ltd_rl.traces.outcomes import Outcomes
from ltd_rl.traces.sources import PPO, Data, Source, obtain
from ltd_rl.trainers.partners import RANDOM
from ltd_rl.trainers.ppo_config import PPOConfig
from ltd_rl.trainers.stage import Stage, check_observation, constant_policy, layout_named, reward_for, with_network

BUNDLE = "bundle"


def run_script(role: Role, options: Options) -> None:
    """Trains one policy and writes a bundle with it and its partner.

    The folder gets `ppo`, see `ltd_rl.trainers.ppo`, with the model of every validation, and `bundle`.

    Raises:
        InputError: an option that cannot work.
    """
    config = options.config(role)
    check_reward(options.reward)  # raises, like the next, before anything takes long
    check_observation(options.observation)
    if options.traces and options.limit is not None:
        raise InputError("--limit is of recording, and --traces names what is recorded; leave one of them out")
    if options.latency and options.calibration_seconds != CALIBRATION_SECONDS:
        raise InputError("--calibration_seconds is of calibrating, and --latency names its result; leave one out")
    if options.rl_checkpoint_path and not Path(options.rl_checkpoint_path).is_file():
        raise InputError(f"there is no {options.rl_checkpoint_path} to begin with; name a zip of PPO.save")
    start = Path(options.rl_checkpoint_path) if options.rl_checkpoint_path else None
    if start is not None and not options.activation:
        config = replace(config, activation=read_saved(start).activation)
    frozen = load_partner(role, options.partner)
    with only_run(options.save_path):
        _train(role, options, config, frozen, start)


def _train(role: Role, options: Options, config: PPOConfig, frozen: Learned | None, start: Path | None) -> None:
    """In a folder that is this run's."""
    sizes = ladder(role, options, frozen, start)
    data = obtain(source_of(options), sizes)
    layout = layout_named(options.observation, role, data.training)
    policy = beside(role, options, data.training, frozen)
    partner = policy if options.partner else sizes.index(policy.sizes[0]) if role == "depth" else RANDOM
    stage = Stage(role, layout, options.reward, partner, data.training, data.validation)
    env = live_environment(role, options, data, policy) if options.live else None
    trained = stage.train(config, options.save_path / PPO, start, env, keep=True)
    policy = replace(with_network(policy, role, trained.network, data.training), made_for=data.made_for)
    training = {"role": role, "observation": options.observation, **asdict(config)}
    save_bundle(Bundle(policy, options.reward, training, trained.best), options.save_path / BUNDLE)
    best = trained.best
    print(
        f"The best policy came after {best['timesteps']} steps: {best['throughput']:.2f} tokens/s on the held-out "
        f"questions, {best['speedup']:.3f} times plain decoding; it is in {options.save_path / BUNDLE}.",
        file=sys.stderr,
    )


def live_environment(role: Role, options: Options, data: Data, policy: Policy) -> VecEnv:
    """Live cycles on the training prompts; where a run goes on, it begins with a new answer."""
    random = role == "size" and not options.partner
    source = source_of(options)
    env = LiveEnv(
        open_decoder(source, load_decoder),
        role,
        data.prompts,
        layout_named(options.observation, role, data.training),
        reward_for(options.reward, data.training),
        RANDOM if random else policy,
        depth=options.depth_limit,
        sizes=data.training.sizes,
        max_new_tokens=options.max_new_tokens,
        width=data.training.width,
    )
    return DummyVecEnv([lambda: env])


def source_of(options: Options) -> Source:
    """Where the data comes from."""
    return Source(
        folder=options.save_path,
        traces=Path(options.traces) if options.traces else None,
        latency=Path(options.latency) if options.latency else None,
        data_dir=Path(options.data_dir) if options.data_dir else None,
        tasks=(options.dataset_train,) if options.dataset_train else (),
        target=options.base_model_path or None,
        draft=options.ea_model_path or None,
        device=options.device,
        dtype=options.dtype,
        threads=options.threads,
        limit=options.limit,
        max_new_tokens=options.max_new_tokens,
        depth=options.depth_limit,
        seconds=options.calibration_seconds,
    )


def ladder(role: Role, options: Options, frozen: Learned | None, start: Path | None) -> tuple[int, ...]:
    """The sizes to choose among: those of a size policy that is beside the one in training or that it begins with.

    Raises:
        InputError: no numbers, or not those of the size policy beside it.
    """
    asked = whole_numbers(options.sizes)
    if role == "depth" and frozen is not None:
        if asked and asked != frozen.sizes:
            raise InputError(
                f"the sizes are {options.sizes}, but the size policy beside it chooses among "
                f"{', '.join(map(str, frozen.sizes))}; leave --sizes out"
            )
        return frozen.sizes
    if role == "size" and start is not None and not options.sizes:
        return read_zip("size", start).sizes
    return asked or PAPER_SIZES


def load_partner(role: Role, name: str) -> Learned | None:
    """The policy beside the one in training, of a bundle or a zip; None if there is none."""
    if not name:
        return None
    path = expand_user(name)
    return read_zip(other_than(role), path) if path.is_file() else load_bundle(path).policy


def other_than(role: Role) -> Role:
    """The other of the two."""
    return "size" if role == "depth" else "depth"


def beside(role: Role, options: Options, outcomes: Outcomes, frozen: Learned | None) -> Learned:
    """The policy that the one in training becomes a part of; without a partner, it is constant.

    Raises:
        InputError: a bundle without the network that is needed, or a policy for beams of another width.
    """
    if frozen is None:
        return constant_policy(outcomes, Setting(outcomes.width))
    other = other_than(role)
    if (frozen.size_network if other == "size" else frozen.depth_network) is None:
        raise InputError(f"the bundle {options.partner} has no {other} network; name one that has")
    if frozen.made_for.width != outcomes.width:
        raise InputError(
            f"{options.partner} is for beams of width {frozen.made_for.width}, but those here have {outcomes.width}; "
            "name a policy of the same width"
        )
    return frozen
