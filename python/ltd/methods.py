"""The ways to decode that can be compared, by the names that a user types."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ltd.answers import Answerer, ChainAnswerer, Models, TransformersAnswerer, TreeAnswerer
from ltd.chain_decoder import ChainDecoder
from ltd.decoder import Decoder, PolicyChoice
from ltd.errors import InputError
from ltd.lengths import Length
from ltd.lengths.named import parse_length
from ltd.loading import check_policy
from ltd.policies import Learned, Static
from ltd.policies.bundle import FACTS, load_bundle
from ltd.policies.expected_gain import load_controller
from ltd.policies.named import NAMES, parse_policy

BASELINE, TUNED, EAGLE3 = "none", "tuned", "eagle3"
PAPER = "paper"
PAPER_METHODS = (BASELINE, EAGLE3, "ddd", "svip", "gammatune", "disco", "specdecpp", "c2t")
CHAIN, TRANSFORMERS, ASSISTED, LOOKUP = "chain", "transformers", "transformers:assisted", "transformers:lookup"
LOOKUP_TOKENS = 10  # the usual number in prompt lookup
NOT_TUNED = "no learned policy is the default for this target, draft and machine; make one with ltd tune"


@dataclass(frozen=True, slots=True)
class Method(ABC):
    """A way to decode.

    Attributes:
        name: as it was typed.
        repeats_plain: whether sampling gives plain decoding's text of the same seed. The distribution is the same for
            all methods.
        needs_chain: whether it uses the chain draft.
    """

    name: str
    repeats_plain: ClassVar[bool] = False

    @staticmethod
    def parse(name: str) -> Method:
        """Reads a name, and checks what can be checked before a model is loaded.

        Raises:
            InputError: there is no such method (the message names those there are), an option or number of it is
                wrong, or a file that it names cannot be used.
        """
        kind = name.partition(":")[0]
        if kind == CHAIN:
            return ChainMethod.named(name)
        return TransformersMethod.named(name) if kind == TRANSFORMERS else TreeMethod.named(name)

    @property
    def needs_chain(self) -> bool:
        return False

    @property
    def files(self) -> list[Path]:
        """The files that its name stands for: what is in them decides the results."""
        return option_files(self.name)

    @abstractmethod
    def open(self, models: Models) -> Answerer:
        """The method on loaded models; raises InputError if it does not fit them."""


@dataclass(frozen=True, slots=True)
class TreeMethod(Method):
    """A tree draft with a policy; "none" is plain decoding, and None the loaded decoder's own."""

    policy: PolicyChoice
    repeats_plain: ClassVar[bool] = True

    @classmethod
    def named(cls, name: str) -> TreeMethod:
        """`Method.parse` of this kind."""
        return cls(name, find_policy(name))

    @property
    def files(self) -> list[Path]:
        kind, _, path = self.name.partition(":")
        if kind == "bundle":
            return [Path(path).expanduser() / FACTS]
        return [Path(path).expanduser()] if kind in ("controller", "grid") else option_files(self.name)

    def open(self, models: Models) -> TreeAnswerer:
        check_tree(models.decoder, self)
        return TreeAnswerer(models.decoder, self.policy)


@dataclass(frozen=True, slots=True)
class ChainMethod(Method):
    """A chain draft with a rule for its length."""

    length: Length

    @classmethod
    def named(cls, name: str) -> ChainMethod:
        """`Method.parse` of this kind."""
        return cls(name, parse_length(name.partition(":")[2]))

    @property
    def needs_chain(self) -> bool:
        return True

    def open(self, models: Models) -> ChainAnswerer:
        decoder = models.decoder
        return ChainAnswerer(
            ChainDecoder(
                decoder.target,
                models.chain,
                self.length,
                tokenizer=decoder.tokenizer,
                stop_ids=decoder.stop_ids,
                max_length=decoder.max_length,
            )
        )


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
        if name in (TRANSFORMERS, ASSISTED):
            return cls(name)
        if name == LOOKUP:
            return cls(name, LOOKUP_TOKENS)
        tokens = name.removeprefix(f"{LOOKUP}:tokens=")
        if not (tokens.isdecimal() and int(tokens) >= 1):
            raise InputError(
                f"unknown method {name!r}; of transformers there are {TRANSFORMERS}, {ASSISTED} and "
                f"{LOOKUP}:tokens=N with N at least 1"
            )
        return cls(name, int(tokens))

    @property
    def needs_chain(self) -> bool:
        return self.name == ASSISTED

    def open(self, models: Models) -> TransformersAnswerer:
        return TransformersAnswerer(models, models.assistant if self.needs_chain else None, self.lookup)


def find_policy(name: str) -> PolicyChoice:
    """The policy of a tree method; None is the decoder's own. Raises InputError as `Method.parse` does."""
    kind, _, rest = name.partition(":")
    if name == BASELINE:
        return "none"
    if name == EAGLE3:
        return Static(depth=8, size=60)
    if name == TUNED:
        return None
    if kind in NAMES:
        return parse_policy(name)
    loaders = {"bundle": lambda path: load_bundle(path).policy, "controller": load_controller, "grid": load_grid}
    if kind in loaders:
        return loaders[kind](Path(rest).expanduser())
    depth, _, size = rest.partition(":")
    if kind != "static" or not (depth.isdecimal() and size.isdecimal()):
        raise InputError(
            f"unknown method {name!r}; use none, eagle3, static:D:V (for example static:4:16), tuned, bundle:FOLDER, "
            f"controller:FILE, grid:FILE, {', '.join(NAMES)}, chain:K, chain:heuristic, chain:specdecpp, "
            f"{TRANSFORMERS}, {ASSISTED} or {LOOKUP}"
        )
    return Static(int(depth), int(size))


def load_grid(file: Path) -> Static:
    """The static tree in a JSON file with `depth` and `size`, as the search on a grid leaves it.

    Raises:
        InputError: there is no such file, or it does not hold the two numbers.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        depth, size = values["depth"], values["size"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} holds no depth and size; name the JSON file of a grid search") from error
    if not (isinstance(depth, int) and isinstance(size, int)):
        raise InputError(f"{file} has depth {depth!r} and size {size!r}; they must be whole numbers")
    return Static(depth, size)


def option_files(name: str) -> list[Path]:
    """All files in the folder that an option `model=FOLDER` names."""
    folders = [Path(part.removeprefix("model=")).expanduser() for part in name.split(":") if part.startswith("model=")]
    return [file for folder in folders for file in sorted(folder.iterdir()) if file.is_file()]


def check_tree(decoder: Decoder, method: TreeMethod) -> None:
    """Checks that a decoder can decode this way.

    Raises:
        InputError: a policy that does not fit, or there is no draft or no learned policy where one is needed.
    """
    if method.name == TUNED and not isinstance(decoder.policy, Learned):
        raise InputError(NOT_TUNED)
    check_policy(decoder, method.policy)
    decoder.speculation(method.policy)


def expand(names: Sequence[str]) -> tuple[str, ...]:
    """The names, with "paper" replaced by the paper's rows."""
    return tuple(name for given in names for name in (PAPER_METHODS if given == PAPER else (given,)))
