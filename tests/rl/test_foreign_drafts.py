"""Drafts of a kind that `ltd` does not know are recorded, sampled and trained with as its own are.

The one here reads tokens instead of features and has no states, so that nothing can rest on either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_costs import Abacus
from made_outcomes import ROLES, random_network
from recordings import Recorded, load_oracle

from ltd.common.shards import shard_files
from ltd.decoding.decoder import Decoder
from ltd.errors import InputError
from ltd.loading import load
from ltd.policies import Learned, Policy, Static
from ltd.policies.learned.observation import Summary
from ltd.policies.learned.setting import Setting
from ltd_rl.baselines.samples import TREE, SampleConfig, answer_samples, load_samples, record_samples
from ltd_rl.baselines.train import split_samples
from ltd_rl.environments.live_env import LiveEnv
from ltd_rl.environments.replay_env import ReplayEnv
from ltd_rl.environments.rewards import Reward
from ltd_rl.traces.format import RecordedGeneration, load_traces
from ltd_rl.traces.outcomes import outcomes_of
from ltd_rl.traces.record import RecordConfig, record
from ltd_rl.traces.replay import replay
from ltd_rl.trainers.stage import layout_named

DEPTH, NEW, SIZES = 2, 14, (5, 20, 60)


@pytest.fixture(scope="module")
def foreign(
    data: Path,
    tiny_target: Callable[[str], Path],
    tiny_head: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Recorded:
    """Traces of such a draft, and its decoder."""
    config = RecordConfig(
        data_dir=data,
        out=tmp_path_factory.mktemp("foreign"),
        tasks=("second",),
        max_new_tokens=NEW,
        target=str(tiny_target("llama")),
        draft=str(tiny_head("llama")),
        dtype="float32",
        depth=DEPTH,
        rows=5,
    )
    record(config, load_oracle)
    return Recorded(load_oracle(str(config.target), None, dtype="float32"), load_traces(config.out), config)


def cycles_of(decoder: Decoder, generation: RecordedGeneration, policy: Policy) -> list[tuple[int, int, int]]:
    """Depth, size and gain of every cycle of the real decoder, whose answer must be the recorded one."""
    prompt = generation.tokens[: generation.prompt_length].tolist()
    answer = decoder.generate(prompt, max_new_tokens=NEW, policy=policy)
    assert answer.token_ids == generation.tokens[generation.prompt_length :].tolist()
    found = answer.statistics
    return list(zip(found.depths, found.sizes, found.gains, strict=True))


def learned(seed: int) -> Learned:
    layout = Summary(best=12, newest=4)
    return Learned(Setting(10), DEPTH, SIZES, random_network(layout, 2, seed), random_network(layout, 3, seed + 1))


@pytest.mark.parametrize("policy", [Static(0, 3), Static(1, 20), Static(DEPTH, 60), learned(0), learned(4)], ids=str)
def test_a_replay_of_its_traces_is_the_decoder(foreign: Recorded, policy: Policy) -> None:
    for generation in foreign.traces.generations:
        assert generation.states.shape == (generation.positions, 0)
        found = replay(generation, replace(policy))
        expected = list(zip(found.depths.tolist(), found.sizes.tolist(), found.gains.tolist(), strict=True))
        assert cycles_of(foreign.decoder, generation, replace(policy)) == expected


def test_its_gains_mean_something(foreign: Recorded) -> None:
    """Neither all right nor all wrong."""
    gains = {gain for g in foreign.traces.generations for gain in replay(g, Static(DEPTH, 60)).gains.tolist()}
    assert len(gains) > 2 and max(gains) > 3


@pytest.mark.parametrize("role", ROLES)
def test_its_live_environment_is_its_replayed_one(foreign: Recorded, role: str) -> None:
    generation, layout = foreign.traces.generations[0], Summary(4, 2)
    outcomes = outcomes_of([generation], Abacus(), SIZES)  # type: ignore[arg-type]
    table = np.full((generation.positions, DEPTH + 1), 1) if role == "depth" else np.full(generation.positions, 2)
    replayed = ReplayEnv(outcomes, role, layout, Reward.named("length", 1.0), table)  # type: ignore[arg-type]
    prompt = generation.tokens[: generation.prompt_length].tolist()
    env = LiveEnv(
        foreign.decoder,
        role,  # type: ignore[arg-type]
        [prompt],
        layout,
        Reward.named("length", 1.0),
        Static(2, 20),
        DEPTH,
        SIZES,
        NEW,
    )
    (seen, _), (expected, _), over, steps = env.reset(), replayed.reset(), False, 0
    generator = np.random.default_rng(0)
    while not over:
        np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-5)
        action = np.int64(generator.integers(env.action_space.n) if role == "size" else generator.random() < 0.7)
        seen, gained, over, _, _ = env.step(action)
        expected, tokens, also_over, _, _ = replayed.step(action)
        assert (gained, over) == (tokens, also_over)
        steps += 1
    assert steps > 2 and env.request.answers[0] == generation.tokens[generation.prompt_length :].tolist()


def test_states_that_it_lacks_are_refused_by_name(foreign: Recorded) -> None:
    outcomes = outcomes_of(foreign.traces.generations, Abacus(), SIZES)  # type: ignore[arg-type]
    layout = layout_named("summary", "depth", outcomes)
    assert isinstance(layout, Summary) and layout.states == 0 and layout.length_range == outcomes.length_range
    with pytest.raises(InputError, match="this draft has none; use summary"):
        layout_named("summary+state", "depth", outcomes)
    with pytest.raises(InputError, match="a summary of 32 states does not fit"):
        LiveEnv(
            foreign.decoder,
            "depth",
            [[5, 6]],
            Summary(4, 2, 32),
            Reward.named("length", 1.0),
            Static(2, 20),
        )


def test_its_candidates_are_sampled(foreign: Recorded, tmp_path: Path) -> None:
    decoder = foreign.decoder
    prompt, answer = decoder.encode("x"), []
    made = list(answer_samples(decoder, prompt, NEW, torch.Generator().manual_seed(0), answer))
    assert answer == decoder.generate(prompt, max_new_tokens=NEW, policy="none").token_ids
    gains = decoder.generate(prompt, max_new_tokens=NEW, policy=TREE).statistics.gains
    assert [int(part["accepted"].sum()) + 1 for part in made][:-1] == gains[:-1]  # the answer's end may cut the last
    config = SampleConfig(
        data_dir=foreign.config.data_dir,
        out=tmp_path,
        tasks=("second",),
        max_new_tokens=NEW,
        target=foreign.config.target,
        draft=foreign.config.draft,
        dtype="float32",
    )
    record_samples(config, load_oracle)
    samples = load_samples(shard_files(tmp_path))
    assert samples["states"].shape == (len(samples["state_accepted"]), 0) and len(samples["state_accepted"]) > 10
    training, validation = split_samples("c2t", samples)
    assert len(training.accepted) + len(validation.accepted) == len(samples["accepted"])
    with pytest.raises(
        InputError, match="specdecpp reads the draft's states, but these samples are of a draft without"
    ):
        split_samples("specdecpp", samples)


def test_what_cannot_be_recorded_is_told_before_anything_is_answered(foreign: Recorded, tmp_path: Path) -> None:
    config = replace(foreign.config, out=tmp_path)

    def narrow(*arguments: Any, **options: Any) -> Decoder:
        decoder = load_oracle(*arguments, **options)
        decoder.draft.width = 4  # type: ignore[union-attr, misc]
        return decoder

    def bare(target: str, *_: Any, **options: Any) -> Decoder:
        return load(target, "none", **options)

    complaints = {
        narrow: "beam width 10 is asked for, but this draft's is 4 and cannot be changed",
        bare: "traces are of a draft's trees, and there is no draft; load one",
    }
    for loader, complaint in complaints.items():
        with pytest.raises(InputError, match=complaint):
            record(config, loader)
    assert shard_files(tmp_path) == []
    with pytest.raises(InputError, match="samples are recorded with a draft; load one"):
        next(answer_samples(bare(str(config.target), dtype="float32"), [5], 4, torch.Generator(), []))
