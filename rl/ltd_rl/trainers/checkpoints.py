"""Everything that a PPO run depends on from one rollout to the next, in one file that is replaced in one go.

Only plain tensors, numbers and texts are in it, so reading one runs no pickled code.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO

from ltd.common.files import write_bytes
from ltd.common.tensor_files import DAMAGE, load_pickled, read_members
from ltd.errors import InputError

Evaluations = list[dict[str, float]]


def save_checkpoint(file: Path, model: PPO, evaluations: Evaluations) -> None:
    """Writes the state before a rollout; where the environment has no `state_dict`, a resumed run resets it."""
    assert model.env is not None
    state = {
        "policy": model.policy.state_dict(),
        "optimizer": model.policy.optimizer.state_dict(),
        "timesteps": model.num_timesteps,
        "updates": model._n_updates,
        "observations": model._last_obs,
        "starts": model._last_episode_starts,
        "environment": model.env.state_dict() if hasattr(model.env, "state_dict") else None,
        # What Stable-Baselines3 draws from: actions by torch, the order of minibatches by NumPy.
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(),
        "evaluations": evaluations,
    }
    buffer = io.BytesIO()
    torch.save(plain(state), buffer)
    write_bytes(file, buffer.getvalue())


def load_checkpoint(file: Path, model: PPO) -> Evaluations:
    """Puts a model and its environment into the state that was saved, and returns the evaluations so far.

    Raises:
        InputError: the file is damaged.
    """
    try:
        state = load_pickled(file.read_bytes())
        model.policy.load_state_dict(state["policy"])
        model.policy.optimizer.load_state_dict(state["optimizer"])
        model.num_timesteps, model._n_updates = state["timesteps"], state["updates"]
        if state["environment"] is not None:
            model.env.load_state_dict(arrays(state["environment"]))  # type: ignore[union-attr]
            model._last_obs, model._last_episode_starts = arrays(state["observations"]), arrays(state["starts"])
        torch.set_rng_state(state["torch"])
        np.random.set_state(arrays(state["numpy"]))
        evaluations: Evaluations = state["evaluations"]
        return evaluations
    except (pickle.UnpicklingError, AttributeError, *DAMAGE) as error:
        raise InputError(f"{file} is damaged; delete its folder and train again") from error


def save_zip(file: Path, model: PPO) -> None:
    """`PPO.save`, so that nobody ever sees half of it."""
    buffer = io.BytesIO()
    model.save(buffer)
    write_bytes(file, buffer.getvalue())


def start_from(file: Path, model: PPO) -> None:
    """Takes over the weights, value network included, from a zip of `PPO.save`.

    Raises:
        InputError: not such a zip, or another network.
    """
    try:
        (content,) = read_members(file, ("policy.pth",))
    except DAMAGE as error:
        raise InputError(f"{file} is not a zip file of Stable-Baselines3's PPO.save: {error}") from error
    try:
        model.policy.load_state_dict(load_pickled(content))
    except (pickle.UnpicklingError, AttributeError, *DAMAGE) as error:
        raise InputError(f"the networks in {file} are not those that are to be trained; name another start") from error


def plain(value: Any) -> Any:
    """The same with tensors for arrays, and Python's numbers for NumPy's."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(entry) for entry in value)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    return value.item() if isinstance(value, np.generic) else value


def arrays(value: Any) -> Any:
    """The same with arrays for tensors."""
    if isinstance(value, dict):
        return {key: arrays(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(arrays(entry) for entry in value)
    return value.numpy() if isinstance(value, torch.Tensor) else value
