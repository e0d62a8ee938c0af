"""Recording the parts of a request's cycles, before its texts begin: see `ltd.engine.captures`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ltd.decoding.speculation import Speculation
from ltd.decoding.workspace import GAINS, Workspace
from ltd.engine.forward import Verified
from ltd.tree import TreeNodes


@dataclass(frozen=True, slots=True)
class Recording:
    """What is recorded of a request, and over which memory.

    Attributes:
        space: the memory, which may have recordings already.
        speculation: what drafts; None is plain decoding.
        sizes: what verifications are rounded up to, in order.
        walk: what a verified tree gains; None where that asks the host and cannot be recorded.
        commit: makes what the walk came to part of the prefix.
    """

    space: Workspace
    speculation: Speculation | None
    sizes: Sequence[int]
    walk: Callable[[TreeNodes, Verified], None] | None
    commit: Callable[[], None]

    def run(self, passed: Sequence[int]) -> None:
        """Records what is missing for these lengths of prefixes; what was in the memory is lost by it.

        Args:
            passed: how long the host may believe prefixes to be, see `ltd.engine.kv_cache.beliefs`.
        """
        missing = [believed for believed in reversed(passed) if believed not in self.space.recorded_for]
        for believed in missing:
            self._record_verifying(believed)
            self._record_drafting(believed)
            self.space.recorded_for.add(believed)
        if missing:
            self.space.restart()

    def _record_verifying(self, believed: int) -> None:
        """Records verifications of every size, the largest first, over sequences without a prefix.

        Args:
            believed: how long the host believes the prefixes to be.
        """
        space, tree, record = self.space, self.space.tree, self.space.captures.record
        for size in reversed(self.sizes):
            space.restart(believed)
            tree.begin(space.report.roots, space.session.lengths)
            nodes = tree.select(0, room=size)
            verified = record(space.verify_part(size), partial(space.session.verify, nodes))
            if self.walk is not None:
                record(space.walk_part(size), partial(self.walk, nodes, verified))
            record(("commit", size), self.commit)

    def _record_drafting(self, believed: int) -> None:
        """The same of drafting, level by level."""
        space, tree, record, speculation = self.space, self.space.tree, self.space.captures.record, self.speculation
        if speculation is None or speculation.draft is None:
            return
        speculation.workspace = space
        session, report = space.session, space.report
        for width in reversed(GAINS):
            space.restart(believed)
            report.gained.fill_(width)
            tree.begin(report.roots, session.lengths)
            features = None if session.features is None else session.features[:, :width]
            read = partial(speculation.first_level, tree, features, report.tokens[:, :width], report.gained)
            logits, tree.states = record(space.begin_part(width), read)
        for depth in range(speculation.policy.max_depth):
            tree.grown(logits)
            logits, tree.states = record(space.expand_part(depth), partial(speculation.next_level, tree))
