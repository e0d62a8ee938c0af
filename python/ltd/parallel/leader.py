"""The first process: it decides everything, and has the others do the same to their parts of the model.

The others run no draft, ask no policy, read no clock and draw nothing: what they are told is what they do, so nothing
can come out differently there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary, finalize

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from ltd.common.out_of_memory import is_out_of_memory
from ltd.common.threads import set_threads
from ltd.errors import InputError
from ltd.parallel.peers import Peers, peers_may_end
from ltd.parallel.sharding import check_heads, load_sharded

T = TypeVar("T")


class Side(Protocol):
    """A process's side of what all processes do together, each in its turn of the same program.

    Attributes:
        peers: the processes.
    """

    peers: Peers

    def once(
        self,
        name: str,
        work: Callable[[], T],
        tell: Callable[[T], Any] = ...,
        model: PreTrainedModel | None = None,
    ) -> Any:
        """Does something once: the first process does it, and the others what it needs of them.

        Args:
            name: what it is, the same in all processes, for a message.
            work: for the first process.
            tell: from its result to what the others get; None is nothing.
            model: of the user's, of which every process has its part.

        Returns:
            in the first process what the work gives, in the others what they are told.

        Raises:
            InputError: the work does, or the processes ask for different things, or one has ended.
        """


class Leader:
    """`Side` of the first process.

    Args:
        peers: the processes.
    """

    def __init__(self, peers: Peers) -> None:
        self.peers = peers
        self._numbers = count()
        self._models: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
        self._dropped: list[int] = []
        self._depth = self._calls = 0
        self._lost: str | None = None

    def once(
        self,
        name: str,
        work: Callable[[], T],
        tell: Callable[[T], Any] = lambda result: result,
        model: PreTrainedModel | None = None,
    ) -> T:
        """See `Side`. Within something that is done together it is a part of that, and the others are not told."""
        if self._depth:
            return work()
        self._calls += 1
        with self.leading():
            try:
                result = work()
            except BaseException as error:
                self._tell_of(error)
                raise
            self.say("result", self._calls, name, tell(result))
        return result

    @contextmanager
    def leading(self) -> Iterator[None]:
        """While open, the others do what they are told."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def say(self, kind: str, *arguments: Any, tensors: Sequence[Tensor] = ()) -> None:
        """Has all others do something, see `FollowingProcess`.

        Raises:
            InputError: they do not listen now, or are lost.
        """
        if self._lost is not None:
            raise InputError(f"the processes of this run are out of step, as {self._lost}; start it again")
        if not self._depth:
            raise InputError(
                "a target that is spread over several processes works inside generate and stream of its decoder, and "
                "inside model.generate, which every process must call; use one process for anything else"
            )
        if self._dropped:
            dropped, self._dropped = self._dropped, []
            self.peers.say(("drop", dropped))
        self.peers.say((kind, *arguments), tensors)

    @contextmanager
    def in_step(self) -> Iterator[None]:
        """For what the first process does beside the others, who wait for it inside: an error there is the end.

        Raises:
            InputError: another process has ended, or there is too little memory; nobody could try it once more.
        """
        try:
            with peers_may_end():
                yield
        except BaseException as error:
            self._lost = f"{type(error).__name__} was raised in the middle of a forward"
            if is_out_of_memory(error):
                raise InputError(f"there is too little memory for a forward: {error}") from error
            raise

    def new_number(self) -> int:
        """A number for something that every process has a part of."""
        return next(self._numbers)

    def drop(self, number: int) -> None:
        """The others may let something go; they hear of it with what is said next, as nobody knows when this is."""
        self._dropped.append(number)

    def load(self, place: str, dtype: torch.dtype, config: PretrainedConfig, threads: int | None) -> PreTrainedModel:
        """`load_sharded` in all processes, with so many CPU threads each."""
        check_heads(config, self.peers.count)  # here, so that it is said once
        number = self.new_number()
        self.say("load", number, place, dtype, threads)
        set_threads(threads)
        model = load_sharded(place, dtype, self.peers.count)
        self._know(model, number)
        return model

    def number_of(self, model: PreTrainedModel) -> int:
        """The number of a model in all processes; one that the user loaded gets it now."""
        if model not in self._models:
            number = self.new_number()
            self.say("adopt", number)
            self._know(model, number)
        return self._models[model]

    def _know(self, model: PreTrainedModel, number: int) -> None:
        self._models[model] = number
        finalize(model, self.drop, number).atexit = False

    def end(self, code: int) -> None:
        """Tells the others to end their program with an exit code; nothing is said after that."""
        if self._lost is None:
            with self.leading():
                self.say("end", code)

    def _tell_of(self, error: BaseException) -> None:
        """Tells the others that something ended with an error, if they listen."""
        if self._lost is not None:
            return
        known = isinstance(error, InputError)
        self.say("raised", str(error) if known else f"the first process ended with {type(error).__name__}: {error}")

    def __deepcopy__(self, memo: dict[int, object]) -> Leader:
        raise InputError("a decoder whose target is spread over several processes cannot be copied")
