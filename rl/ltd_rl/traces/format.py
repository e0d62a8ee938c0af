"""Traces: what every cycle that could have begun at any position of a generation would have seen and gained.

Greedy output is fixed, and so is the text that a seed samples, as the random numbers of a position follow from the seed
alone. A draft head reads true features for all accepted tokens. So the tree drafted at a position does not depend on
what was decided before, and its first levels not on how much deeper it grows.

Position p of an answer of m tokens, 0 <= p < m - 1, is the cycle whose root is token p of the answer: prompt and p
tokens are committed, so that p plus the prompt's length is what policies see as `tree.lengths`. The candidates of depth
D are those of levels 0 … D, and `select_tree` verifies the best V of them by (score descending, index ascending). A
parent comes before its children in both. Hence the accepted path is made of those of its nodes that are among the best
V, and with rank[p, D, j] = the number of candidates of depth D before the path's node of level j,

    gain(p, D, V) = 1 + number of levels j <= D with rank[p, D, j] < V,

exactly, cut at the end of the answer. That is why ranks are stored: no selection has to be repeated.

A folder of traces holds `run.jsonl`, the settings of the recording, and shards `00000.safetensors`, …, with

    candidates  int32 (P, C)               their tokens, candidates as in `DraftTree`, C = W + D * W²
    scores      float32 (P, C)             their cumulative log-probabilities
    path        int16 (P, D + 1)           the candidate of each level on the target's continuation, -1 = none
    ranks       uint16 (P, D + 1, D + 1)   [p, depth, level] as above, 65535 = none or level > depth
    states      float16 (P, H)             the draft's state at the root, which all its candidates grow from; H may be 0
    tokens      int32 (n,)                 prompt and answer of one generation after the other

for the P positions of their generations, one after the other, and one entry `ltd_traces` of metadata: JSON with the
format's number, W, D, and each generation's task, question_id, turn, prompt_length, length (of its tokens) and, where
it was sampled, its sampling: temperature, top_k, top_p and seed. At W 10 and D 12 a position takes 2 · 4840 + 26 + 338
bytes, and 2 per number of its state: 11196 with the shipped head.

Generations of different temperatures may lie in one folder. A shard of greedy ones alone has format 3, in which there
was nothing else; others have format 4.

What the text itself proposes at a position is not recorded: it follows from the tokens, see `ltd_rl.traces.text`. The
candidates' tokens are there to tell which of its proposals the head has made too. Where nothing was drafted, D is -1:
there are no candidates, no levels and no states, and a position is its token alone.

Rounding the states to float16 changes a number by at most 1 part in 2048. It is all that a policy can tell from the
decoder: one that reads states decides the same unless two of its actions are that close. All else is exact.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors.numpy import save
from typing_extensions import NotRequired, TypedDict  # pydantic needs this one before Python 3.12

from ltd.common.files import write_bytes
from ltd.common.json_files import Count, Real, Whole, parse_json
from ltd.common.shards import shard_files
from ltd.decoding.acceptance import Sampling
from ltd.errors import InputError
from ltd.tree import MAX_DEPTH, candidate_count
from ltd_rl.traces.arrays import NO_RANK, check_arrays, view_array

GREEDY_FORMAT, FORMAT = 3, 4  # the second where something was sampled
GREEDY_TEXT = Sampling()
METADATA = "ltd_traces"  # the only key: safetensors writes several in any order, and a shard's bytes shall be fixed
BY_POSITION = ("candidates", "scores", "path", "ranks", "states")  # the arrays of P rows


class SamplingEntry(TypedDict):
    """How the text of a generation was sampled, as `ltd.decoding.acceptance.Sampling` takes it."""

    temperature: Real
    top_k: Whole
    top_p: Real
    seed: Whole


class GenerationEntry(TypedDict):
    """What the metadata says of a generation; without a sampling it is greedy."""

    task: str
    question_id: str
    turn: Whole
    prompt_length: Count
    length: Count
    sampling: NotRequired[SamplingEntry]


class Header(TypedDict):
    """The metadata of a shard."""

    format: Whole
    width: Count
    depth: Annotated[int, Field(ge=-1, le=MAX_DEPTH)]
    generations: list[GenerationEntry]


@dataclass(frozen=True, slots=True, eq=False)
class RecordedGeneration:
    """One answer and all cycles it could have had; P positions, W and D of the recording.

    Attributes:
        task, question_id, turn: which question it answers; turns count from 0.
        width: W.
        prompt_length: in tokens.
        tokens: int32 (n,), prompt and answer.
        candidates: int32 (P, C). scores: float32 (P, C). path: int16 (P, D + 1). ranks: uint16 (P, D + 1, D + 1).
            states: float16 (P, H). All as in this file's head.
        sampling: how its text was chosen, with the seed where it was sampled.
    """

    task: str
    question_id: str
    turn: int
    width: int
    prompt_length: int
    tokens: NDArray[np.int32]
    candidates: NDArray[np.int32]
    scores: NDArray[np.float32]
    path: NDArray[np.int16]
    ranks: NDArray[np.uint16]
    states: NDArray[np.float16]
    sampling: Sampling = GREEDY_TEXT

    @property
    def positions(self) -> int:
        """P: the tokens of the answer but the last, after which there is no cycle."""
        return len(self.tokens) - self.prompt_length - 1

    @property
    def depth(self) -> int:
        """D, the deepest tree that was recorded; -1 where nothing was drafted."""
        return int(self.ranks.shape[1]) - 1


@dataclass(frozen=True, slots=True)
class Traces:
    """All generations of a folder, in the order of the questions.

    Attributes:
        width, depth: W and D of the recording.
        generations: their arrays are read from the files when they are used.
    """

    width: int
    depth: int
    generations: list[RecordedGeneration]

    @property
    def positions(self) -> int:
        """Of all generations together."""
        return sum(generation.positions for generation in self.generations)


def temperatures_of(generations: Iterable[RecordedGeneration]) -> list[float]:
    """The temperatures of their texts, ascending, each once; 0 is greedy."""
    return sorted({generation.sampling.temperature for generation in generations})


def bytes_per_position(width: int, depth: int, state_size: int) -> int:
    """What a position takes on disk, without its token."""
    levels = depth + 1
    return 8 * candidate_count(width, depth) + 2 * levels + 2 * levels * levels + 2 * state_size


def level_starts(width: int, depth: int) -> list[int]:
    """The first candidate of each level 0 … depth; no level at depth -1."""
    return [candidate_count(width, level - 1) for level in range(depth + 1)]


def continuations(tokens: NDArray[np.int64], roots: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """int64 (B, count): the tokens after each of the places `roots` (B,) in a text; -1 beyond its end."""
    padded = np.concatenate([tokens, np.full(count, -1)])
    following: NDArray[np.int64] = padded[roots[:, None] + 1 + np.arange(count)]
    return following


def shallow(generation: RecordedGeneration, depth: int) -> RecordedGeneration:
    """A generation as if recorded to no more than this depth, which makes replays faster."""
    depth = min(depth, generation.depth)
    count, levels = candidate_count(generation.width, depth), depth + 1
    return replace(
        generation,
        candidates=generation.candidates[:, :count],
        scores=generation.scores[:, :count],
        path=generation.path[:, :levels],
        ranks=generation.ranks[:, :levels, :levels],
    )


def path_ranks(scores: NDArray[np.float32], path: NDArray[np.int16], width: int) -> NDArray[np.uint16]:
    """The ranks of the path's nodes among the candidates of every depth, as this file's head defines them.

    Args:
        scores: float32 (P, C). path: int16 (P, D + 1), -1 = none.
        width: W.

    Returns:
        uint16 (P, D + 1, D + 1), [position, depth, level].
    """
    positions, levels = path.shape
    starts = level_starts(width, levels - 1)
    ranks = np.full((positions, levels, levels), NO_RANK, dtype=np.uint16)
    for level in range(levels):
        rows, _, _, before = taken_before(scores, path[:, level])
        if not len(rows):
            break
        counts = np.add.reduceat(before, starts, axis=1, dtype=np.int64).cumsum(axis=1)
        ranks[rows, level:, level] = counts[:, level:]
    return ranks


def taken_before(
    scores: NDArray[np.float32], nodes: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
    """Which candidates `select_tree` takes before one of them, by (score descending, index ascending).

    Args:
        scores: float32 (n, C). nodes: whole numbers (n,), the index of the one; -1 = none.

    Returns:
        rows: int64 (m,), those with one. node, score: int64 and float32 (m, 1), its index and score there. before: bool
        (m, C).
    """
    rows = np.flatnonzero(nodes >= 0)
    seen, node = scores[rows], nodes[rows, None].astype(np.int64)
    score = np.take_along_axis(seen, node, axis=1)
    before = (seen > score) | ((seen == score) & (np.arange(seen.shape[1]) < node))
    return rows, node, score, before


def save_shard(file: Path, generations: Sequence[RecordedGeneration], width: int, depth: int) -> None:
    """Writes the generations, at least one, under a temporary name, then renames."""
    entries = [entry_of(generation) for generation in generations]
    written = FORMAT if any("sampling" in entry for entry in entries) else GREEDY_FORMAT
    header = {"format": written, "width": width, "depth": depth, "generations": entries}
    arrays = {
        name: np.concatenate([getattr(generation, name) for generation in generations])
        for name in (*BY_POSITION, "tokens")
    }
    write_bytes(file, save(arrays, metadata={METADATA: json.dumps(header)}))


def entry_of(generation: RecordedGeneration) -> GenerationEntry:
    """What the metadata says of it."""
    entry: GenerationEntry = {
        "task": generation.task,
        "question_id": generation.question_id,
        "turn": generation.turn,
        "prompt_length": generation.prompt_length,
        "length": len(generation.tokens),
    }
    if generation.sampling.temperature:
        entry["sampling"] = SamplingEntry(**asdict(generation.sampling))  # type: ignore[typeddict-item]
    return entry


def load_traces(folder: str | Path) -> Traces:
    """Opens every finished shard of a folder; the arrays stay on disk, mapped into memory.

    Raises:
        InputError: there are no traces, or a shard is damaged or does not fit the others.
    """
    files = shard_files(Path(folder))
    if not files:
        raise InputError(f"there are no traces in {folder}; record some with ltd record")
    shards = [load_shard(file) for file in files]
    for file, shard in zip(files, shards, strict=True):
        if (shard.width, shard.depth) != (shards[0].width, shards[0].depth):
            raise InputError(f"{file} was recorded with another width or depth than {files[0]}; keep them apart")
    generations = [generation for shard in shards for generation in shard.generations]
    return Traces(shards[0].width, shards[0].depth, generations)


def load_shard(file: Path) -> Traces:
    """The generations of one shard.

    Raises:
        InputError: it is damaged, or of another format.
    """
    try:
        header, arrays = _map_arrays(file)
        if header["format"] not in (GREEDY_FORMAT, FORMAT):
            raise ValueError(f"its format is {header['format']}, this version reads {GREEDY_FORMAT} and {FORMAT}")
        return split_arrays(header, arrays)
    except (OSError, ValueError, LookupError, TypeError, OverflowError) as error:
        raise InputError(f"{file} cannot be read as traces ({error}); delete it and record it again") from error


def _map_arrays(file: Path) -> tuple[Header, dict[str, NDArray[Any]]]:
    """The header, and views of the mapped file. (The safetensors package would copy the arrays into memory.)"""
    content = np.memmap(file, np.uint8, mode="r")
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    entries = parse_json(content[8:start].tobytes(), dict[str, Any], "its head")
    metadata = entries.pop("__metadata__", None)
    if not isinstance(metadata, dict) or METADATA not in metadata:
        raise ValueError(f"its head lacks {METADATA}")
    header = parse_json(metadata[METADATA], Header, f"its {METADATA}")
    return header, {name: view_array(content[start:], name, entry) for name, entry in entries.items()}


def sampling_of(entry: GenerationEntry) -> Sampling:
    """How its text was chosen. Raises InputError if no text can be."""
    found = Sampling(**entry["sampling"]) if "sampling" in entry else GREEDY_TEXT
    if "sampling" in entry and (found.temperature == 0 or found.seed is None):
        raise InputError("its sampling is none: it must have a temperature above 0 and a seed")
    return found


def split_arrays(header: Header, arrays: Mapping[str, NDArray[Any]]) -> Traces:
    """Each generation's part of the arrays of a shard; ValueError if they are not as `check_arrays` wants them."""
    width, depth, entries = header["width"], header["depth"], header["generations"]
    counts = [entry["length"] - entry["prompt_length"] - 1 for entry in entries]
    if min(counts, default=0) < 0:
        raise ValueError("a generation is shorter than its prompt")
    check_arrays(arrays, width, depth, sum(counts), sum(entry["length"] for entry in entries))
    generations, token, position = [], 0, 0
    for entry, count in zip(entries, counts, strict=True):
        rows: dict[str, Any] = {name: arrays[name][position : position + count] for name in BY_POSITION}
        about: dict[str, Any] = {name: value for name, value in entry.items() if name not in ("length", "sampling")}
        about["sampling"] = sampling_of(entry)
        tokens = arrays["tokens"][token : token + entry["length"]]
        generations.append(RecordedGeneration(**about, width=width, tokens=tokens, **rows))
        token, position = token + entry["length"], position + count
    return Traces(width, depth, generations)
