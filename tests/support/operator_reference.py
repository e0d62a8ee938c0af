"""Plain references of the operators: Python lists and loops, NumPy and float64. Slow and obvious on purpose."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

# --- the draft tree, grown and chosen with Python lists in the manner of the official EAGLE code ---


@dataclass
class ListTree:
    """A draft tree of one sequence: candidates in the order they were drafted, and the beam of every level."""

    width: int
    tokens: list[int] = field(default_factory=list)
    scores: list[np.float32] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    beams: list[list[int]] = field(default_factory=list)
    beam_rows: list[int] = field(default_factory=list)

    def expand(self, logits: np.ndarray, d2t: list[int] | None) -> None:
        """Adds a level from float32 logits (rows, Vd)."""
        first = len(self.tokens)
        for row, values in enumerate(logits):
            parent = self.beams[-1][row] if self.beams else -1
            score = self.scores[parent] if self.beams else np.float32(0)
            for draft_id, log_probability in top_log_probabilities(values, self.width):
                self.tokens.append(draft_id + (d2t[draft_id] if d2t else 0))
                self.scores.append(np.float32(score + np.float32(log_probability)))
                self.parents.append(parent)
        new = range(first, len(self.tokens))
        best = sorted(new, key=lambda c: (-self.scores[c], c))[: self.width]
        self.beams.append(best)
        self.beam_rows = [(c - first) // self.width for c in best]

    def visible_beam_rows(self, level: int, column: int) -> set[int]:
        """Tree rows (level * W + column) of a beam row's ancestors and itself."""
        rows, candidate = set(), self.beams[level][column]
        while candidate >= 0:
            rows.add(level * self.width + self.beams[level].index(candidate))
            candidate, level = self.parents[candidate], level - 1
        return rows


def top_log_probabilities(logits: np.ndarray, width: int) -> list[tuple[int, float]]:
    """The `width` best (id, log-probability), best first, ties by id; NaN counts as -inf."""
    values = [-math.inf if math.isnan(v) else float(v) for v in logits]
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))[:width]
    peak = values[order[0]]
    if math.isinf(peak):
        return [(i, -math.inf) for i in order]
    log_sum = math.log(math.fsum(math.exp(v - peak) for v in values))
    return [(i, min(0.0, values[i] - peak - log_sum)) for i in order]


@dataclass
class ListNodes:
    """The verified part of a tree, root first; parents, children and siblings are node indices, -1 for none."""

    tokens: list[int]
    parents: list[int]
    depths: list[int]
    ancestors: list[set[int]]
    first_child: list[int]
    next_sibling: list[int]
    candidates: list[int]


def select_nodes(tokens: list[int], scores: list[float], parents: list[int], size: int, root: int) -> ListNodes:
    """The `size` best candidates by (score descending, index ascending), in ascending index behind the root."""
    keys = [-math.inf if math.isnan(s) else s for s in scores]
    chosen = sorted(sorted(range(len(keys)), key=lambda c: (-keys[c], c))[:size])
    node_of = {-1: 0} | {candidate: node for node, candidate in enumerate(chosen, start=1)}
    node_parents = [-1] + [node_of[parents[c]] for c in chosen]
    children: list[list[int]] = [[] for _ in node_parents]
    depths, ancestors = [0], [{0}]
    for node, parent in list(enumerate(node_parents))[1:]:
        children[parent].append(node)
        depths.append(depths[parent] + 1)
        ancestors.append(ancestors[parent] | {node})
    next_sibling = [-1] * len(node_parents)
    for siblings in children:
        for left, right in itertools.pairwise(siblings):
            next_sibling[left] = right
    return ListNodes(
        tokens=[root] + [tokens[c] for c in chosen],
        parents=node_parents,
        depths=depths,
        ancestors=ancestors,
        first_child=[c[0] if c else -1 for c in children],
        next_sibling=next_sibling,
        candidates=[-1, *chosen],
    )


def merge_lists(
    head: tuple[list[int], list[float], list[int]],
    text: tuple[list[int], list[float], list[int]],
    most: int,
    root: int,
) -> tuple[list[int], list[float], list[int], list[int], int]:
    """The text's candidates beside the head's: tokens, scores, parents and sources, and how many were appended."""
    number = lambda score: -math.inf if math.isnan(score) else score  # noqa: E731
    tokens, scores, parents = (list(part) for part in head)
    count, sources, columns = len(tokens), [1] * len(tokens), {-1: -1}
    for place, (token, score, text_parent) in enumerate(zip(*text, strict=True)):
        parent = columns[text_parent]
        same = [c for c in range(count) if parent < count and (tokens[c], parents[c]) == (token, parent)]
        columns[place] = same[0] if same else len(tokens)
        if same:
            scores[same[0]], sources[same[0]] = max(number(scores[same[0]]), number(score)), 3
            continue
        for part, value in zip((tokens, scores, parents, sources), (token, number(score), parent, 2), strict=True):
            part.append(value)
    appended = len(tokens) - count
    for _ in range(most - appended):
        for part, value in zip((tokens, scores, parents, sources), (root, -math.inf, -1, 0), strict=True):
            part.append(value)
    return tokens, scores, parents, sources, appended


# --- masks ---


def pack(sets: list[set[int]], words: int) -> Tensor:
    """int64 (len(sets), words): bit j of a row's words for every j in its set."""
    packed = np.zeros((len(sets), words), dtype=np.uint64)
    for row, members in enumerate(sets):
        for j in members:
            packed[row, j // 64] |= np.uint64(1 << (j % 64))
    return torch.from_numpy(packed.view(np.int64))


def unpack(masks: Tensor, count: int) -> Tensor:
    """bool (..., count) from int64 words (..., words)."""
    bits = (masks[..., :, None] >> torch.arange(64)) & 1
    return bits.flatten(-2)[..., :count].bool()


# --- attention ---


def visible(
    lengths: Tensor, nodes: int, tree_rows: int, capacity: int, masks: Tensor | None, positions: Tensor, window: int
) -> Tensor:
    """bool (B, N, capacity): which cache rows a query sees."""
    seen = torch.zeros(len(lengths), nodes, capacity, dtype=torch.bool)
    for b, length in enumerate(lengths.tolist()):
        seen[b, :, :length] = True
        tree = torch.ones(nodes, nodes, dtype=torch.bool).tril() if masks is None else unpack(masks[b], tree_rows)
        seen[b, :, length : length + tree_rows] = tree
        if window > 0:
            key_positions = torch.arange(capacity)
            key_positions[length : length + tree_rows] = positions[b]
            seen[b] &= positions[b][:, None] - key_positions[None, :] < window
    return seen


def attention(query: Tensor, keys: Tensor, values: Tensor, seen: Tensor, scale: float) -> Tensor:
    """float64 (B, N, Hq, head_dim); rows that see nothing are 0."""
    group = query.shape[1] // keys.shape[1]
    keys, values = (t.double().repeat_interleave(group, dim=1) for t in (keys, values))
    scores = query.double() @ keys.transpose(-1, -2) * scale
    scores = scores.masked_fill(~seen[:, None], -math.inf)
    weights = torch.softmax(scores, dim=-1).nan_to_num(0.0)
    return (weights @ values).transpose(1, 2)


# --- acceptance ---


def next_token_greedy(logits: Tensor) -> int:
    """argmax, or -1 if the row has no proper maximum."""
    if logits.isnan().any() or not logits.max().isfinite():
        return -1
    return int(logits.float().argmax())


def warped_probabilities(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """float64 probabilities after temperature, top-k and top-p, token by token."""
    scores = logits.astype(np.float64) / temperature
    if 0 < top_k < len(scores):
        scores = np.where(logits >= np.sort(logits)[-top_k], scores, -np.inf)
    weights = np.exp(scores - scores.max())
    probabilities = weights / weights.sum()
    if top_p < 1:
        kept, mass = np.zeros(len(scores), dtype=bool), 0.0
        for token in np.lexsort((np.arange(len(scores)), -scores)):
            if mass >= top_p:
                break
            kept[token] = True
            mass += probabilities[token]
        probabilities = np.where(kept, probabilities, 0.0)
    return probabilities / probabilities.sum()


def walk(nodes: ListNodes, next_token) -> tuple[list[int], list[int]]:
    """Visited nodes and the tokens gained; next_token(node) is the target's choice there, -1 to give up."""
    path, gained, node = [], [], 0
    while True:
        token = next_token(node)
        path.append(node)
        gained.append(token)
        children = [n for n, parent in enumerate(nodes.parents) if parent == node]
        matching = [n for n in children if nodes.tokens[n] == token]
        if token < 0 or not matching:
            return path, gained
        node = matching[0]


# --- policies ---


def nearest(length: int, length_range: tuple[int, int]) -> int:
    """What a policy sees of a context length: the middle one of it and the ends of the range."""
    return sorted((length, *length_range))[1]


def observation(scores: Tensor, length: int, depth: int, slots: int, repeats: int) -> Tensor:
    """float64 observation of one sequence."""
    padded = torch.zeros(slots, dtype=torch.float64)
    padded[: len(scores)] = scores.double().nan_to_num(nan=-100.0, neginf=-100.0).clamp(min=-100.0)
    rest = [torch.full((repeats,), value, dtype=torch.float64) for value in (length / 1000, depth / 10)]
    return torch.cat([padded, *rest])


def summary(scores: list[float], newest_from: int, best: int, newest: int, length: int, depth: int) -> Tensor:
    """float64 summary of one sequence, but for the state."""

    def ranked(values: list[float], count: int) -> list[float]:
        known = sorted((max(value, -20.0) if value == value else -20.0 for value in values), reverse=True)
        return (known + [-20.0] * count)[:count]

    parts = ranked(scores, best), ranked(scores[newest_from:], newest)
    exponentials = [[math.exp(value) for value in part] for part in parts]
    place = [float(depth == d) for d in range(13)]
    shown = [value / 4 for part in parts for value in part] + [value for part in exponentials for value in part]
    return torch.tensor([*shown, *map(sum, exponentials), length / 1000, *place], dtype=torch.float64)


def network(inputs: Tensor, weights: list[Tensor], uses_tanh: bool = False) -> Tensor:
    """float64 outputs of the MLP w0, b0, w1, b1, … with ReLU or tanh between."""
    between = torch.tanh if uses_tanh else torch.relu
    for i in range(0, len(weights), 2):
        inputs = weights[i].double() @ (between(inputs) if i else inputs) + weights[i + 1].double()
    return inputs


# --- random numbers ---


def philox4x32_10(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Ten rounds of Philox (Salmon et al., SC 2011) in whole numbers of any size."""
    low32 = 2**32 - 1
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        first, second = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (second >> 32) ^ c1 ^ k0, second & low32, (first >> 32) ^ c3 ^ k1, first & low32
        k0, k1 = (k0 + 0x9E3779B9) & low32, (k1 + 0xBB67AE85) & low32
    return c0, c1, c2, c3


def uniform(seed: int, position: int, row: int) -> float:
    """The number in [0, 1) that draws the token at position + 1."""
    low32, drawn = 2**32 - 1, position + 1
    words = philox4x32_10((drawn & low32, drawn >> 32, row, 0), (seed & low32, (seed >> 32) & low32))
    return (((words[0] << 32) | words[1]) >> 11) / 2**53
