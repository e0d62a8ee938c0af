"""The paper's two policies: small networks that read what the draft says."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch

from ltd.common.argument_types import as_whole, as_wholes, settle, wrong_type
from ltd.errors import InputError
from ltd.lookup import TextScores
from ltd.policies.learned.allowance import Allowance, Costs
from ltd.policies.learned.asking import Askers, askers
from ltd.policies.learned.network import Network
from ltd.policies.learned.observation import Layout, Summary
from ltd.policies.learned.setting import Setting
from ltd.tree import MAX_SIZE, NOT_ASKED, DraftTree, candidate_count, check_tree_limits

CONTINUE = 1  # the depth network's output; 0 is stop


@dataclass(frozen=True, slots=True)
class Learned:
    """Decides with learned networks, asked at every level, unlike the official code, which asks at every third.

    One answer serves a batch that runs in lockstep: every sequence's network is asked, and the upper median counts. For
    the depth that is the majority, with a tie going on; for the size it is a size that at least half of the sequences
    do not exceed.

    Args:
        made_for: what it was trained for.
        depth_limit: the deepest tree, 0 … 12; without a depth network every tree is that deep.
        sizes: the ladder, ascending: what the size network's outputs stand for; without one, the one size.
        depth_network: decides whether to go on, output 0 stop and 1 continue; with the paper's layout from the scores
            of the newest level.
        size_network: decides the size; with the paper's layout from the scores of all candidates.
        min_depth: drafts so deep without asking. The official scripts trained their depth policy with 1.
        costs: what cycles cost; with them drafting stops where it loses, see
            `ltd.policies.learned.allowance.Allowance`. None is unknown: it drafts in every cycle.
        max_text: the most candidates of the text in a tree, 0 … 64. With any, the networks read what the text proposes,
            and the depth network is first asked whether to draft at all.
        text_scores: how likely these are, as it was trained with; None is what the decoder knows.

    Raises:
        InputError: parts that do not go together.

    Attributes:
        allowance: of all calls; a copy made by `dataclasses.replace` begins with its own.
    """

    made_for: Setting
    depth_limit: int
    sizes: tuple[int, ...]
    depth_network: Network | None = None
    size_network: Network | None = None
    min_depth: int = 0
    costs: Costs | None = None
    max_text: int = 0
    text_scores: TextScores | None = field(default=None, compare=False)
    allowance: Allowance = field(default_factory=Allowance, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.made_for, Setting):
            raise wrong_type("made_for", self.made_for, "a Setting")
        settle(self, as_whole, "depth_limit", "min_depth", "max_text")
        settle(self, as_wholes, "sizes")
        width = self.made_for.width
        check_tree_limits(width, self.depth_limit, 0, self.max_text)
        if not 0 <= self.min_depth <= self.depth_limit:
            raise InputError(f"min_depth {self.min_depth} is out of range; it must be 0 … {self.depth_limit}")
        if not self.sizes or any(not 0 <= size <= MAX_SIZE for size in self.sizes):
            raise InputError(f"the size ladder {list(self.sizes)} must hold sizes of 0 … {MAX_SIZE}")
        if any(low >= high for low, high in pairwise(self.sizes)):
            raise InputError(f"the size ladder {list(self.sizes)} must ascend")
        outputs = 1 if self.size_network is None else self.size_network.outputs
        if len(self.sizes) != outputs:
            chooser = "without a size network there is 1" if self.size_network is None else f"its network has {outputs}"
            raise InputError(f"the size ladder holds {len(self.sizes)} sizes, but {chooser}")
        if self.depth_network is not None and self.depth_network.outputs != 2:
            raise InputError(
                f"the depth network has {self.depth_network.outputs} outputs; it must have 2, stop and continue"
            )
        if self.costs is not None and len(self.costs.verify) != len(self.sizes):
            raise InputError(
                f"there are costs of {len(self.costs.verify)} sizes, but the size ladder holds {len(self.sizes)}"
            )
        newest = width * width if self.depth_limit > 1 else width  # as it is asked below the limit only
        for name, network in (("depth", self.depth_network), ("size", self.size_network)):
            reads = network is not None and isinstance(network.layout, Summary) and network.layout.text > 0
            if network is not None and reads != (self.max_text > 0):
                raise InputError(
                    f"the {name} network reads {'what' if reads else 'nothing of what'} the text proposes, but up to "
                    f"{self.max_text} candidates of the text are looked up; the two must go together"
                )
        self._check_observation("depth", self.depth_network, newest)
        self._check_observation("size", self.size_network, candidate_count(width, self.depth_limit))

    def _check_observation(self, name: str, network: Network | None, scores: int) -> None:
        """Raises InputError if a network in the paper's layout has room for less than so many scores."""
        if network is None or not isinstance(network.layout, Layout):
            return
        if network.layout.slots < scores:
            raise InputError(
                f"the {name} network has {network.layout.slots} slots for scores, but there are up to {scores} at beam "
                f"width {self.made_for.width} and depth {self.depth_limit}"
            )

    @property
    def width(self) -> int:
        """The beam width of its trees: the one that it was trained with."""
        return self.made_for.width

    @property
    def max_depth(self) -> int:
        """The depth limit."""
        return self.depth_limit

    @property
    def max_size(self) -> int:
        """The top of the ladder."""
        return self.sizes[-1]

    @property
    def needs_draft(self) -> bool:
        """Whether it decides about a draft: unless it looks tokens up, and has no depth to choose."""
        return self.max_text == 0 or self.depth_limit > 0

    def start(self, batch: int) -> LearnedCall:
        """What asks the networks, and remembers, for one call."""
        return LearnedCall(self, batch)

    def __str__(self) -> str:
        text = f", with up to {self.max_text} candidates of the text" * (self.max_text > 0)
        depth = f"depth {self.depth_limit}" if self.depth_network is None else f"learned depth up to {self.depth_limit}"
        size = f"size {self.sizes[0]}" if self.size_network is None else f"learned size up to {self.max_size}"
        return f"{depth}, {size}{text}"


class LearnedCall:
    """What `ltd.policies.learned.policy.Learned` is in one call.

    Args:
        policy: what it asks.
        batch: sequences B.

    Attributes:
        max_depth, max_size: the policy's.
        allowance: the policy's; says whether to draft at all, where it knows its costs.
    """

    def __init__(self, policy: Learned, batch: int) -> None:
        self.max_depth, self.max_size = policy.max_depth, policy.max_size
        self.allowance = policy.allowance
        self._sizes, self._costs = policy.sizes, policy.costs
        # Below this depth it drafts without asking; where the text may be enough, it asks before it drafts at all.
        self._min_depth = policy.min_depth if policy.min_depth or not policy.max_text else NOT_ASKED
        self._networks = policy.depth_network, policy.size_network
        self._batch = batch
        self._askers: Askers | None = None  # made with the first tree, for the device that it is on
        self._began = False
        # Depth and step of the size ladder in the last cycle; None where it was plain without having been asked.
        self._decided: tuple[int, int] | None = None
        # Where drafting was told to stop, and what the size network said there if it was asked at once.
        self._stopped: tuple[int, int] | None = None

    def keep(self, rows: list[int]) -> None:
        """Drops all sequences but these."""
        self._batch, self._askers = len(rows), None

    def speculate(self, lengths: torch.Tensor, gained: list[int]) -> bool:
        """Whether a draft can be afforded; always, where the costs are unknown."""
        decided, self._decided, self._stopped = self._decided, None, None
        if self._costs is None:
            return True
        if decided is not None:
            return self.allowance.book(sum(gained) / len(gained), self._costs.of(*decided))
        if self._began:
            return self.allowance.book(cost=1.0 + self._costs.lookup)
        self._began = True  # so far there was only the prefill, which is no cycle
        return self.allowance.allows

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        """What the depth network says."""
        ask_depth, _, asks_both = self._askers or self._make_askers(tree)
        if ask_depth is None or depth < self._min_depth:
            return True
        goes, step = ask_depth(tree, depth)
        if goes == CONTINUE:
            self._stopped = None
            return True
        if asks_both:
            self._stopped = (depth, step)
        return False

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        """What the size network says; it is not asked again where it has just been asked with the depth network."""
        if self._stopped is not None and self._stopped[0] == depth:
            self._decided = self._stopped
        else:
            _, ask_size, _ = self._askers or self._make_askers(tree)
            self._decided = (depth, 0 if ask_size is None else ask_size(tree, depth)[1])
        self._stopped = None
        return self._sizes[self._decided[1]]

    def _make_askers(self, tree: DraftTree) -> Askers:
        self._askers = askers(*self._networks, self._batch, tree.scores.device)
        return self._askers
