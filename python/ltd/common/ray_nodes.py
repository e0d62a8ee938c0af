"""What the nodes of a Ray cluster are, whether they can do the same work, and how it is shared out among them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltd.common.version import VERSION
from ltd.common.workers import fingerprint
from ltd.errors import InputError

PACKAGE = Path(__file__).parents[1]
TYPE = "accelerator_type:"  # begins the name of a resource that says what GPU there is
Facts = dict[str, str | int]


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of a cluster.

    Attributes:
        id: Ray's.
        name: for people: its host's name.
        cpus, gpus: that Ray has there.
        gpu: the type of its GPUs, as Ray calls it; None without.
        processors: how many threads are best there, see `ltd.common.threads.Processors`.
        unit: the vector instructions of its kernels.
        facts: see `ltd.common.machine.machine_facts`; without a GPU, as nobody has asked Ray for one.
    """

    id: str
    name: str
    cpus: int
    gpus: int
    gpu: str | None
    processors: int
    unit: str
    facts: Facts


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a node that one worker has: so many of its processors, for so many threads."""

    node: Node
    cpus: int
    threads: int


def find_nodes(ray: Any) -> list[Node]:
    """The nodes of the cluster that is connected to, in the order of their names.

    Raises:
        InputError: one has no ltd, or another one than this, or another torch; the message names it.
    """
    alive = sorted(
        (node for node in ray.nodes() if node["Alive"]), key=lambda node: (node["NodeManagerHostname"], node["NodeID"])
    )
    probe = ray.remote(probe_of(PACKAGE.name))
    affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    asked = [
        probe.options(num_cpus=0, scheduling_strategy=affinity(node["NodeID"], soft=False)).remote() for node in alive
    ]
    found = ray.get(asked)
    here = own_versions()
    for node, facts in zip(alive, found, strict=True):
        check_node(node["NodeManagerHostname"], facts, here)
    return [as_node(node, facts) for node, facts in zip(alive, found, strict=True)]


def as_node(node: dict[str, Any], facts: dict[str, Any]) -> Node:
    """A node from what Ray says of it, and what `probe_of` found there."""
    resources = node["Resources"]
    types = sorted(name.removeprefix(TYPE) for name in resources if name.startswith(TYPE))
    return Node(
        node["NodeID"],
        node["NodeManagerHostname"],
        int(resources.get("CPU", 0)),
        int(resources.get("GPU", 0)),
        types[0] if types else None,
        facts["processors"],
        facts["unit"],
        facts["machine"],
    )


def probe_of(package: str) -> Callable[[], dict[str, Any]]:
    """What tells of a node, whatever is installed there: it is sent as it is, not by its name."""

    def probe() -> dict[str, Any]:
        import importlib.util

        found: dict[str, Any] = {"ltd": None, "torch": None}
        spec = importlib.util.find_spec(package)
        if spec is None:
            return found
        try:
            from ltd.common.ray_nodes import own_versions

            found.update(own_versions())
        except ImportError:  # a version that is older than this
            found["ltd"] = "an older one"
            return found
        try:
            from ltd.common.machine import machine_facts, vector_unit
            from ltd.common.threads import find_processors

            found["processors"] = find_processors().threads
            found["unit"] = vector_unit()
            found["machine"] = machine_facts()
        except ImportError as error:  # of torch or the kernels
            found["error"] = str(error)
        return found

    return probe


def own_versions() -> dict[str, str | None]:
    """What must be the same on all machines: ltd, down to its Python sources, and torch."""
    sources = fingerprint(PACKAGE, "*.py")
    try:
        torch: str | None = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        torch = None
    return {"ltd": VERSION, "sources": sources, "torch": torch}


def check_node(name: str, facts: dict[str, Any], here: dict[str, str | None]) -> None:
    """Raises InputError unless what a probe found on a node is this ltd and this torch, and runs."""
    if facts["ltd"] is None:
        raise InputError(f"node {name} of Ray has no ltd; install ltd {here['ltd']} in the Python that Ray runs there")
    if facts["ltd"] != here["ltd"]:
        raise InputError(f"node {name} of Ray has ltd {facts['ltd']}, but this is ltd {here['ltd']}; install the same")
    if facts["sources"] != here["sources"]:
        raise InputError(
            f"node {name} of Ray has other sources of ltd {here['ltd']} than this machine; install the same"
        )
    if facts["torch"] != here["torch"]:
        raise InputError(
            f"node {name} of Ray has torch {facts['torch']}, but here is {here['torch']}; install the same"
        )
    if "error" in facts:
        raise InputError(f"node {name} of Ray cannot use ltd: {facts['error']}")


def share_out(nodes: Sequence[Node], cpus: int | None, gpu: bool) -> list[Share]:
    """A share for every worker: all of a node, or so many of its processors, or a GPU with its part of them.

    Raises:
        InputError: no node has as many processors, or a GPU.
    """
    shares = []
    for node in nodes:
        count = node.gpus if gpu else 1 if cpus is None else node.cpus // cpus
        count = min(count, node.cpus if cpus is None else node.cpus // cpus)
        each = cpus if cpus is not None else node.cpus // max(1, count)
        threads = node.processors if cpus is None and count == 1 else min(each, node.processors)
        shares += [Share(node, each, threads)] * count
    if not shares:
        largest = max((node.cpus for node in nodes), default=0)
        what = "a GPU" if gpu and not any(node.gpus for node in nodes) else f"{cpus or 1} processors for a worker"
        raise InputError(f"no node of Ray has {what}; the largest of {len(nodes)} has {largest} processors")
    return shares


def check_alike(nodes: Sequence[Node], gpu: bool) -> None:
    """Raises InputError if two nodes compute differently, so that results would depend on who does what."""
    advice = "use nodes with the same GPU" if gpu else "set LTD_CPU_ISA alike for Ray on all nodes"
    means = [(node.name, node.gpu if gpu else node.unit) for node in nodes]
    for name, mine in means:
        if mine != means[0][1]:
            raise InputError(
                f"node {means[0][0]} of Ray computes with {means[0][1]} and node {name} with {mine}, so that the last "
                f"bits of results would depend on which of them did what; {advice}"
            )


def shared_facts(shares: Sequence[Share], gpu: bool) -> Facts:
    """What all workers have in common of what the speed depends on; `threads` are those of a worker."""
    every: list[Facts] = [{**share.node.facts, "threads": share.threads} for share in shares]
    if gpu:
        every = [{**facts, "gpu": str(share.node.gpu)} for facts, share in zip(every, shares, strict=True)]
    return {name: value for name, value in every[0].items() if all(facts.get(name) == value for facts in every)}
