"""What two processes do in the tests of tensor parallelism: `torchrun … parallel_program.py FOLDER`.

Every process makes the same calls, and writes what came of them to `FOLDER/RANK.json`. What is called `first` is so in
the first process alone: the others have something else there, which must not matter.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from oracle_draft import OracleDraft
from transformers import AutoModelForCausalLM, RepetitionPenaltyLogitsProcessor
from transformers.distributed import DistributedConfig

import ltd
from ltd.cli.main import main as command
from ltd.parallel.joining import join
from ltd.policies import Policy
from ltd.policies.base import PolicyCall
from ltd.tree import DraftTree

FIRST = os.environ.get("RANK", "0") == "0"
PROMPTS = [[5, 9, 14, 33, 7], [40, 41, 42], [*range(20, 60)]]
REPEATING = [10, 11, 12, 13, 14, 15] * 8
WAYS = {
    ("llama", "head"): ("plain", "batch", "sampled", "begun", "lookup", "both", "read", "read on"),
    ("llama", "oracle"): ("sampled batch", "by the clock", "stream", "begun", "batch"),
    ("qwen3", "head"): ("batch", "by the clock"),
    ("qwen3", "oracle"): ("sampled batch", "stream"),
}
FAMILIES = ("llama", "qwen3")
TREE = ltd.Static(3, 12)
LONG = [3 + (place * place) % 90 for place in range(700)]


class ByTheClock:
    """Decides by a clock: no two processes would decide alike."""

    max_depth, max_size = 4, 24

    def start(self, batch: int) -> PolicyCall:
        return self

    def keep(self, rows: list[int]) -> None:
        pass

    def speculate(self, lengths: torch.Tensor, gained: list[int]) -> bool:
        return time.perf_counter_ns() // 100 % 4 != 0

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        return time.perf_counter_ns() // 100 % 4 != 0

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        return 1 + time.perf_counter_ns() // 100 % 20


def ids(answer: Any) -> Any:
    return [each.token_ids for each in answer] if isinstance(answer, list) else answer.token_ids


def sentence_of(work: Callable[[], Any]) -> str:
    """What is refused, and how."""
    try:
        work()
    except ltd.InputError as error:
        return str(error)
    return "nothing was refused"


def decoded(decoder: ltd.Decoder, policy: Policy, names: Iterable[str]) -> dict[str, Any]:
    """What a decoder makes of the prompts, in the ways of these names."""
    options: dict[str, Any] = {"max_new_tokens": 12}
    sampled = {**options, "temperature": 0.8, "top_k": 20, "seed": 3 if FIRST else 4}

    def begun() -> list[int]:
        stream = decoder.stream(PROMPTS[2], **options)
        news = next(stream) + next(stream)
        stream.close()
        return news

    ways: dict[str, Callable[[], Any]] = {
        "plain": lambda: ids(decoder.generate(PROMPTS[0], **options, policy="none")),
        "batch": lambda: ids(decoder.generate(PROMPTS, **options)),
        "sampled": lambda: ids(decoder.generate(PROMPTS[1], **sampled)),
        "sampled batch": lambda: ids(decoder.generate(PROMPTS, **sampled)),
        "by the clock": lambda: ids(decoder.generate(PROMPTS, **options, policy=policy)),
        "stream": lambda: list(chain.from_iterable(decoder.stream(PROMPTS[0], **options, policy=policy))),
        "begun": begun,
        "lookup": lambda: ids(decoder.generate(REPEATING, **options, policy=ltd.Lookup(8))),
        "both": lambda: ids(decoder.generate(REPEATING, **options, policy=ltd.Both(1, 4, 8))),
        "read": lambda: ids(decoder.generate(LONG, **options)),
        "read on": lambda: ids(decoder.generate(LONG + LONG[:50], **options)),
    }
    return {name: ways[name]() for name in names}


def generated(model: Any) -> dict[str, Any]:
    """What `generate` of `transformers` gives with a model, spread or not."""
    custom = ltd.CustomGenerate("lookup")
    rows = torch.tensor([PROMPTS[0], PROMPTS[0][::-1]])
    options: dict[str, Any] = {"max_new_tokens": 12, "pad_token_id": 2, "custom_generate": custom}
    options["attention_mask"] = torch.ones_like(rows)
    processors = [RepetitionPenaltyLogitsProcessor(1.3)]
    torch.manual_seed(1 if FIRST else 2)
    return {
        "generate": model.generate(rows, do_sample=False, **options).tolist(),
        "processed": model.generate(rows, do_sample=False, logits_processor=processors, **options).tolist(),
        "sampled": model.generate(rows, do_sample=True, temperature=0.7, **options).tolist(),
    }


def load(folder: Path, family: str, draft: Path | str, *, spread: bool) -> ltd.Decoder:
    """The tiny model of a family with a draft; "oracle" is one that is often right, so that its trees are accepted."""
    options: dict[str, Any] = {"dtype": "float32", "device": "cpu", "tensor_parallel": spread}
    if draft != "oracle":
        return ltd.load(folder / family, draft, policy=TREE, **options)
    decoder = ltd.load(folder / family, "lookup", **options)
    if FIRST:
        model = AutoModelForCausalLM.from_pretrained(folder / family, dtype=torch.float32).eval()
        decoder.draft, decoder.policy = OracleDraft(model, noise=1.0), TREE
    return decoder


def in_one_process(folder: Path, family: str) -> dict[str, Any]:
    """What the processes together should come to."""
    model = AutoModelForCausalLM.from_pretrained(folder / family, dtype=torch.float32).eval()
    drafts = {"head": folder / f"{family}-head", "oracle": "oracle"}
    decoders = {name: load(folder, family, draft, spread=False) for name, draft in drafts.items()}
    found = {name: decoded(decoder, TREE, WAYS[family, name]) for name, decoder in decoders.items()}
    return found if family == "llama" else found | {"transformers": generated(model)}


def in_several(folder: Path, family: str) -> dict[str, Any]:
    """The same in processes that share the target."""
    decoder = load(folder, family, folder / f"{family}-head", spread=True)
    found: dict[str, Any] = {"head": decoded(decoder, ByTheClock(), WAYS[family, "head"])}
    found["statistics"] = decoder.last_statistics.to_dict()
    found["refused"] = [
        sentence_of(lambda: decoder.generate([])),
        sentence_of(lambda: decoder.generate(PROMPTS[0], temperature=-1.0)),
    ]
    found["output layer"] = join().once("weights", lambda: output_layer(decoder))
    if FIRST:
        found["outside"] = sentence_of(lambda: decoder.target.session(1, 64))
    sure = load(folder, family, "oracle", spread=True)
    found["oracle"] = decoded(sure, ByTheClock(), WAYS[family, "oracle"])
    found["accepted"] = [gain - 1 for gain in sure.last_statistics.gains]
    if family == "llama":
        return found
    plan = DistributedConfig(tp_size=2, tp_plan="auto")
    model = AutoModelForCausalLM.from_pretrained(folder / family, dtype=torch.float32, distributed_config=plan).eval()
    found["transformers"] = generated(model)
    return found


def output_layer(decoder: ltd.Decoder) -> list[list[float]]:
    """The weights of the target's output layer, as heads get them that have none of their own."""
    layers: Any = decoder.target.forward
    weight: list[list[float]] = layers.get_output_embeddings().weight.tolist()
    return weight


def main(folder: Path) -> None:
    """All of it; at the end the second process leaves, and the first one calls once more."""
    found: dict[str, Any] = {family: in_several(folder, family) for family in FAMILIES}
    found["codes"] = [command(call) for call in json.loads((folder / "commands.json").read_text())]
    decoder = load(folder, "llama", "oracle", spread=True)
    if FIRST:
        found["left alone"] = sentence_of(lambda: decoder.generate(PROMPTS[0]))
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # without a goodbye


if __name__ == "__main__":
    main(Path(sys.argv[1]))
