"""Compact traces: what quick training needs of recorded generations, in a few hundred bytes a position.

Whole traces (`ltd_rl.traces.format`) take 11 kB a position. Few of the candidates in them are ever verified, and of
those that the text does not propose nobody asks for the token. So this is kept, and the rest is cut:

- of the draft's trees, levels 0 … D, and in these the candidates that are among the best K of the tree of some depth;
- of scores, their order within a level exactly, and their values in steps of at most 2 % of the square root of their
  size, see `codes_of`;
- of tokens, those that the text proposes at the same place by the given scores (`ltd_rl.traces.text`), which are
  merged;
- no states of the draft.

What comes back are generations like recorded ones, for whatever replays or trains on these. A candidate that was cut
stands last, with a score that no tree of K nodes or fewer chooses. So gains of trees of up to K nodes are what they
were, but for pairs of candidates of different levels whose scores are so close that their order changed.

A folder holds `traces.json`, which says what wrote them and names the other file by its hash, and
`traces.safetensors.xz`, whose arrays are those of `Packed`.
"""

from __future__ import annotations

import lzma
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ltd.common.arrays import Floats
from ltd.common.assets import TRACES_FACTS
from ltd.common.files import content_hash
from ltd.common.json_files import check_values
from ltd.common.trained_folder import facts_file, read_facts, write_trained
from ltd.errors import InputError
from ltd.lookup import MAX_TEXT, TextScores
from ltd.policies.learned.setting import Setting
from ltd_rl.traces.arrays import Kinds, check_kinds
from ltd_rl.traces.format import FORMAT as SHARD_FORMAT
from ltd_rl.traces.format import (
    Header,
    RecordedGeneration,
    entry_of,
    level_starts,
    path_ranks,
    shallow,
    split_arrays,
)
from ltd_rl.traces.text import head_columns, propose_everywhere

FORMAT, SCHEMA = "ltd-compact-traces", 1
ARRAYS = "traces.safetensors.xz"
KEYS = ("made_for", "width", "depth", "nodes", "sha256", "generations")
LOWEST = 20.0  # scores below minus this are not told apart, except by their order
STEPS = 255  # of scores from 0 to the lowest
APART = 1e-5  # between neighbours of one level at least, so that their order is kept
CUT = -1000.0  # the score of a candidate that was cut
NOBODY = -1  # its token, and those that the text does not propose
NO_PLACE = 255
MOST_WIDTH = 15  # places of a level fit a byte
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """P positions of levels 0 … D; M candidates were kept, in order of position, level, and score from the best.

    Attributes:
        tokens: int32 (n,), prompts and answers.
        counts: uint8 (P, D + 1), how many were kept of a level.
        places: uint8 (M,), of candidates within their level.
        falls: uint8 (M,), by how many steps the score's code is above that of the candidate before, in the level.
        path: uint8 (P, D + 1), which of the kept ones of the level is on the target's continuation; 255 = none.
        merged: uint8 (M,), 1 where the text proposes it too. merged_tokens: int32 (K,), the tokens of these.
    """

    tokens: NDArray[np.int32]
    counts: Bytes
    places: Bytes
    falls: Bytes
    path: Bytes
    merged: Bytes
    merged_tokens: NDArray[np.int32]


def codes_of(scores: Floats) -> Bytes:
    """uint8: how far below 0 scores are, in steps that grow with the distance: code / 255 = sqrt(-score / 20)."""
    share = np.clip(-scores / LOWEST, 0.0, 1.0)
    codes: Bytes = np.rint(STEPS * np.sqrt(share)).astype(np.uint8)
    return codes


def scores_of(codes: Bytes) -> Floats:
    """float32: the other way round."""
    return (-LOWEST * (codes.astype(np.float64) / STEPS) ** 2).astype(np.float32)


# --- packing ---


def pack(generations: Sequence[RecordedGeneration], scores: TextScores, depth: int, nodes: int) -> Packed:
    """What is kept of recorded generations.

    Args:
        generations: of a draft whose levels have at most 255 candidates. scores: by which the text proposes. depth: D,
            no deeper than recorded. nodes: K, the largest trees whose gains stay.
    """
    cut = [shallow(generation, depth) for generation in generations]
    blocks = [block for generation in cut for block in [pack_one(generation, scores, nodes)]]
    columns = zip(*(([getattr(block, each.name) for each in fields(Packed)]) for block in blocks), strict=True)
    return Packed(*(np.concatenate(column) for column in columns))


def pack_one(generation: RecordedGeneration, scores: TextScores, nodes: int) -> Packed:
    """What is kept of one generation, which is cut to the depth already."""
    proposals = propose_everywhere(generation, scores, MAX_TEXT)
    merged = np.full(generation.scores.shape, NOBODY)
    rows, texts = np.nonzero((columns := head_columns(generation, proposals)) >= 0)
    merged[rows, columns[rows, texts]] = proposals.tokens[rows, texts]
    kept = best_of_any_depth(generation, nodes)
    starts = level_starts(generation.width, generation.depth + 1)
    counts, path = (np.zeros((generation.positions, generation.depth + 1), dtype=np.uint8) for _ in range(2))
    places, falls, tokens = [], [], []
    for position in range(generation.positions):
        for level in range(generation.depth + 1):
            block = slice(starts[level], starts[level + 1])
            there = np.flatnonzero(kept[position, block])
            mine = generation.scores[position, block][there]
            order = there[np.argsort(-mine, kind="stable")]
            node = int(generation.path[position, level]) - starts[level]
            found = np.flatnonzero(order == node)
            path[position, level] = found[0] if len(found) else NO_PLACE
            counts[position, level] = len(order)
            places.append(order)
            falls.append(np.diff(codes_of(generation.scores[position, block][order]), prepend=np.uint8(0)))
            tokens.append(merged[position, block][order])
    joined = np.concatenate(tokens)
    return Packed(
        tokens=generation.tokens,
        counts=counts,
        places=np.concatenate(places).astype(np.uint8),
        falls=np.concatenate(falls).astype(np.uint8),
        path=path,
        merged=(joined != NOBODY).astype(np.uint8),
        merged_tokens=joined[joined != NOBODY].astype(np.int32),
    )


def best_of_any_depth(generation: RecordedGeneration, nodes: int) -> NDArray[np.bool_]:
    """bool (P, C): the candidates that are among the best so many of the tree of some depth."""
    kept = np.zeros(generation.scores.shape, dtype=bool)
    for end in level_starts(generation.width, generation.depth + 1)[1:]:
        order = np.argsort(-generation.scores[:, :end], axis=1, kind="stable")[:, :nodes]
        np.put_along_axis(kept, order, True, axis=1)
    return kept


# --- unpacking ---


def check_packed(arrays: Mapping[str, NDArray[Any]], width: int, depth: int) -> Packed:
    """The arrays of a file, as `Packed` has them.

    Raises:
        ValueError: an array is missing, unknown, or of another type or shape; or what it holds cannot be.
    """
    counts = arrays.get("counts", np.zeros((0, 0)))
    positions, kept = len(counts), int(counts.sum())
    merged = int(arrays.get("merged", np.zeros(0)).sum())
    wanted: Kinds = {
        "tokens": (np.int32, (None,)),
        "counts": (np.uint8, (positions, depth + 1)),
        "path": (np.uint8, (positions, depth + 1)),
        **dict.fromkeys(("places", "falls", "merged"), (np.uint8, (kept,))),
        "merged_tokens": (np.int32, (merged,)),
    }
    check_kinds(arrays, wanted)
    packed = Packed(**arrays)
    room = np.diff(level_starts(width, depth + 1))
    if np.any(packed.counts > room) or np.any(packed.places >= np.repeat(np.resize(room, counts.size), counts.ravel())):
        raise ValueError("counts and places hold more candidates than their levels have")
    if np.any((packed.path != NO_PLACE) & (packed.path >= packed.counts)):
        raise ValueError("path holds numbers that are no candidates of their levels")
    return packed


def unpack(packed: Packed, header: Header) -> list[RecordedGeneration]:
    """Generations like the recorded ones.

    Args:
        header: as of a shard.

    Raises:
        ValueError, LookupError: the arrays do not add up.
    """
    levels = header["depth"] + 1
    starts = level_starts(header["width"], levels)
    counts = packed.counts.astype(np.int64)
    # Of every kept candidate: its position and level as one number, and its place in the order of that level.
    cells = np.repeat(np.arange(counts.size), counts.ravel())
    firsts = np.concatenate([[0], counts.ravel().cumsum()])
    order = np.arange(len(cells)) - firsts[cells]
    rows, level = np.divmod(cells, levels)
    columns = np.array(starts)[level] + packed.places
    sums = np.concatenate([[0], packed.falls.astype(np.int64).cumsum()])
    codes = (sums[1:] - sums[firsts[cells]]).astype(np.uint8)
    scores = np.full((len(counts), starts[-1]), CUT, dtype=np.float32)
    # Among equals a child comes after its parent, and a level's order is what it was.
    scores[rows, columns] = scores_of(codes) - np.float32(APART) * (level * (NO_PLACE + 1) + order)
    candidates = np.full(scores.shape, NOBODY, dtype=np.int32)
    merged = packed.merged.astype(bool)
    candidates[rows[merged], columns[merged]] = packed.merged_tokens
    found = packed.path != NO_PLACE
    path = np.full(counts.shape, -1, dtype=np.int16)
    path[found] = columns[(firsts[:-1].reshape(counts.shape) + packed.path)[found]]
    arrays: dict[str, NDArray[Any]] = {
        "tokens": packed.tokens,
        "candidates": candidates,
        "scores": scores,
        "path": path,
        "ranks": path_ranks(scores, path, header["width"]),
        "states": np.zeros((len(counts), 0), dtype=np.float16),
    }
    return split_arrays(header, arrays).generations


# --- the folder ---


@dataclass(frozen=True, slots=True, eq=False)
class CompactTraces:
    """What a folder holds.

    Attributes:
        generations: like recorded ones. nodes: K, the largest trees whose gains are right. made_for: target, head and
            dtype of the recording.
    """

    generations: list[RecordedGeneration]
    nodes: int
    made_for: Setting


def save_compact(
    folder: Path,
    generations: Sequence[RecordedGeneration],
    scores: TextScores,
    depth: int,
    nodes: int,
    made_for: Setting,
) -> None:
    """Writes what is kept of recorded generations, at least one, see `pack`; the facts last. The same bytes every time.

    Args:
        made_for: target, head, dtype and hardware of the recording.

    Raises:
        InputError: the folder cannot be written, there is no position, or the traces lack the depth.
    """
    generations = [each for each in generations if each.positions > 0]
    if not generations:
        raise InputError("there is no cycle in these traces; record longer answers")
    deepest, width = min(each.depth for each in generations), generations[0].width
    if not 0 <= depth <= deepest or nodes < 1 or width > MOST_WIDTH:
        raise InputError(
            f"depth {depth}, nodes {nodes} and width {width} cannot be: compact traces of these have a depth of 0 … "
            f"{deepest}, at least one node and a width of at most {MOST_WIDTH}"
        )
    packed = pack(generations, scores, depth, nodes)
    arrays = save({each.name: getattr(packed, each.name) for each in fields(Packed)})
    content = lzma.compress(arrays, preset=9 | lzma.PRESET_EXTREME)
    facts = {
        "format": FORMAT,
        "schema": SCHEMA,
        "made_for": asdict(made_for),
        "width": generations[0].width,
        "depth": depth,
        "nodes": nodes,
        "sha256": content_hash(content),
        "generations": [entry_of(generation) for generation in generations],
    }
    write_trained(folder, {ARRAYS: content, TRACES_FACTS: facts_file(facts)}, "the traces")


def load_compact(folder: Path) -> CompactTraces:
    """Reads it again.

    Raises:
        InputError: it is missing, damaged or of another format.
    """
    try:
        facts = read_facts(folder / TRACES_FACTS, FORMAT, SCHEMA, KEYS)
        content = (folder / ARRAYS).read_bytes()
        if content_hash(content) != facts["sha256"]:
            raise InputError(f"{ARRAYS} is not the file that {TRACES_FACTS} was written for")
        about = {name: facts[name] for name in ("width", "depth", "generations")}
        header = check_values({"format": SHARD_FORMAT, **about}, Header, TRACES_FACTS)
        packed = check_packed(load(lzma.decompress(content)), header["width"], header["depth"])
        generations = unpack(packed, header)
        return CompactTraces(generations, facts["nodes"], Setting(**facts["made_for"]))
    except (OSError, EOFError, lzma.LZMAError, SafetensorError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"the traces in {folder} cannot be used: {error}") from error
