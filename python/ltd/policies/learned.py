"""The paper's two policies: small networks that read what the draft says."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from itertools import pairwise

from ltd.errors import InputError
from ltd.policies.allowance import Allowance, Costs
from ltd.policies.learned_call import LearnedCall
from ltd.policies.network import Network
from ltd.policies.observation import Layout
from ltd.policies.recency import RATES
from ltd.tree import MAX_SIZE, candidate_count, check_tree_limits


@dataclass(frozen=True, slots=True)
class Setting:
    """What a policy was made for, or where it is used. None is unknown.

    Attributes:
        width: beam width W.
        target: the target's name, for people.
        vocab_size, hidden_size, layers: of the target.
        head_sha256: SHA-256 of the draft head's `model.safetensors`.
        hardware: processor or GPU.
        dtype: the target's, for example "bfloat16".
        threads: of torch on the CPU.
    """

    width: int
    target: str | None = None
    vocab_size: int | None = None
    hidden_size: int | None = None
    layers: int | None = None
    head_sha256: str | None = None
    hardware: str | None = None
    dtype: str | None = None
    threads: int | None = None

    def differences(self, other: Setting) -> dict[str, tuple[object, object]]:
        """What is known here and different there: {attribute: (here, there)}."""
        pairs = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        return {name: pair for name, pair in pairs.items() if pair[0] not in (None, pair[1])}


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
        costs: what cycles cost; with them drafting stops where it loses, see `ltd.policies.allowance.Allowance`. None
            is unknown: it drafts in every cycle.

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
    allowance: Allowance = field(default_factory=Allowance, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        width = self.made_for.width
        check_tree_limits(width, self.depth_limit, 0)
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
        self._check_observation("depth", self.depth_network, newest)
        self._check_observation("size", self.size_network, candidate_count(width, self.depth_limit))

    def _check_observation(self, name: str, network: Network | None, scores: int) -> None:
        """Raises InputError if a network reads what there is not, or less than up to so many scores."""
        if network is None:
            return
        layout = network.layout
        if isinstance(layout, Layout):
            if layout.slots < scores:
                raise InputError(
                    f"the {name} network has {layout.slots} slots for scores, but there are up to {scores} at beam "
                    f"width {self.made_for.width} and depth {self.depth_limit}"
                )
        elif layout.recents not in (0, len(RATES)):
            raise InputError(f"the {name} network reads {layout.recents} recents; it must be 0 or {len(RATES)}")

    @property
    def max_depth(self) -> int:
        """The depth limit."""
        return self.depth_limit

    @property
    def max_size(self) -> int:
        """The top of the ladder."""
        return self.sizes[-1]

    def start(self, batch: int) -> LearnedCall:
        """What asks the networks, and remembers, for one call."""
        return LearnedCall(self, batch)

    def __str__(self) -> str:
        depth = f"depth {self.depth_limit}" if self.depth_network is None else f"learned depth up to {self.depth_limit}"
        size = f"size {self.sizes[0]}" if self.size_network is None else f"learned size up to {self.max_size}"
        return f"{depth}, {size}"
