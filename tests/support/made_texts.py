"""Made-up traces of texts in few words, in which the head and the text propose the same now and then."""

from __future__ import annotations

from typing import Any

import numpy as np

from ltd.lookup import MAX_TEXT_DEPTH, TEXT_FEATURES
from ltd.tree import candidate_count
from ltd_rl.traces.format import RecordedGeneration, continuations, level_starts, path_ranks
from ltd_rl.traces.record import find_path
from ltd_rl.traces.text import TextProposals

WORDS = 5
Array = np.ndarray[Any, Any]


def made_text(
    seed: int, positions: int, width: int = 3, depth: int = 2, task: str = "made"
) -> tuple[RecordedGeneration, Array]:
    """A generation with a head's trees, scores in steps of a half so that many are equal; and the parents (P, C)."""
    generator = np.random.default_rng(seed)
    prompt = int(generator.integers(3, 12))
    tokens = generator.integers(0, WORDS, prompt + positions + 1)
    starts, capacity = level_starts(width, depth + 1), candidate_count(width, depth)
    candidates, parents = np.zeros((positions, capacity), np.int32), np.full((positions, capacity), -1, np.int32)
    scores = np.zeros((positions, capacity), np.float32)
    for position in range(positions):
        beam = [-1]
        for level, first in enumerate(starts[:-1]):
            place = first
            for parent in beam:
                above = 0.0 if parent < 0 else scores[position, parent]
                drops = np.cumsum(generator.integers(0, 3, width)) / 2
                for token, drop in zip(generator.permutation(WORDS)[:width], drops, strict=True):
                    candidates[position, place], parents[position, place] = token, parent
                    scores[position, place] = above - drop
                    place += 1
            assert place == starts[level + 1]
            beam = sorted(range(first, place), key=lambda column: (-scores[position, column], column))[:width]
    following = continuations(tokens, prompt + np.arange(positions), depth + 1)
    path = find_path(candidates.astype(np.int64), parents, following, starts)
    generation = RecordedGeneration(
        task=task,
        question_id=str(seed),
        turn=0,
        width=width,
        prompt_length=prompt,
        tokens=tokens.astype(np.int32),
        candidates=candidates,
        scores=scores,
        path=path,
        ranks=path_ranks(scores, path, width),
        states=generator.normal(size=(positions, 2)).astype(np.float16),
    )
    return generation, parents


def made_proposals(seed: int, generation: RecordedGeneration, most: int = 12) -> TextProposals:
    """Random tries, often along what was written; scores as those of `made_text`."""
    generator, count = np.random.default_rng(seed), generation.positions
    found = TextProposals(
        tokens=np.zeros((count, most), np.int64),
        parents=np.full((count, most), -1, np.int32),
        scores=np.full((count, most), -np.inf, np.float32),
        chances=np.zeros((count, most), np.float32),
        counts=generator.integers(0, most + 1, count).astype(np.int32),
        features=generator.random((count, TEXT_FEATURES)).astype(np.float32),
        cells=generator.integers(0, 288, (count, most)).astype(np.int32),
    )
    for position in range(count):
        here = generation.prompt_length + position
        after = generation.tokens[here + 1 :].tolist()
        nodes: list[tuple[int, int, float, int]] = []  # token, parent, score, level
        while len(nodes) < found.counts[position]:
            parent = len(nodes) - 1 if generator.random() < 0.6 else int(generator.integers(-1, len(nodes)))
            _, _, score, level = nodes[parent] if parent >= 0 else (0, 0, 0.0, -1)
            known = level + 1 < len(after) and generator.random() < 0.7
            token = after[level + 1] if known else int(generator.integers(WORDS))
            taken = any(node[:2] == (token, parent) for node in nodes)
            if not taken and level + 1 < MAX_TEXT_DEPTH:
                nodes.append((token, parent, score - generator.integers(0, 3) / 2, level + 1))
            elif level + 1 == MAX_TEXT_DEPTH:
                found.counts[position] = len(nodes)
        order = sorted(range(len(nodes)), key=lambda node: -nodes[node][2])  # stable, so that parents stay first
        for place, node in enumerate(order):
            token, parent, score, _ = nodes[node]
            found.tokens[position, place], found.scores[position, place] = token, score
            found.parents[position, place] = -1 if parent < 0 else order.index(parent)
            found.chances[position, place] = np.exp(score) * 0.9
    return found
