"""Made-up traces of texts in few words, in which the head and the text propose the same now and then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ltd.lookup import MAX_TEXT_DEPTH, TEXT_FEATURES
from ltd.tree import candidate_count
from ltd_rl.traces.format import RecordedGeneration, continuations, level_starts, path_ranks
from ltd_rl.traces.record import find_path
from ltd_rl.traces.text import TextProposals

WORDS, MANY_WORDS = 5, 40
Array = np.ndarray[Any, Any]


def made_text(
    seed: int, positions: int, width: int = 3, depth: int = 2, task: str = "made"
) -> tuple[RecordedGeneration, Array]:
    """A generation with a head's trees, scores in steps of a half so that many are equal; and the parents (P, C)."""
    generator = np.random.default_rng(seed)
    prompt = int(generator.integers(3, 12))
    tokens = generator.integers(0, WORDS, prompt + positions + 1)

    def any_words(wanted: int | None, position: int) -> tuple[Array, Array]:
        drops = np.cumsum(generator.integers(0, 3, width)) / 2
        return generator.permutation(WORDS)[:width], drops

    return grown(seed, generator, tokens, prompt, any_words, width, depth, task)


def made_copies(seed: int, positions: int, width: int = 3, depth: int = 3, task: str = "made") -> RecordedGeneration:
    """A generation that repeats itself now and then, and a head that is right as often as it says.

    Where the text repeats itself the text's candidates are right; the head is good at some places and bad at others.
    """
    generator, phrases = np.random.default_rng(seed), np.random.default_rng(7).integers(0, MANY_WORDS, (4, 12))
    prompt = int(generator.integers(20, 60))
    tokens: list[int] = []
    while len(tokens) < prompt + positions + 1:
        if generator.random() < 0.4:
            tokens += phrases[generator.integers(4), : generator.integers(5, 13)].tolist()
        else:
            tokens += generator.integers(0, MANY_WORDS, generator.integers(4, 16)).tolist()
    skills = np.repeat(generator.choice([0.1, 0.5, 0.9], positions // 8 + 1), 8)

    def skilled(wanted: int | None, position: int) -> tuple[Array, Array]:
        others = generator.permutation(MANY_WORDS)
        skill = skills[position]
        shares = np.array([skill, *np.full(width - 1, (1 - skill) / width)])
        place = generator.choice(width + 1, p=[*shares, 1 - shares.sum()])
        if wanted is not None and place < width:
            others = others[others != wanted]
            others[place] = wanted
        elif wanted is not None:
            others = others[others != wanted]
        return others[:width], -np.log(shares) + generator.random(width) / 100

    return grown(seed, generator, np.array(tokens[: prompt + positions + 1]), prompt, skilled, width, depth, task)[0]


def grown(
    seed: int,
    generator: np.random.Generator,
    tokens: Array,
    prompt: int,
    propose: Callable[[int | None, int], tuple[Array, Array]],
    width: int,
    depth: int,
    task: str,
) -> tuple[RecordedGeneration, Array]:
    """A generation of these tokens with the trees of a made-up head; and the parents (P, C).

    Args:
        propose: the children's tokens and how much lower than their parent's their scores are, (W,) each, at a
            position; told the token that is right where the parent is.
    """
    positions = len(tokens) - prompt - 1
    starts, capacity = level_starts(width, depth + 1), candidate_count(width, depth)
    following = continuations(tokens, prompt + np.arange(positions), depth + 1)
    candidates, parents = np.zeros((positions, capacity), np.int32), np.full((positions, capacity), -1, np.int32)
    scores = np.zeros((positions, capacity), np.float32)
    for position in range(positions):
        beam, right = [-1], -1
        for level, first in enumerate(starts[:-1]):
            place, found = first, -2
            wanted = int(following[position, level])
            for parent in beam:
                above = 0.0 if parent < 0 else scores[position, parent]
                known = wanted if parent == right and wanted >= 0 else None
                for token, drop in zip(*propose(known, position), strict=True):
                    candidates[position, place], parents[position, place] = token, parent
                    scores[position, place] = above - drop
                    if token == known and found < 0:
                        found = place
                    place += 1
            assert place == starts[level + 1]
            beam = sorted(range(first, place), key=lambda column: (-scores[position, column], column))[:width]
            right = found
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
