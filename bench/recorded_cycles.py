"""Whether cycles that are recorded give what cycles that are called give, in every kind of request.

    python bench/recorded_cycles.py --device cuda

Two decoders of the same tiny planted models in float32 (`planted_models.py`), one of which records nothing, answer the
same prompts: with static trees, with the text's candidates too, with a learned policy (of random weights) and without
trees; greedily and sampled, one prompt and three at once, each twice, so that recordings are used again. The greedy
text must be the planted one as well. Ends with exit code 1, and says where, if a text differs or, on a GPU, if a
request has recorded nothing, or calls what it should replay.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ltd.engine.captures import Plain
from ltd.errors import InputError
from ltd.loading import check_kernels
from ltd.policies import Both, Learned, Policy, Static
from ltd.policies.learned.network import Network
from ltd.policies.learned.observation import Summary
from ltd.policies.learned.setting import Setting
from ltd.target.device import resolve_device
from planted_models import SHAPES, Plan, Planted, plant
from random_weights import random_weights
from watched_captures import WatchedCaptures

SHAPE, DEPTH, TAU = "tiny-llama", 4, 3.0
LENGTHS = (7, 30, 480)  # of the prompts, before what is repeated; the last text passes the first of `KVCache`'s cuts
REPEATED = 20  # tokens of the text that follows; they stand in the prompt already, so that they can be looked up
NEW = 60  # tokens of an answer
LADDER = (4, 8, 20)
WARM = 16.0  # the planted logits are far above all others; at this temperature about every third token is another


@dataclass(frozen=True)
class Kind:
    """A kind of request.

    Attributes:
        policy: None is plain decoding.
        temperature: 0 is greedy.
        batch: prompts at once.
    """

    policy: Policy | None
    temperature: float
    batch: int

    def __str__(self) -> str:
        way = "greedy" if self.temperature == 0 else f"temperature {self.temperature:g}"
        return f"{self.policy or 'plain'}, {way}, batch {self.batch}"


def learned_policy(width: int) -> Learned:
    """One that decides by states and scores, with random networks."""
    layout = Summary(best=5, newest=2, states=SHAPES[SHAPE].config.hidden_size)
    generator = torch.Generator().manual_seed(0)
    drawn = (random_weights([layout.width, outputs], generator) for outputs in (2, len(LADDER)))
    depth, size = (Network(layout, tuple(weights)) for weights in drawn)
    return Learned(Setting(width), DEPTH, LADDER, depth, size)


def all_kinds(width: int) -> Iterator[Kind]:
    """Every policy, greedy and sampled, alone and in a batch."""
    policies = (None, Static(DEPTH, 20), Both(DEPTH, 12, 8), Both(2, 4, 8, alone=0.3), learned_policy(width))
    for policy, temperature, batch in itertools.product(policies, (0.0, WARM), (1, len(LENGTHS))):
        yield Kind(policy, temperature, batch)


def prompts_of(plan: Plan, count: int) -> list[list[int]]:
    """So many, each with the beginning of its own answer in it."""
    begun = [plan.prompt(length, seed) for seed, length in enumerate(LENGTHS[:count])]
    return [[*prompt, *plan.text(prompt[-1], REPEATED), prompt[-1]] for prompt in begun]


def answers(planted: Planted, kind: Kind) -> list[list[int]]:
    """The new tokens of each prompt."""
    prompts = prompts_of(planted.plan, kind.batch)
    policy = "none" if kind.policy is None else kind.policy
    found = planted.decoder.generate(prompts, max_new_tokens=NEW, temperature=kind.temperature, seed=3, policy=policy)
    return [answer.token_ids for answer in found]


def known_texts(plan: Plan, count: int) -> list[list[int]]:
    """What greedy answers must be."""
    return [plan.text(prompt[-1], NEW) for prompt in prompts_of(plan, count)]


def faults(device: torch.device) -> Iterator[str]:
    """What is wrong, a sentence for each kind of request; a line is printed for every kind."""
    recorded, called = (plant(SHAPE, DEPTH, TAU, torch.float32, device) for _ in range(2))
    called.decoder.target.captures = Plain  # type: ignore[method-assign]
    captures = WatchedCaptures(recorded.decoder.target)
    for kind in all_kinds(recorded.decoder.draft.width):
        captures.made.clear()
        expected = answers(called, kind)
        right = [answers(recorded, kind) == expected for _ in range(2)]
        if kind.temperature == 0:
            right.append(expected == known_texts(called.plan, kind.batch))
        missing = captures.fault() if device.type == "cuda" else None
        print(f"{kind}: {'equal' if all(right) else 'NOT EQUAL'}, {len(captures.reports())} recordings", flush=True)
        if not all(right):
            yield f"{kind}: another text"
        if missing is not None:
            yield f"{kind}: {missing}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu, where nothing is recorded)")
    options = parser.parse_args(arguments)
    try:
        device = resolve_device(options.device)
        if device.type == "cuda":
            check_kernels(device)
        found = list(faults(device))
    except InputError as error:
        print(f"recorded_cycles.py: {error}", file=sys.stderr)
        return 2
    for fault in found:
        print(f"recorded_cycles.py: {fault}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
