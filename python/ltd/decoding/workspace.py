"""The memory that the cycles of a request work on, and what was recorded over it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ltd.decoding.report import Report
from ltd.drafts import DraftSession
from ltd.drafts.base import RecordedDraftSession
from ltd.engine.captures import Captures
from ltd.noise import SharedNoise
from ltd.policies import Policy, Static
from ltd.policies.base import text_limit
from ltd.target.target import TargetSession
from ltd.tree import MAX_GAIN, DraftTree

GAINS = (1, 2, 4, 8, MAX_GAIN)  # tokens that a draft reads at the beginning of a recorded cycle
SIZES = (0, 4, 8, 16, 24, 32, 48, 60)  # candidates of recorded verifications, where a policy names not all


def recorded_sizes(policy: Policy | None) -> tuple[int, ...]:
    """What a policy's sizes are rounded up to where verifications are recorded, in order; 0 is a plain cycle's.

    These are its own `sizes` and its `max_size`. Some of `SIZES` are there too where trees have other sizes as well: as
    many candidates as the text proposes, or what a policy without `sizes` chooses.
    """
    if policy is None:
        return (0,)
    own: tuple[int, ...] = getattr(policy, "sizes", ())
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
        is_whole: whether no sequence has left; what was recorded is of all of them.
        can_draft_recorded: whether what drafts, if anything, may be recorded. Its kind is looked at once, as cycles ask
            often.
    """

    session: TargetSession
    drafting: DraftSession | None
    tree: DraftTree
    report: Report
    shared: SharedNoise | None
    captures: Captures
    is_whole: bool = True
    can_draft_recorded: bool = field(init=False)

    def __post_init__(self) -> None:
        self.can_draft_recorded = self.drafting is None or isinstance(self.drafting, RecordedDraftSession)

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
        return self.captures.records and self.can_draft_recorded

    def restart(self, for_any_length: bool = False) -> None:
        """Forgets all sequences, as if they had just begun; for recording, as texts of any length need them."""
        self.session.restart(for_any_length)
        if isinstance(self.drafting, RecordedDraftSession):
            self.drafting.restart(for_any_length)
        self.report.clear()
        tree = self.tree
        tree.text = tree.logits = tree.states = tree.root_states = None

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
