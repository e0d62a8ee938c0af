"""The ways to decode that can be compared, by the names that a user types."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ltd.chains import Length, SpecDecPP
from ltd.chains.acceptance_files import check_draft
from ltd.chains.by_name import SAMPLER, parse_length, split_sampler
from ltd.chains.decoder import ChainDecoder
from ltd.chains.samplers import NOISE
from ltd.common.files import content_hash, expand_user, file_hash
from ltd.common.named_options import split_option, whole_number
from ltd.decoding.decoder import PolicyChoice
from ltd.errors import InputError
from ltd.evaluation.answerers import Answerer, ChainAnswerer, Models, TransformersAnswerer, TreeAnswerer
from ltd.evaluation.method_names import network_files, option_files, read_policy, split_label
from ltd.evaluation.method_table import (
    ASSISTED,
    CHAIN,
    FILES,
    LOOKUP,
    LOOKUP_TOKENS,
    RULE,
    STATIC,
    TRANSFORMERS,
    TUNED,
    TUNED_GRID,
)
from ltd.policies import Static
from ltd.policies.grid import load_grid
from ltd.policies.learned.bundle import FACTS, Bundle, bundle_files, save_bundle
from ltd.policies.learned.store import tuned_grid
from ltd.policies.rule_file import rule_text
from ltd.policy_choice import ChosenPolicy, FindSetting, choose_policy
from ltd.rejection.by_name import REJECTION, SHARED, split_tree_sampler
from ltd.rejection.decoder import RejectionDecoder, check_device
from ltd.rejection.shape import check_size

NOT_TUNED = "no learned policy is the default for this target, draft and machine; make one with ltd tune"
NO_GRID = "nothing says which static tree is the best here; find it with ltd tune, or name the file: grid:FILE"


@dataclass(frozen=True, slots=True)
class Method(ABC):
    """A way to decode.

    Attributes:
        name: as it was typed, `METHOD` or `LABEL=METHOD`.
        needs_chain: whether it uses the chain draft.
    """

    name: str

    @staticmethod
    def parse(name: str) -> Method:
        """Reads a name, and checks what can be checked before a model is loaded.

        Raises:
            InputError: there is no such method (the message names those there are), an option or number of it is
                wrong, or a file that it names cannot be used.
        """
        label, spec = split_label(name)
        if not label.strip():
            raise InputError(f"the method {name!r} has an empty label; write LABEL={spec}, or {spec} alone")
        kind = spec.partition(":")[0]
        if kind == CHAIN:
            return ChainMethod.named(name)
        return TransformersMethod.named(name) if kind == TRANSFORMERS else TreeMethod.named(name)

    def choose(self, setting: FindSetting, device: torch.device) -> Method:
        """The method with all that can be known of it without its models; comes before `open`.

        Args:
            setting, device: as for `ltd.policy_choice.choose_policy`.

        Raises:
            InputError: there is no policy for it here, or its own is for another target or head.
        """
        return self

    @property
    def needs_chain(self) -> bool:
        return False

    @property
    def can_be_spread(self) -> bool:
        """Whether its target may be spread over several processes."""
        return True

    @property
    def names_sampler(self) -> bool:
        """Whether its name says how sampled text is drawn, which greedy text makes no use of."""
        return self.spec.partition(":")[0] in (CHAIN, STATIC) and split_option(self.spec, SAMPLER)[1] is not None

    @property
    def repeats_plain(self) -> bool:
        """Whether sampling gives plain decoding's text of the same seed. All methods have the same distribution."""
        return False

    @property
    def spec(self) -> str:
        """The name without its label."""
        return split_label(self.name)[1]

    @property
    def files(self) -> list[Path]:
        """The files that its name stands for: what is in them decides the results."""
        return option_files(self.spec)

    def hashes(self) -> list[str | None]:
        """Of the contents of `files`, in their order; None for one that is missing."""
        return [file_hash(file) for file in self.files]

    @abstractmethod
    def open(self, models: Models) -> Answerer:
        """The method on loaded models; raises InputError if it does not fit them."""


@dataclass(frozen=True, slots=True)
class TreeMethod(Method):
    """A tree draft with a policy.

    Attributes:
        policy: as the name says: "none" is plain decoding, and None is what is known here.
        sampler: how its sampled tokens are found, see `ltd.rejection.by_name`.
        chosen: what the policy comes to here; None until `choose`.
        grid: the file that says so, where it is that of a grid search by `ltd tune`.
    """

    policy: PolicyChoice
    sampler: str = SHARED
    chosen: ChosenPolicy | None = None
    grid: Path | None = None

    @classmethod
    def named(cls, name: str) -> TreeMethod:
        """`Method.parse` of this kind."""
        spec = split_label(name)[1]
        if spec.partition(":")[0] != STATIC:
            return cls(name, read_policy(spec))
        tree, sampler = split_tree_sampler(spec)
        policy = read_policy(tree)
        if sampler == REJECTION and isinstance(policy, Static):
            check_size(policy.depth, policy.size)
        return cls(name, policy, sampler)

    @property
    def files(self) -> list[Path]:
        kind, _, path = self.spec.partition(":")
        if kind == "bundle":
            return [expand_user(path) / FACTS]
        if kind == RULE:
            return [expand_user(path), *option_files(rule_text(path))]
        if path and kind in FILES:
            return [expand_user(path)]
        if self.grid is not None:
            return [self.grid]
        return option_files(self.spec) if self.chosen is None else [*option_files(self.spec), *self.chosen.files]

    @property
    def repeats_plain(self) -> bool:
        return self.sampler == SHARED

    def choose(self, setting: FindSetting, device: torch.device) -> TreeMethod:
        if self.sampler == REJECTION:
            check_device(device)
        chosen = choose_policy(self.policy, setting, device)
        if self.spec not in (TUNED, TUNED_GRID):
            return replace(self, chosen=chosen)
        here = setting()
        grid = None if here is None else tuned_grid(here)
        if self.spec == TUNED:
            # With a grid, tuning kept no policy, and this is what is used.
            if chosen.origin != "tuned" and chosen.bundle is None and grid is None:
                raise InputError(NOT_TUNED)
            return replace(self, chosen=chosen)
        if grid is not None:
            return replace(self, chosen=replace(chosen, policy=load_grid(grid)), grid=grid)
        best = None if chosen.bundle is None else chosen.bundle.best_static
        if best is None:
            raise InputError(NO_GRID)
        return replace(self, chosen=replace(chosen, policy=best))

    def open(self, models: Models) -> TreeAnswerer:
        assert self.chosen is not None, "a method is chosen before it is opened"
        if self.sampler == REJECTION:
            assert isinstance(self.policy, Static)
            return TreeAnswerer(RejectionDecoder.sharing(models.decoder, self.policy), None)
        policy: PolicyChoice = "none" if self.chosen.policy is None else self.chosen.policy
        models.decoder.speculation(policy)  # raises if there is no draft, or its trees are too large
        return TreeAnswerer(models.decoder, policy)


@dataclass(frozen=True, slots=True)
class NewBundle(TreeMethod):
    """Policies that are still to be written to the folder that the name says, `bundle:FOLDER`.

    Attributes:
        bundle: the policies.
    """

    bundle: Bundle = field(kw_only=True)

    @classmethod
    def of(cls, name: str, bundle: Bundle) -> NewBundle:
        """The method of that name."""
        return cls(name, bundle.policy, bundle=bundle)

    def hashes(self) -> list[str | None]:
        return [content_hash(bundle_files(self.bundle)[FACTS])]

    def write(self) -> None:
        """Writes the bundle; raises InputError if its folder cannot be written."""
        save_bundle(self.bundle, expand_user(self.spec.partition(":")[2]))


@dataclass(frozen=True, slots=True)
class ChainMethod(Method):
    """A chain draft with a rule for its length.

    Attributes:
        length: the rule.
        sampler: see `ltd.chains.decoder.ChainDecoder`.
    """

    length: Length
    sampler: str

    @classmethod
    def named(cls, name: str) -> ChainMethod:
        """`Method.parse` of this kind."""
        rule, sampler = split_sampler(split_label(name)[1].partition(":")[2])
        return cls(name, parse_length(rule), sampler)

    @property
    def needs_chain(self) -> bool:
        return True

    @property
    def files(self) -> list[Path]:
        folder = self.length.folder if isinstance(self.length, SpecDecPP) else None
        return [] if folder is None else network_files(folder)

    @property
    def repeats_plain(self) -> bool:
        return self.sampler == NOISE

    def open(self, models: Models) -> ChainAnswerer:
        decoder = models.decoder
        if isinstance(self.length, SpecDecPP) and self.length.folder is not None:
            check_draft(self.length.folder, models.chain_folder)
        return ChainAnswerer(ChainDecoder.sharing(decoder, models.chain, self.length, self.sampler))


@dataclass(frozen=True, slots=True)
class TransformersMethod(Method):
    """The ordinary `generate` of `transformers`: plain, assisted by the chain draft, or with prompt lookup.

    Attributes:
        lookup: how many tokens prompt lookup proposes at most; None is without.
    """

    lookup: int | None = None

    @classmethod
    def named(cls, name: str) -> TransformersMethod:
        """`Method.parse` of this kind."""
        spec = split_label(name)[1]
        if spec in (TRANSFORMERS, ASSISTED):
            return cls(name)
        if spec == LOOKUP:
            return cls(name, LOOKUP_TOKENS)
        tokens = whole_number(spec.removeprefix(f"{LOOKUP}:tokens="))
        if not tokens:
            raise InputError(
                f"unknown method {spec!r}; of transformers there are {TRANSFORMERS}, {ASSISTED} and "
                f"{LOOKUP}:tokens=N with N at least 1"
            )
        return cls(name, tokens)

    @property
    def needs_chain(self) -> bool:
        return self.spec == ASSISTED

    @property
    def can_be_spread(self) -> bool:
        return False

    def open(self, models: Models) -> TransformersAnswerer:
        return TransformersAnswerer(models, models.assistant if self.needs_chain else None, self.lookup)
