"""The memory that the cycles of a request work on, and what was recorded over it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ltd.decoding.report import Report
from ltd.drafts import DraftSession
from ltd.drafts.base import RecordedDraftSession
from ltd.engine.captures import Captures, Part
from ltd.engine.kv_cache import refilled
from ltd.noise import SharedNoise
from ltd.policies import Policy, Static
from ltd.policies.base import known_sizes, text_limit
from ltd.target.target import TargetSession
from ltd.tree import MAX_GAIN, DraftTree

GAINS = (1, 2, 4, 8, MAX_GAIN)  # tokens that a draft reads at the beginning of a recorded cycle
CHEAP_ROWS = 256
"""Rows up to which a GPU's forward takes about as long as one of a single row, since it reads all weights for either.

By data sheets: in 16 bits an H100 or H200 multiplies that often in the time that it takes to read a number.
"""
SIZES = (0, 4, 8, 16, 24, 32, 48, 60)  # candidates of recorded verifications, where a policy names not all


def recorded_sizes(policy: Policy | None) -> tuple[int, ...]:
    """What a policy's sizes are rounded up to where verifications are recorded, in order; 0 is a plain cycle's.

    These are its own `sizes` and its `max_size`. Some of `SIZES` are there too where trees have other sizes as well: as
    many candidates as the text proposes, or what a policy without `sizes` chooses.
    """
    if policy is None:
        return (0,)
    own = known_sizes(policy)
    is_varied = text_limit(policy) > 0 or not (own or isinstance(policy, Static))
    steps = SIZES if is_varied else ()
    return tuple(sorted({0, *own, policy.max_size, *(size for size in steps if size < policy.max_size)}))


@dataclass(slots=True)
class Workspace:
    """What a request has to itself while it is open; all of it stays at its place in memory from cycle to cycle.

    Attributes:
        session: its sequences in the target.
        drafting: its sequences in the draft; None without one.
        tree: the buffers of its trees.
        report: those of what its verifications gain.
        shared: the noise that target and draft draw with; None where nothing is sampled.
        captures: the parts of a cycle that were recorded over these.
        recorded_for: prefixes of which lengths they were recorded for, see `ltd.engine.kv_cache.beliefs`.
        is_whole: whether no sequence has left; what was recorded is of all of them.
        recorded_drafting: the same as drafting, if that may be recorded. Its kind is looked at once, as cycles ask
            often.
    """

    session: TargetSession
    drafting: DraftSession | None
    tree: DraftTree
    report: Report
    shared: SharedNoise | None
    captures: Captures
    recorded_for: set[int] = field(default_factory=set)
    is_whole: bool = True
    recorded_drafting: RecordedDraftSession | None = field(init=False)

    def __post_init__(self) -> None:
        self.recorded_drafting = self.drafting if isinstance(self.drafting, RecordedDraftSession) else None

    @property
    def capacity(self) -> int:
        """Rows per sequence."""
        return self.session.cache.capacity

    @property
    def is_reusable(self) -> bool:
        """Whether another request gains by it: parts were recorded, and are still of its sequences."""
        return self.can_record and self.is_whole

    @property
    def can_record(self) -> bool:
        """Whether the parts of its cycles can be recorded."""
        return self.captures.records and (self.drafting is None or self.recorded_drafting is not None)

    def begin_part(self, width: int) -> Part:
        """The name of what was recorded of the draft reading so many tokens, texts being as long as they are."""
        return "begin", width, self._longest_drafting(width)

    def expand_part(self, depth: int) -> Part:
        """The same of the draft's next level, after so many."""
        return "expand", depth, self._longest_drafting((depth + 1) * self.tree.width)

    def verify_part(self, room: int) -> Part:
        """The same of a verification with room for so many candidates."""
        return "verify", room, self.session.cache.longest(room + 1)

    def walk_part(self, room: int) -> Part:
        """The same of the walk over what that verification says."""
        return "walk", room, self.session.cache.longest(room + 1)

    def _longest_drafting(self, tree_rows: int) -> int:
        return 0 if self.recorded_drafting is None else self.recorded_drafting.longest(tree_rows)

    def restart(self, believed: int = 0) -> None:
        """Forgets all sequences, as if they had just begun; for recording, with so many rows as the host believes."""
        self.session.restart(believed)
        if self.recorded_drafting is not None:
            self.recorded_drafting.restart(believed)
        self.report.clear()
        tree = self.tree
        tree.text = tree.logits = tree.states = tree.root_states = None

    def refill(self, rows: list[int]) -> None:
        """Has these sequences alone, and copies of them in the others' places: what was recorded serves them too."""
        self.session.refill(rows)
        if self.recorded_drafting is not None:
            self.recorded_drafting.refill(rows)
        if self.shared is not None:
            self.shared.refill(refilled(rows, len(self.report.rows)))
        self.report.refill(rows)

    def keep(self, rows: list[int], tree: DraftTree) -> None:
        """Drops all sequences but these. Their trees have other buffers from now on, so recordings are of no use."""
        self.session.keep(rows)
        if self.drafting is not None:
            self.drafting.keep(rows)
        if self.shared is not None:
            self.shared = self.shared.keep(rows)
        self.tree, self.report, self.is_whole = tree, self.report.keep(rows), False
        self.captures.forget()

    def close(self) -> None:
        """Its memory may go to others."""
        self.captures.forget()
        self.session.close()
        if self.drafting is not None:
            self.drafting.close()
