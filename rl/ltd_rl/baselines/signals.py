"""What the rules for the depth look at, at every position and level of traces: recorded beside them.

Traces hold scores and states of the roots only. Entropies, and what a network makes of a draft's states, are numbers
that the draft gives while a tree grows, so trees are drafted once more along the recorded answers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ltd.common.arrays import Floats
from ltd.common.journal import Journal
from ltd.common.shards import SHARDS, read_shard, shard_file, write_shard
from ltd.decoding.decoder import Decoder
from ltd.drafts.base import at_width
from ltd.errors import InputError
from ltd.policies import Policy
from ltd.policies.base import StopsBySignal
from ltd.tree import DraftTree
from ltd_rl.traces.drafting import draft_everywhere
from ltd_rl.traces.format import RecordedGeneration

FORMAT, ROWS, SHARD_GENERATIONS = 1, 32, 8
ALIKE = 0.1  # nats; traces of the same draft differ by rounding at most
Signals = dict[str, Floats]
"""float32 (P, D) by rule: what it sees after 0 … D - 1 expansions."""


def obtain_signals(
    generations: Sequence[RecordedGeneration],
    rules: dict[str, Policy],
    depth: int,
    folder: Path,
    identity: dict[str, Any],
    load: Callable[[], Decoder],
) -> Signals:
    """The signals of all positions; what is in the folder is reused, and what is missing recorded.

    Args:
        generations: the traces, in their order.
        rules: those that stop by a signal, by name.
        depth: D, the deepest tree that they may want.
        folder: for the shards.
        identity: what the signals depend on besides the traces, as values for JSON.
        load: makes the decoder, if something is missing.

    Raises:
        InputError: the folder holds others, or the traces are not of this draft.
    """
    settings = {"format": FORMAT, "depth": depth, "rules": list(rules), "traces": digest(generations), **identity}
    parts = [generations[n : n + SHARD_GENERATIONS] for n in range(0, len(generations), SHARD_GENERATIONS)]
    with Journal(folder / "run.jsonl", settings, SHARDS):
        missing = [number for number in range(len(parts)) if not shard_file(folder, number).exists()]
        decoder = load() if missing else None
        with tqdm(total=len(parts), initial=len(parts) - len(missing), unit="shard", desc="signals") as progress:
            for number in missing:
                assert decoder is not None
                found = [record_signals(decoder, generation, rules, depth) for generation in parts[number]]
                joined = {name: np.concatenate([signals[name] for signals in found]) for name in rules}
                write_shard({name: torch.from_numpy(joined[name]) for name in rules}, shard_file(folder, number))
                progress.update()
    shards = [load_signals(shard_file(folder, number), part, rules, depth) for number, part in enumerate(parts)]
    return {name: torch.cat([shard[name] for shard in shards]).numpy() for name in rules}


def load_signals(
    file: Path, generations: Sequence[RecordedGeneration], rules: dict[str, Policy], depth: int
) -> dict[str, torch.Tensor]:
    """A shard, of these generations; raises InputError if it is damaged."""
    shard, rows = read_shard(file, dict.fromkeys(rules, (torch.float32, 2))), sum(g.positions for g in generations)
    if any(shard[name].shape != (rows, depth) for name in rules):
        raise InputError(f"{file} is damaged: its signals are not of these traces; delete it, and run again")
    return shard


def digest(generations: Sequence[RecordedGeneration]) -> str:
    """A hash of the answers that the traces are of."""
    facts = [
        [g.task, g.question_id, g.turn, g.prompt_length, g.tokens.tolist(), *sampled]
        for g in generations
        for sampled in [[asdict(g.sampling)] if g.sampling.temperature else []]
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


@torch.inference_mode()
def record_signals(
    decoder: Decoder, generation: RecordedGeneration, rules: dict[str, Policy], depth: int
) -> dict[str, NDArray[np.float32]]:
    """float32 (P, D) by rule, of one generation.

    Raises:
        InputError: no draft, or not the one that the traces were recorded with.
    """
    if decoder.draft is None:
        raise InputError("the rules look at a draft, so there must be one; name a head, or leave the shipped one")
    draft = at_width(decoder.draft, generation.width)
    found = {name: np.zeros((generation.positions, depth), dtype=np.float32) for name in rules}
    calls = {name: stopping(rule) for name, rule in rules.items()}
    levels: dict[str, list[torch.Tensor]] = {name: [] for name in rules}

    def look(tree: DraftTree) -> None:
        for name, call in calls.items():
            levels[name].append(call.signal(tree).float().cpu())

    # The signal of the deepest level is never asked for.
    trees = draft_everywhere(
        decoder, draft, generation.tokens.tolist(), generation.prompt_length, depth - 1, ROWS, generation.sampling, look
    )
    for first, tree in trees:
        block = slice(first, first + len(tree.roots))
        recorded = generation.scores[block, : tree.scores.shape[1]]
        if np.abs(tree.scores.cpu().numpy() - recorded).mean() > ALIKE:
            raise InputError("these traces were recorded with another draft or target than the one that is loaded")
        for name, columns in levels.items():
            found[name][block] = torch.stack(columns, dim=1).numpy()
            columns.clear()
    return found


def stopping(rule: Policy) -> StopsBySignal:
    """A rule that stops by a signal, for one call."""
    call = rule.start(1)
    assert isinstance(call, StopsBySignal)
    return call


def depths_of(rule: Policy, signals: Floats) -> NDArray[np.int64]:
    """int64 (P,): the depth that a rule stops at everywhere, from its signals float32 (P, D); its max_depth is ≤ D."""
    call = stopping(rule)
    seen = torch.from_numpy(signals[:, : rule.max_depth]).double()
    stops = ~call.goes_on(seen).numpy()
    stops[:, [not call.looks(depth + 1) for depth in range(rule.max_depth)]] = False
    depths: NDArray[np.int64] = np.where(stops.any(axis=1), stops.argmax(axis=1), rule.max_depth)
    return depths
