"""Which side of a run this process is on."""

from __future__ import annotations

from functools import cache

from ltd.parallel.follower import FollowingProcess
from ltd.parallel.leader import Leader
from ltd.parallel.peers import meet


@cache  # what is said goes one way, so there is one of them
def join() -> Leader | FollowingProcess:
    """Meets the other processes, all of which must ask for it; this one's side, the same one every time.

    Raises:
        InputError: there are no others, or they cannot be found.
    """
    peers = meet()
    return Leader(peers) if peers.is_first else FollowingProcess(peers)
