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
from ltd.common.tensor_files import DAMAGE, load_pickled
from ltd.errors import InputError
from ltd.policies.learned.network import Activation
from ltd.policies.learned.sb3_import import read_saved

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


def start_from(file: Path, model: PPO, activation: Activation = "relu") -> str:
    """Takes over the networks, the value network included, and the optimiser's moments from a zip of `PPO.save`.

    The steps begin anew, as in the official scripts: the learning rate goes up and down once more.

    Args:
        file: the zip. model: of a new run. activation: between the layers of its networks.

    Returns:
        What was taken over, for people: the optimiser is not, where the file has none, or another one.

    Raises:
        InputError: not such a zip, or other networks.
    """
    saved = read_saved(file)
    if saved.activation != activation:
        raise InputError(
            f"the networks in {file} have {saved.activation} between their layers, and those that are to be trained "
            f"{activation}; name another start, or train with {saved.activation}"
        )
    try:
        model.policy.load_state_dict(dict(saved.weights))
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"the networks in {file} are not those that are to be trained; name another start") from error
    whole = has_moments(saved.optimizer, model)
    if whole:
        model.policy.optimizer.load_state_dict(saved.optimizer)  # type: ignore[arg-type]
    taken = "the networks and the optimiser" if whole else "only the networks, for it has no state of this optimiser,"
    return f"the run begins with {taken} of {file}, after {saved.timesteps} steps; its own steps begin at 0"


def has_moments(state: Any, model: PPO) -> bool:
    """Whether a `state_dict` is of the model's optimiser, Adam: two moments for every parameter, of its shape."""
    parameters = list(model.policy.parameters())
    entries, groups = (state.get("state"), state.get("param_groups")) if isinstance(state, dict) else (None, None)
    if not isinstance(entries, dict) or not isinstance(groups, list) or len(groups) != 1:
        return False
    usual = model.policy.optimizer.state_dict()["param_groups"][0]
    if not isinstance(groups[0], dict) or not usual.keys() <= groups[0].keys():
        return False
    if groups[0]["params"] != usual["params"] or entries.keys() != set(usual["params"]):
        return False
    return all(
        isinstance(entries[number], dict)
        and entries[number].keys() == {"step", "exp_avg", "exp_avg_sq"}
        and all(entries[number][name].shape == parameter.shape for name in ("exp_avg", "exp_avg_sq"))
        for number, parameter in enumerate(parameters)
    )


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
