"""Toy outcomes where the best decision is plain from the scores, and what trains on them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from stages import with_plain

from ltd.latency.interpolation import Interpolant
from ltd.lookup import TEXT_FEATURES
from ltd.lookup.scores import default_text_scores
from ltd.policies.learned.network import Network
from ltd.policies.learned.observation import Layout
from ltd.policies.learned.policy import Learned
from ltd.policies.learned.setting import Setting
from ltd_rl.traces.observations import Role
from ltd_rl.traces.outcomes import Outcomes
from ltd_rl.trainers.partners import RANDOM
from ltd_rl.trainers.stage import Stage, constant_policy, layout_named, with_network

WIDTH, DEPTH, SIZES = 2, 2, (1, 4, 8)
TINY: dict[str, Any] = {"lr": 3e-3, "n_steps": 128, "batch_size": 64, "n_epochs": 2, "count": 4, "eval_freq": 256}
TINY |= {"pi_arch": (8,), "vf_arch": (8,)}


def toy(seed: int, generations: int = 20, length: int = 30) -> Outcomes:
    """Where the scores are high, the deepest and largest tree gains 5 tokens; else no tree gains more than 1."""
    generator, positions = np.random.default_rng(seed), generations * length
    easy = generator.random(positions) < 0.5
    depths, sizes = np.arange(DEPTH + 1)[:, None], np.array(SIZES)
    most = 1 + 2 * np.minimum(depths, np.arange(len(SIZES)))
    gains = np.where(easy[:, None, None], most, 1)
    ends = np.repeat(np.arange(1, generations + 1) * length, length)
    gains = np.minimum(gains, (ends - np.arange(positions))[:, None, None])
    seconds = np.broadcast_to(1 + depths + 0.2 * sizes, gains.shape).astype(np.float32)
    scores = np.where(easy, -0.5, -8.0)[:, None] + 0.1 * generator.standard_normal((positions, 10))
    return Outcomes(
        width=WIDTH,
        sizes=SIZES,
        starts=np.arange(generations + 1) * length,
        lengths=np.full(positions, 50),
        **with_plain(gains, seconds, np.ones(positions, dtype=np.float32)),
        scores=scores.astype(np.float32),
        states=np.zeros((positions, 0), dtype=np.float32),
        begin=Interpolant(np.array([1.0, 2.0]), np.array([1.0]), np.array([[0.1], [0.2]])),
    )


def told(seed: int, generations: int = 20) -> Outcomes:
    """The toy with cheaper trees, where at half of the positions the text knows what follows, and says that it does."""
    plain = toy(seed, generations)
    known = np.random.default_rng(seed + 100).random(plain.positions) < 0.5
    depths, sizes = np.arange(DEPTH + 1)[:, None], np.array(SIZES)
    gains, seconds = plain.gains.copy(), plain.seconds.copy()
    seconds[:, :-1] = 1 + 0.3 * depths + 0.1 * sizes
    seconds[:, -1, 1:] = 1.8
    gains[:, -1, 1:] = np.minimum(np.where(known, 5, 1), plain.ends - np.arange(plain.positions))[:, None]
    text = np.zeros((plain.positions, TEXT_FEATURES), dtype=np.float32)
    text[:, 0] = known
    scores = default_text_scores()
    begin = Interpolant(np.array([1.0, 2.0]), np.array([1.0]), np.array([[0.02], [0.04]]))
    tables = {"gains": gains, "seconds": seconds, "begin": begin}
    return replace(plain, **tables, text=text, max_text=4, text_scores=scores)


def stage(role: Role, training: Outcomes, validation: Outcomes, **changes: Any) -> Stage:
    partner = len(SIZES) - 1 if role == "depth" else RANDOM
    made = Stage(role, layout_named("paper", role, training), "ratio", partner, training, validation)
    return replace(made, **changes)


def constant_depth(outcomes: Outcomes) -> Learned:
    """A policy whose depth network always goes on."""
    layout = layout_named("paper", "depth", outcomes)
    assert isinstance(layout, Layout)
    always = Network(layout, (torch.zeros(2, layout.width), torch.tensor([0.0, 1.0])))
    return with_network(constant_policy(outcomes, Setting(WIDTH)), "depth", always, outcomes)
