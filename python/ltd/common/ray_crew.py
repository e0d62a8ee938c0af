"""A crew of workers of a Ray cluster, or of a Ray that is started here: https://docs.ray.io.

A worker is an actor, a process with a part of a machine's processors, which opens a job and then does unit after unit.
If it dies, its unit goes to the next free worker and another one is started in its place; only this process writes
files. So it does not matter how many workers there are and which of them did what.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ltd.common.program import say
from ltd.common.ray_nodes import Node, Share, check_alike, find_nodes, share_out, shared_facts
from ltd.common.ray_workers import Worker
from ltd.common.workers import LOCAL, Crew, Here, Job, fingerprint
from ltd.errors import InputError

if TYPE_CHECKING:  # it takes seconds
    import torch

MOST_DEATHS = 3  # of workers over one unit, or of a post before it is open
AHEAD = 2  # units that a worker may be ahead of the oldest unfinished one: their results wait in memory
PATIENCE_SECONDS = 60.0  # until it is said that there is no free worker


@dataclass(eq=False)
class Post:
    """A place for a worker on a node.

    Attributes:
        share: of the node.
        actor: the worker that is there, as Ray's handle; after a death another one.
        deaths: how many died there one after the other before they were open.
    """

    share: Share
    actor: Any = None
    deaths: int = 0


@dataclass
class Progress:
    """How far a crew is with the units of one call.

    Attributes:
        waiting: numbers of units that nobody does, in order.
        free: posts with nothing to do.
        busy: what Ray will answer: the post, and the number of the unit, or None while a job is opened.
        done: results that cannot be handed on yet.
        deaths: of workers, by the number of the unit that they had.
        next: the first unit whose results were not handed on.
    """

    waiting: deque[int]
    busy: dict[Any, tuple[Post, int | None]] = field(default_factory=dict)
    free: list[Post] = field(default_factory=list)
    done: dict[int, list[Any]] = field(default_factory=dict)
    deaths: Counter[int] = field(default_factory=Counter)
    next: int = 0


class RayCrew:
    """Workers of Ray.

    Args:
        address: of a cluster, as `ray.init` takes it; "local" starts a Ray here.
        cpus: processors of a worker; None is all of a node, so that no neighbour disturbs what is timed.
        gpu: whether each worker has a GPU.

    Raises:
        InputError: Ray is not installed. That nobody answers, or that a node does not fit, is told when work begins.
    """

    is_remote = True

    def __init__(self, address: str = LOCAL, cpus: int | None = None, gpu: bool = False) -> None:
        self.address, self.cpus, self.gpu = address, cpus, gpu
        self.ray = import_ray()
        self.posts: list[Post] = []
        self.nodes: list[Node] = []
        self._started = self._connected = False
        self._job: Any = None
        self._number = 0  # of the job
        self._packed: Any = None  # the job, where Ray keeps it
        self._files: dict[str, str | None] = {}
        self._warned: set[str] = set()

    @property
    def size(self) -> int:
        """See `Crew`."""
        self._start()
        return len(self.posts)

    def machine_facts(self, device: torch.device | None = None) -> dict[str, str | int]:
        """See `Crew`; the number of threads is that of a worker, and so is the GPU, whatever the device."""
        self._start()
        return shared_facts([post.share for post in self.posts], self.gpu)

    def do(self, job: Job[Any, Any], units: Sequence[Any]) -> Iterator[Any]:
        """See `Crew`. The results of a unit come together."""
        self._start()
        self._pack(job)
        progress = Progress(deque(range(len(units))))
        for post in self.posts:
            self._open(post, progress)
        try:
            while progress.next < len(units):
                self._hand_out(progress, units)
                self._wait(progress)
                while progress.next in progress.done:
                    progress.next += 1
                    yield from progress.done.pop(progress.next - 1)
        finally:
            for post, number in progress.busy.values():
                if number is not None:  # nobody wants that any more, and it cannot be interrupted
                    self._dismiss(post)

    def close(self) -> None:
        """Ends the workers, and Ray if it was connected to here."""
        for post in self.posts:
            self._dismiss(post)
        self.posts.clear()
        if self._connected:
            self.ray.shutdown()
        self._started = self._connected = False

    def _start(self) -> None:
        """Connects, looks at the nodes, and says where workers may be."""
        if self._started:
            return
        if not self.ray.is_initialized():
            self._connect()
        self.nodes = find_nodes(self.ray)
        shares = share_out(self.nodes, self.cpus, self.gpu)
        check_alike([share.node for share in shares], self.gpu)
        self.posts = [Post(share) for share in shares]
        self._started = True

    def _connect(self) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self.address == LOCAL:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
            options["include_dashboard"] = False
        try:
            self.ray.init(address=self.address, **options)
        except Exception as error:  # of many kinds, which depend on the address
            raise InputError(f"no Ray answers at {self.address}: {' '.join(str(error).split())[:200]}") from error
        self._connected = True

    def _pack(self, job: Any) -> None:
        """Puts a job where all workers get it from, unless it is there."""
        if job is self._job:
            return
        self._files = {str(path): fingerprint(path) for path in job.files}
        self._packed = self.ray.put(self.ray.cloudpickle.dumps(job))
        self._job, self._number = job, self._number + 1

    def _open(self, post: Post, progress: Progress) -> None:
        """Has the worker of a post, a new one if there is none, open the job."""
        if post.actor is None:
            share = post.share
            strategy = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(share.node.id, soft=False)
            options = {"num_cpus": share.cpus, "num_gpus": int(self.gpu), "scheduling_strategy": strategy}
            post.actor = self.ray.remote(Worker).options(**options).remote(share.threads)
        opening = post.actor.open.remote(self._number, self._packed, self._files)
        progress.busy[opening] = (post, None)

    def _dismiss(self, post: Post) -> None:
        if post.actor is not None and self.ray.is_initialized():
            self.ray.kill(post.actor)
        post.actor = None

    def _hand_out(self, progress: Progress, units: Sequence[Any]) -> None:
        limit = progress.next + AHEAD * len(self.posts)
        while progress.free and progress.waiting and progress.waiting[0] < limit:
            post, number = progress.free.pop(0), progress.waiting.popleft()
            unit = self.ray.cloudpickle.dumps(units[number])
            progress.busy[post.actor.do.remote(unit)] = (post, number)

    def _wait(self, progress: Progress) -> None:
        """Until one worker has done what it was at."""
        ready, _ = self.ray.wait(list(progress.busy), num_returns=1, timeout=PATIENCE_SECONDS)
        if not ready:
            if all(number is None for _, number in progress.busy.values()):
                say("waiting for Ray to start a worker: the nodes have no free processors, or loading takes long")
            return
        post, number = progress.busy.pop(ready[0])
        errors = self.ray.exceptions
        try:
            answer = self.ray.get(ready[0])
        except errors.RayTaskError as error:
            raise told(error, post) from error
        except (errors.RayActorError, errors.ActorUnschedulableError, errors.ObjectLostError) as error:
            self._bury(post, number, progress, error)
            return
        progress.free.append(post)
        if number is None:
            post.deaths = 0
            self._warn(post, answer)
        else:
            progress.done[number] = pickle.loads(answer)

    def _bury(self, post: Post, number: int | None, progress: Progress, error: Exception) -> None:
        """Gives a dead worker's unit back, and starts another worker where the node is alive."""
        self._dismiss(post)
        node, reason = post.share.node, " ".join(str(error).split())[:300]
        again = "what was finished is kept, and the same command goes on from there"
        if number is None:
            post.deaths += 1
        else:
            progress.deaths[number] += 1
            progress.waiting = deque(sorted([number, *progress.waiting]))
            if progress.deaths[number] >= MOST_DEATHS:
                raise InputError(
                    f"{MOST_DEATHS} workers died over the same piece of work, the last one on node {node.name}: "
                    f"{reason}; {again}"
                )
        alive = node.id in {each["NodeID"] for each in self.ray.nodes() if each["Alive"]}
        if alive and post.deaths < MOST_DEATHS:
            say(f"a worker on node {node.name} died; another one does its work")
            self._open(post, progress)
            return
        say(f"node {node.name} {'starts no worker any more' if alive else 'is gone'}; the others do its work")
        self.posts.remove(post)
        if not self.posts:
            raise InputError(
                f"Ray has no node left that starts a worker; on the last one, {node.name}: {reason}; {again}"
            )

    def _warn(self, post: Post, messages: Sequence[str]) -> None:
        for message in messages:
            if message not in self._warned:
                self._warned.add(message)
                warnings.warn(f"on node {post.share.node.name}: {message}", stacklevel=2)


def told(error: Any, post: Post) -> BaseException:
    """What a worker's error is for the driver: a sentence that names the node, or the error with its traceback."""
    if isinstance(error.cause, InputError | OSError):
        return InputError(f"on node {post.share.node.name}: {error.cause}")
    found: BaseException = error
    return found


def import_ray() -> ModuleType:
    """The package; raises InputError if it is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise InputError("--ray needs the package ray, which is not installed; pip install 'ray>=2.50'")
    import ray
    import ray.util.scheduling_strategies

    module: ModuleType = ray
    return module


@contextmanager
def open_crew(address: str | None, cpus: int | None, uses_gpu: Callable[[], bool]) -> Iterator[Crew]:
    """Who does the work of a command: without an address this process, else workers of the Ray at the address.

    Args:
        address, cpus: as for `RayCrew`.
        uses_gpu: whether the command decodes on a GPU; asked only for workers.

    Raises:
        InputError: Ray is not installed, or `cpus` is given without an address.
    """
    if address is None:
        if cpus is not None:
            raise InputError("--ray-cpus says how many processors a worker of --ray has; leave it out, or add --ray")
        yield Here()
        return
    crew = RayCrew(address, cpus, uses_gpu())
    try:
        yield crew
    finally:
        crew.close()
