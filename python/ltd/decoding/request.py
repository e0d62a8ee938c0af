"""What one call asks of the decoder, and all that is its own while it runs."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from ltd.common.out_of_memory import room_for
from ltd.decoding.acceptance import Acceptor, Draws, SampleAcceptor, Sampling, VerifiedTrees, accept_greedy
from ltd.decoding.gain import Gain
from ltd.decoding.recording import Recording
from ltd.decoding.report import Report
from ltd.decoding.speculation import Speculation
from ltd.decoding.statistics import Statistics
from ltd.decoding.stopping import StopRule, Stops
from ltd.decoding.workspace import CHEAP_ROWS, Workspace, recorded_sizes
from ltd.drafts import Draft
from ltd.drafts.base import reads_features, shared_with
from ltd.engine.captures import rounded_up
from ltd.engine.forward import Verified
from ltd.engine.kv_cache import beliefs, refilled
from ltd.engine.pool import power_of_two
from ltd.lookup import MAX_TEXT_DEPTH
from ltd.noise import SharedNoise
from ltd.ops import Noise
from ltd.target.target import Target, TargetSession
from ltd.tree import MAX_GAIN, DraftTree, TreeNodes


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What a call says beside its prompts and what drafts, as `ltd.decoding.decoder.Decoder.generate` takes it."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop_token_ids: Sequence[int] | None = None

    def sampling(self) -> Sampling:
        """How tokens are chosen; raises InputError as that does, and warns of what changes nothing.

        A seed without a temperature is nothing to warn of: the text is the same whenever it is asked for.
        """
        sampling = Sampling(self.temperature, self.top_k, self.top_p, self.seed)
        if sampling.temperature == 0.0 and (sampling.top_k > 0 or sampling.top_p < 1.0):
            warnings.warn(
                "top_k and top_p change nothing at temperature 0, which is greedy; give a temperature to sample",
                stacklevel=4,  # whoever called `generate` or `stream`
            )
        return sampling

    def stops(self, prompts: list[list[int]], stop_ids: Sequence[int], max_length: int) -> StopRule:
        """When answers end; raises InputError as `StopRule.usual` does.

        Args:
            stop_ids: unless the call says otherwise. max_length: of prompt and answer together.
        """
        usual = stop_ids if self.stop_token_ids is None else self.stop_token_ids
        return StopRule.usual(prompts, usual, self.max_new_tokens, max_length)


@dataclass(slots=True)
class Request:
    """What one call wants, and its answers.

    Attributes:
        prompts: token ids.
        accept: chooses the target's tokens along a tree.
        stops: says when an answer ends.
        speculation: what drafts; None is plain decoding.
        answers: the new tokens so far, per prompt.
        statistics: of this call.
        least_room: for how many candidates all verifications have room at least, plain cycles' too.
        draws: what is random in it; None is nothing.
        sizes: what verifications are rounded up to where they are recorded, in order.
        workspace: its memory, while it is open.
        was_run: whether a decoder was told to run it, which can be done once.
    """

    prompts: list[list[int]]
    accept: Acceptor
    stops: Stops
    speculation: Speculation | None
    least_room: int = 0
    draws: Draws | None = None
    sizes: tuple[int, ...] = field(init=False)
    answers: list[list[int]] = field(init=False)
    statistics: Statistics = field(init=False)
    workspace: Workspace = field(init=False, repr=False)
    was_run: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        sizes = recorded_sizes(None if self.speculation is None else self.speculation.policy)
        self.sizes = tuple(sorted({max(size, self.least_room) for size in sizes}))
        self.answers = [[] for _ in self.prompts]
        self.statistics = Statistics(sum(map(len, self.prompts)), sequences=len(self.prompts))

    @property
    def tree_limits(self) -> tuple[int, int, int]:
        """Beam width, depth and size of the largest tree; in plain decoding there is only ever the root."""
        width, depth, size = self.speculation.limits if self.speculation is not None else (1, 0, 0)
        return width, depth, max(size, self.least_room)

    @property
    def capacity(self) -> int:
        """Cache rows for the longest sequence, what a last cycle may gain beyond its end, and the largest tree.

        Where a draft reads longer gains of others, what it writes behind the sequence fits there too, see `in_runs`.
        """
        longest = max(len(prompt) + self.stops.limit(row) for row, prompt in enumerate(self.prompts))
        width, depth, size = self.tree_limits
        return longest + MAX_GAIN + max(size + 1, (depth + 1) * width)

    @property
    def kind(self) -> Hashable:
        """What requests have in common that can use one workspace, but for its capacity: also what is recorded as a
        number. A seed is none."""
        draft, text = None if self.speculation is None else self.speculation.draft, self.max_text
        walk = self.accept if self.is_recorded_walk else None
        return len(self.prompts), self.tree_limits, text, self.sizes, id(draft), walk, self.temperature

    @property
    def temperature(self) -> float:
        """Of its texts; 0 is greedy."""
        return 0.0 if self.draws is None else self.draws.temperature

    @property
    def max_text(self) -> int:
        """The most candidates of the text in a tree."""
        return 0 if self.speculation is None else self.speculation.max_text

    @property
    def is_recorded_walk(self) -> bool:
        """Whether accepting can be recorded: other walks go by what the host decides."""
        return self.accept is accept_greedy or isinstance(self.accept, SampleAcceptor)

    @property
    def noise(self) -> Noise | None:
        """Of its sequences; None where nothing is sampled."""
        shared = self.workspace.shared
        return None if shared is None else shared.noise

    @property
    def session(self) -> TargetSession:
        """Its sequences in the target."""
        return self.workspace.session

    @property
    def tree(self) -> DraftTree:
        """The buffers of its trees."""
        return self.workspace.tree

    @property
    def report(self) -> Report:
        """The buffers of what its verifications gain."""
        return self.workspace.report

    def room(self, tree: DraftTree, size: int) -> int:
        """For how many candidates a verification of the `size` best has room."""
        least = max(tree.verified_size(size), self.least_room)
        return rounded_up(least, self.sizes) if self.workspace.can_record else least

    def walk(self, nodes: TreeNodes, verified: Verified) -> None:
        """What a verified tree gains, and the next roots; on the device alone, unless the host must be asked."""
        report = self.report
        self.accept(VerifiedTrees(verified.logits, nodes, report, self.noise))
        if self.tree.max_text and report.is_apart:
            self.tree.write_sources(nodes, report.path, report.sources)
        report.finish(verified.features, self.session.features)

    def commit(self) -> None:
        """Makes what the walk came to part of the prefix, on the device alone."""
        self.session.commit(self.report.path, self.report.gained)

    def new_tree(self, batch: int, device: torch.device) -> DraftTree:
        """Buffers for the trees of so many sequences."""
        return DraftTree(batch, *self.tree_limits, device, self.max_text)

    def new_noise(self, target: Target, draft: Draft | None) -> SharedNoise | None:
        """Room for the noise of the places that a tree of these sequences can reach; None where nothing is sampled."""
        if self.draws is None:
            return None
        _, depth, _ = self.tree_limits
        deepest = max(0 if draft is None else depth + 1, MAX_TEXT_DEPTH if self.max_text else 0)
        batch, capacity = len(self.prompts), power_of_two(int(deepest) + 1)
        noise = Noise.new(batch, target.vocab_size, range(batch), target.device, capacity)
        return shared_with(draft, noise, self.draws.temperature)

    def new_workspace(self, target: Target, capacity: int) -> Workspace:
        """Memory of its own, with so many rows per sequence, over which the parts of its cycles may be recorded.

        Where the target's parts are recorded, the rows are a power of two: recording is dear, and so the next request
        has room there too if its text is a little longer.
        """
        batch, device, captures = len(self.prompts), target.device, target.captures()
        if captures.records:
            capacity = power_of_two(capacity)
        draft = None if self.speculation is None else self.speculation.draft
        self.workspace = Workspace(
            target.session(batch, capacity, tap=reads_features(draft)),
            None if draft is None else draft.start(batch, capacity),
            self.new_tree(batch, device),
            Report(range(batch), device),
            self.new_noise(target, draft),
            captures,
        )
        return self.workspace

    def record(self) -> None:
        """Records the parts of its cycles for all lengths that its texts may come to, unless that was done before.

        It is done before the texts begin: the state is lost by it, and nobody waits for it in the middle of an answer.
        """
        if not self.workspace.can_record:
            return
        walk = self.walk if self.is_recorded_walk else None
        # From the shortest prompt on, as a batch's longest sequence may leave it first. A draft has read one token less
        # than the target when it begins.
        passed = beliefs(min(map(len, self.prompts)) - 1, self.capacity)
        Recording(self.workspace, self.speculation, self.sizes, walk, self.commit).run(passed)

    @contextmanager
    def open(self, target: Target, capacity: int | None = None) -> Iterator[None]:
        """Gives the request sequences of its own in target and draft, and the buffers of its trees, for a while.

        Args:
            target: to decode with.
            capacity: rows per sequence; None is what it needs.

        Raises:
            InputError: there is too little memory for them.
        """
        rows, kind = self.capacity if capacity is None else capacity, self.kind
        with target.turn:  # while a new one is recorded, nobody else may work on the device
            make = partial(target.with_memory, partial(self.new_workspace, target, rows))
            with room_for(len(self.prompts), rows):
                self.workspace = target.workspaces.take(kind, rows, make)
            if target.records:
                self.record()
            if self.draws is not None and self.noise is not None:
                self.noise.restart(self.draws.seed, range(len(self.prompts)))
        try:
            if self.speculation is not None:
                self.speculation.start(self.prompts, self.workspace, self.temperature)
            yield
        finally:
            target.workspaces.give_back(kind, self.workspace)

    def keep(self, rows: list[int], gain: Gain) -> Gain:
        """Drops all sequences but these, in ascending order; the last gain, as the next cycle needs it.

        Where what was recorded should go on being of use, the batch stays as it is, with copies in the others' places.
        """
        places = rows
        if self.is_refilled(len(rows)):
            places = refilled(rows, len(self.report.rows))
            self.workspace.refill(rows)
            kept = replace(gain, accepted=gain.accepted.refilled(places))
        else:
            kept = gain.keep(rows)
            self.workspace.keep(rows, self.new_tree(len(rows), self.tree.roots.device))
        if self.speculation is not None:
            self.speculation.keep(places)
        return kept

    def is_refilled(self, count: int) -> bool:
        """Whether a batch of which so many sequences are left is refilled with copies of them.

        Calling what was recorded costs more than computing some rows for nothing: up to as many as are of use, or,
        where all are few, any. A copy does what its original does, with the same noise, so it needs no care; but where
        the host decides, it may not.
        """
        batch = len(self.report.rows)
        is_cheap = batch <= 2 * count or batch * (self.sizes[-1] + 1) <= CHEAP_ROWS
        return self.workspace.can_record and self.is_recorded_walk and is_cheap
