"""How fast the shards of a run were written, kept beside them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ltd.common.files import write_text
from ltd.common.json_files import read_json

RATES = "rates.json"


@dataclass(frozen=True, slots=True)
class ShardRate:
    """One shard: its kind of text, its tokens, given ones included, and what it took and could take at least."""

    kind: str
    tokens: int
    seconds: float
    least_seconds: float

    def __str__(self) -> str:
        return (
            f"{self.kind}, {self.tokens:,} tokens at {self.tokens / max(self.seconds, 1e-9):,.0f}/s, "
            f"{100 * self.least_seconds / max(self.seconds, 1e-9):.0f} % of the machine's floor"
        )


class WritingRates:
    """The rates of all shards that this folder's run has timed, by their number."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / RATES
        self.shards: dict[str, ShardRate] = {}
        if self.file.exists():
            self.shards = read_json(self.file, dict[str, ShardRate], str(self.file))

    def add(self, number: int, rate: ShardRate) -> None:
        """Keeps a shard's rate."""
        self.shards[str(number)] = rate
        write_text(self.file, json.dumps({name: asdict(shard) for name, shard in self.shards.items()}, indent=1) + "\n")

    @property
    def seconds_per_token(self) -> float:
        """The mean over all shards; 0 where none was timed."""
        tokens = sum(shard.tokens for shard in self.shards.values())
        return sum(shard.seconds for shard in self.shards.values()) / tokens if tokens else 0.0

    def facts(self) -> dict[str, Any]:
        """Tokens a second, and the share of what the machine's floor allows, of all shards and by kind of text."""
        kinds = {kind: [each for each in self.shards.values() if each.kind == kind] for kind in
                 sorted({each.kind for each in self.shards.values()})}  # fmt: skip
        return {name: _facts(shards) for name, shards in {"all": list(self.shards.values()), **kinds}.items() if shards}


def _facts(shards: list[ShardRate]) -> dict[str, float]:
    seconds = max(sum(shard.seconds for shard in shards), 1e-9)
    return {
        "tokens_per_second": round(sum(shard.tokens for shard in shards) / seconds, 1),
        "share_of_floor": round(sum(shard.least_seconds for shard in shards) / seconds, 3),
    }
