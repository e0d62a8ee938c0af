"""The draft tree of one cycle: fixed buffers that the operators fill."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ltd import ops
from ltd._C import count_sources
from ltd.common.argument_types import as_whole
from ltd.errors import InputError
from ltd.lookup import MAX_TEXT, MAX_TEXT_DEPTH, TextCandidates
from ltd.noise import SharedNoise

MAX_WIDTH = 16
MAX_DEPTH = 12
MAX_SIZE = 512
MAX_CANDIDATES = 2048
MAX_GAIN = 1 + max(MAX_DEPTH + 1, MAX_TEXT_DEPTH)  # the root, and the levels of the deeper of both kinds of trees
NOT_ASKED = -1  # the depth of a cycle in which the draft is not asked


def candidate_count(width: int, depth: int) -> int:
    """Candidates of a tree after `depth` expansions beyond the root's own: W + D * W²; none at depth -1."""
    return width + depth * width * width if depth >= 0 else 0


@dataclass(frozen=True, slots=True)
class TreeNodes:
    """The part of a tree that goes to verification: N = V + 1 nodes, root first, parents before children.

    Attributes:
        tokens: int64 (B, N).
        parents: int32 (B, N), node indices; -1 for the root.
        positions: int64 (B, N), in the sequence.
        masks: int64 (B, N, words), bit j of a node's words: node j is it or an ancestor.
        first_child, next_sibling: int32 (B, N), node indices in the order of the candidates; -1 for none.
        candidates: int32 (B, N), the candidate behind each node; -1 for the root.
    """

    tokens: torch.Tensor
    parents: torch.Tensor
    positions: torch.Tensor
    masks: torch.Tensor
    first_child: torch.Tensor
    next_sibling: torch.Tensor
    candidates: torch.Tensor


class DraftTree:
    """Candidates found so far in this cycle, and the beam that grows them.

    The draft's candidates lie level by level: first the W children of the root, then W² per expansion, where child j of
    beam row r is at offset + r * W + j. Behind them, once they are merged, lie those of the text that the draft lacks.

    Args:
        batch: sequences B.
        width: beam width W, 1 … 16.
        max_depth: expansions after the root's own draft forward, 0 … 12.
        max_size: nodes that may be verified, without the root, 0 … 512.
        device: of all buffers.
        max_text: candidates of the text that may be merged, 0 … 64.

    Raises:
        InputError: a number out of range, or more than 2,048 candidates.

    Attributes:
        tokens: int64 (B, C); scores: float32 (B, C), cumulative log-probabilities under the draft;
        parents: int32 (B, C), candidate indices, -1 = root.
        sources: int8 (B, C), after `merge`: who proposed each candidate, 1 the draft, 2 the text, 3 both; 0 where a
            column is of no candidate.
        text: the candidates of the text in this cycle, for policies to read; None where no text is looked up.
        beam_nodes: int32 (B, levels, W), the candidates in each level's beam.
        beam_rows: int64 (B, W), where each beam row's parent stood in the level before.
        beam_tokens: int64 (B, W).
        beam_masks: int64 (B, levels, W, words), each beam row's ancestors-or-self among the draft's own tree rows.
        levels: levels drafted so far (0 before the first).
        counts: candidates of a tree with 0, 1, 2 … levels.
        root_states: floating type (B, 1, H), the draft's states at the roots, for policies to read; None before the
            draft has begun, and of a draft without any.
        states_number: another one whenever root_states are, also where those are new in the same memory.
        logits: floating type (B, rows, Vd), what the newest level was chosen from: rows = 1, the root's, or W, those of
            the beam before it (`parents_of_newest`). For policies to read; None before the first level.
        states: floating type (B, rows, H), the draft's states at the same rows; None of a draft without any.
    """

    def __init__(
        self, batch: int, width: int, max_depth: int, max_size: int, device: torch.device, max_text: int = 0
    ) -> None:
        check_tree_limits(width, max_depth, max_size, max_text)
        self.limits = (batch, width, max_depth, max_size)
        self.width, self.max_size, self.max_text = width, max_size, max_text
        capacity, levels, nodes = candidate_count(width, max_depth) + max_text, max_depth + 1, max_size + 1

        def new(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
            return torch.zeros(batch, *shape, dtype=dtype, device=device)

        self.tokens, self.parents = new(capacity, dtype=torch.int64), new(capacity)
        self.scores = new(capacity, dtype=torch.float32)
        self.sources, self._appended = new(capacity, dtype=torch.int8), new()
        self._appended_here = self._appended.numpy().data if device.type == "cpu" else None
        self.beam_nodes, self.beam_rows = new(levels, width), new(width, dtype=torch.int64)
        self.beam_tokens = new(width, dtype=torch.int64)
        self.beam_masks = new(levels, width, words(levels * width), dtype=torch.int64)
        self.roots, self.lengths = new(dtype=torch.int64), new()
        self.nodes = TreeNodes(
            tokens=new(nodes, dtype=torch.int64),
            parents=new(nodes),
            positions=new(nodes, dtype=torch.int64),
            masks=new(nodes, words(nodes), dtype=torch.int64),
            first_child=new(nodes),
            next_sibling=new(nodes),
            candidates=new(nodes),
        )
        self._alone = own_bits(nodes, device)
        self.levels = 0
        self._merged = 0
        self.text: TextCandidates | None = None
        self.states_number = 0
        self.root_states = None
        self.logits: torch.Tensor | None = None
        self.states: torch.Tensor | None = None
        self.counts = (0, *(candidate_count(width, depth) for depth in range(levels)))

    @property
    def root_states(self) -> torch.Tensor | None:
        """See the attributes."""
        return self._root_states

    @root_states.setter
    def root_states(self, states: torch.Tensor | None) -> None:
        self._root_states = states
        self.states_number += 1

    @property
    def drafted(self) -> int:
        """Candidates drafted so far."""
        return self.counts[self.levels]

    @property
    def candidates(self) -> int:
        """Candidates drafted so far, and those of the text once they are merged."""
        return self.counts[self.levels] + self._merged

    @property
    def newest_scores(self) -> torch.Tensor:
        """float32 (B, W or W²): the scores of the newest level; (B, 0) before the first."""
        return self.scores[:, self.newest_from : self.drafted]

    @property
    def newest_from(self) -> int:
        """The first candidate of the newest level."""
        return self.counts[self.levels - 1] if self.levels else 0

    @property
    def parents_of_newest(self) -> torch.Tensor | None:
        """int32 (B, W): the candidates that the newest level grew from, row by row; None where that is the root."""
        return self.beam_nodes[:, self.levels - 2] if self.levels > 1 else None

    def begin(self, roots: torch.Tensor, lengths: torch.Tensor, text: TextCandidates | None = None) -> None:
        """Starts a new cycle: int64 (B,) root tokens at the positions int32 (B,) lengths, which are copied.

        Args:
            text: what the text proposes; None where nothing is looked up.
        """
        self.roots.copy_(roots)
        self.lengths.copy_(lengths)
        self.text = text
        self.levels = self._merged = 0
        self.root_states = self.logits = self.states = None

    def expand(self, logits: torch.Tensor, d2t: torch.Tensor | None, shared: SharedNoise | None = None) -> None:
        """Adds a level from draft logits (B, rows, Vd), rows = 1 for the root and W after; chooses the next beam.

        Args:
            d2t: int64 (Vd,) offsets from draft ids to target ids, or None if they are the same.
            shared: the noise that the target's tokens are drawn with; None where they are its likeliest.
        """
        self.draw(logits, d2t, shared)
        self.grown(logits)

    def draw(self, logits: torch.Tensor, d2t: torch.Tensor | None, shared: SharedNoise | None = None) -> None:
        """What `expand` does on the device; `grown` must follow."""
        level = (
            logits,
            d2t,
            self.levels,
            self.tokens,
            self.scores,
            self.parents,
            self.beam_nodes,
            self.beam_rows,
            self.beam_tokens,
            self.beam_masks,
        )
        if shared is None:
            ops.expand_beam(*level)
        else:
            sharpness = shared.sharpness_at(self.levels)
            ops.expand_beam(*level, shared.noise, self.lengths, shared.temperature, sharpness)

    def grown(self, logits: torch.Tensor) -> None:
        """What `expand` does on the host, once a level was drawn from the logits."""
        self.logits = logits
        self.levels += 1

    def merge(self) -> None:
        """Puts the text's candidates beside the draft's; drafting must have ended.

        A candidate that both propose stands once, with the better of the two scores. A batch has room for the row with
        most of them, and in other rows what is left scores -inf.
        """
        assert self.text is not None, "there is no text to merge"
        ops.merge_text(
            self.text.tokens,
            self.text.parents,
            self.text.scores,
            self.text.counts,
            self.drafted,
            self.roots,
            self.tokens,
            self.scores,
            self.parents,
            self.sources,
            self._appended,
        )
        # How many there are is known on the host without waiting only if that is where they were counted.
        appended = self.text.counts_list if self._appended_here is None else self._appended_here
        self._merged = max(appended)

    def count_sources(self, path: torch.Tensor, kept: list[int]) -> list[int]:
        """How many of the accepted candidates the draft alone, the text alone and both proposed: three numbers.

        What only filled up a column of the merged tree counts for none of them. For trees that the host sees; others
        have `write_sources`.

        Args:
            path: int32 (B, P), the accepted nodes of the tree that `select` chose last, the root first.
            kept: how many of the nodes behind the root count, per sequence. Where it is none in all of them nothing
                is looked at, and there need not have been a merge.
        """
        if not any(kept):
            return [0, 0, 0]
        return count_sources(self.sources, self.nodes.candidates, path, kept)

    def verified_size(self, size: int) -> int:
        """How many candidates `select` takes where it is asked for so many: all, if there are fewer."""
        return min(size, self.candidates)

    def select(self, size: int, room: int = 0) -> TreeNodes:
        """The `size` best-scored candidates (all, if there are fewer) with the root, as views of the tree's buffers.

        Args:
            room: of how many candidates the nodes have room, where that is more. What stands behind the others is in
                nobody's sight and on no path.

        Raises:
            InputError: one of both is negative, or more than the tree was made for.
        """
        for count in (size, room):
            if not 0 <= count <= self.max_size:
                raise InputError(f"size {count} is out of range; this tree verifies 0 … {self.max_size} candidates")
        count = self.verified_size(size) + 1
        nodes = self._columns(0, count)
        ops.select_tree(
            self.tokens,
            self.scores,
            self.parents,
            self.candidates,
            self.roots,
            self.lengths,
            nodes.tokens,
            nodes.parents,
            nodes.positions,
            nodes.masks,
            nodes.first_child,
            nodes.next_sibling,
            nodes.candidates,
        )
        if room < count:
            return nodes
        self._stand_alone(self._columns(count, room + 1), count)
        return self._columns(0, room + 1)

    def _columns(self, first: int, end: int) -> TreeNodes:
        """The nodes first … end - 1."""
        whole = self.nodes
        return TreeNodes(
            tokens=whole.tokens[:, first:end],
            parents=whole.parents[:, first:end],
            positions=whole.positions[:, first:end],
            masks=whole.masks[:, first:end],
            first_child=whole.first_child[:, first:end],
            next_sibling=whole.next_sibling[:, first:end],
            candidates=whole.candidates[:, first:end],
        )

    def _stand_alone(self, nodes: TreeNodes, first: int) -> None:
        """Makes nodes, number `first` and the next, that see themselves alone and are nobody's children."""
        nodes.tokens.copy_(self.roots[:, None].expand_as(nodes.tokens))
        nodes.positions.copy_(self.lengths[:, None].expand_as(nodes.positions))
        nodes.masks.copy_(self._alone[first : first + nodes.masks.shape[1]].expand_as(nodes.masks))
        for links in (nodes.parents, nodes.first_child, nodes.next_sibling, nodes.candidates):
            links.fill_(-1)

    def write_sources(self, nodes: TreeNodes, path: torch.Tensor, sources: torch.Tensor) -> None:
        """Who proposed the nodes of a path, see `sources`.

        Args:
            nodes: that were selected last.
            path: int32 (B, P), any of them. sources: int8 (B, P), written; arbitrary at the root.
        """
        # Behind the end of a path may stand nodes of a larger tree.
        chosen = nodes.candidates.gather(1, path.clamp(max=nodes.tokens.shape[1] - 1).long())
        torch.gather(self.sources, 1, chosen.clamp(min=0).long(), out=sources)


def words(bits: int) -> int:
    """64-bit words for so many bits."""
    return -(-bits // 64)


def own_bits(count: int, device: torch.device) -> torch.Tensor:
    """int64 (count, words): in row j the bit j alone."""
    rows = torch.arange(count, device=device)
    bits = torch.zeros(count, words(count), dtype=torch.int64, device=device)
    bits[rows, rows // 64] = torch.ones_like(rows) << (rows % 64)
    return bits


def check_tree_limits(width: int, max_depth: int, max_size: int, max_text: int = 0) -> None:
    """Raises InputError if a tree of this width, depth and size, and so many candidates of the text, cannot be."""
    for name, value, low, high in (
        ("beam width", width, 1, MAX_WIDTH),
        ("depth", max_depth, 0, MAX_DEPTH),
        ("size", max_size, 0, MAX_SIZE),
        ("number of candidates of the text", max_text, 0, MAX_TEXT),
    ):
        if not low <= as_whole(value, name) <= high:
            raise InputError(f"{name} {value} is out of range; it must be {low} … {high}")
    if (count := candidate_count(width, max_depth) + max_text) > MAX_CANDIDATES:
        raise InputError(
            f"beam width {width} at depth {max_depth} makes {count} candidates; "
            f"at most {MAX_CANDIDATES} fit, so lower one of the two"
        )


def root_only(tokens: torch.Tensor, positions: torch.Tensor) -> TreeNodes:
    """The tree of one node per sequence: int64 (B,) tokens at int64 (B,) positions."""
    none = torch.full((len(tokens), 1), -1, dtype=torch.int32, device=tokens.device)
    masks = torch.ones(len(tokens), 1, 1, dtype=torch.int64, device=tokens.device)
    return TreeNodes(tokens[:, None], none, positions[:, None], masks, none, none, none)
