"""A plain reference of the whole lookup: every position is tried, lists are searched. Slow and obvious on purpose."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ltd.lookup.scores import TextScores

SEPARATOR = -1
LONGEST, DEEPEST, MOST_PLACES = 16, 16, 64


@dataclass(frozen=True)
class ListPlace:
    """Where the text's end stood before."""

    match: int
    end: int


@dataclass
class ListNode:
    """A candidate: what some places say below their parent's."""

    token: int
    parent: int
    depth: int
    log_chance: float
    cell: int
    places: list[ListPlace] = field(repr=False)


def match_of(text: Sequence[int], end: int) -> int:
    """How many tokens up to `end` are those up to the text's end."""
    for match in range(LONGEST):
        if match > end or text[end - match] != text[len(text) - 1 - match] or text[end - match] == SEPARATOR:
            return match
    return LONGEST


def places_of(text: Sequence[int], most_steps: int) -> list[ListPlace]:
    """The places of the text's end, best first."""
    found = []
    for length, above in ((4, LONGEST + 1), (2, 4), (1, 2)):
        same = [end for end in range(len(text) - 2, -1, -1) if match_of(text, end) >= length]
        for end in same[:most_steps]:
            if text[end + 1] != SEPARATOR and match_of(text, end) < above:
                found.append(ListPlace(match_of(text, end), end))
    return sorted(found, key=lambda place: (-place.match, -place.end))[:MOST_PLACES]


def said(text: Sequence[int], place: ListPlace, depth: int) -> int | None:
    """The token that a place says behind `depth` others; None when it has fallen silent."""
    continuation = list(text[place.end + 1 :][: depth + 1])
    period = len(text) - place.end - 1
    while len(continuation) <= depth:
        continuation.append(continuation[len(continuation) - period])
    return None if SEPARATOR in continuation else continuation[depth]


def agreement_of(parents: Sequence[ListPlace], child: Sequence[ListPlace]) -> int:
    """How the parent's longest-matching places agree on a child."""
    longest = [place for place in parents if place.match == max(other.match for other in parents)]
    saying = [place for place in longest if place in child]
    newest = max(longest, key=lambda place: place.end)
    if not saying:
        return 5
    if len(saying) == len(longest):
        return 0 if len(longest) == 1 else 1
    if newest in saying:
        return 2
    return 3 if len(saying) > 1 else 4


class ListIndex:
    """The text of one sequence, and what it proposes."""

    def __init__(self, scores: TextScores, most: int) -> None:
        self.scores, self.most = scores, most
        self.text: list[int] = []
        self.rate = np.float32(0.5)

    def extend(self, tokens: Iterable[int]) -> None:
        """Appends tokens."""
        for token in tokens:
            places = places_of(self.text, 8) if token != SEPARATOR else []
            if places:
                hit = np.float32(self.text[places[0].end + 1] == token)
                self.rate += (hit - self.rate) / np.float32(8)
            self.text.append(token)

    def nodes(self) -> list[ListNode]:
        """The candidates, best first."""
        nodes: list[ListNode] = []
        waiting = self.children(ListNode(0, -1, -1, 0.0, 0, places_of(self.text, 32)), -1)
        while waiting and len(nodes) < self.most:
            node = max(waiting, key=lambda node: node.log_chance)  # the first such
            waiting.remove(node)
            nodes.append(node)
            waiting += self.children(node, len(nodes) - 1)
        return nodes

    def children(self, node: ListNode, index: int) -> list[ListNode]:
        """In the order of their best places; none that is too deep or unlikely."""
        depth, groups = node.depth + 1, dict[int, list[ListPlace]]()
        for place in node.places:
            token = said(self.text, place, depth)
            if token is not None:
                groups.setdefault(token, []).append(place)
        speaking = [place for place in node.places if any(place in group for group in groups.values())]
        children = []
        for token, places in groups.items():
            match = min(LONGEST, places[0].match + depth)
            agreement = agreement_of(speaking, places)
            rate = 0 if self.rate < np.float32(1 / 3) else 1 if self.rate < np.float32(2 / 3) else 2
            log_chance = node.log_chance + math.log(float(self.scores.chances[match - 1, agreement, rate]))
            cell = (match - 1) * 18 + agreement * 3 + rate
            if depth < DEEPEST and log_chance >= math.log(0.01):
                children.append(ListNode(token, index, depth, log_chance, cell, places))
        return children

    def score(self, log_chance: float) -> float:
        """In a head's units."""
        logs, scores = self.scores.head_log_chances.astype(float), self.scores.head_scores.astype(float)
        if not len(logs):
            return log_chance
        inside = float(np.interp(log_chance, logs, scores))
        return inside + min(0.0, log_chance - logs[0]) + max(0.0, log_chance - logs[-1])

    def features(self, nodes: Sequence[ListNode]) -> list[float]:
        """All 24, of the candidates."""
        places = places_of(self.text, 32)
        by_depth = [max([-20.0, *(node.log_chance for node in nodes if node.depth == depth)]) for depth in range(8)]
        chances = [math.exp(node.log_chance) for node in nodes]
        longest = max((place.match for place in places), default=0)
        return [
            *(best / 4 for best in by_depth),
            *(math.exp(best) for best in by_depth),
            *(sum(chances[:count]) for count in (2, 4, 8, len(chances))),
            longest / 16,
            min(32, sum(place.match == longest for place in places)) / 32,
            len(nodes) / 32,
            float(self.rate),
        ]
