"""Tokens per second of what one could generate with instead of `ltd`, on the same prompts, in one interleaved run.

    python bench/peers.py --data-dir DIR --out DIR [--tasks mt_bench,gsm8k,alpaca,qa] [--limit N] [--threads 2]
                          [--method METHOD] … [--lookup 10] … [--gguf FILE] [--target …] [--draft …] [--dtype …]

The rows: `transformers`, plain and with prompt lookup; llama.cpp through llama-cpp-python, the same, with the GGUF
file as it is and converted to the type of the others; `ltd`, plain and with its own methods, as `ltd eval` names them.
Every prompt goes to all of them in turn, each time beginning with the next one; a conversation goes on with the answers
of plain `transformers`, so the prompts are the same for all. All are greedy.

The prefill is left out in the same way for all: the rate is Σ tokens after the first arrival / Σ seconds from the first
arrival to the last, on one clock outside of the engines. What arrives first may be several tokens, where an engine
already drafts in its first forward; none of them counts.

Writes `results.json`, `table.md` and `plot.png` into the folder; a run that was killed goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import ltd
from console import wide_console
from ltd.cli.options import names
from ltd.common.files import expand_user
from ltd.common.journal import Journal, Record
from ltd.common.threads import set_threads
from ltd.decoding.decoder import Decoder
from ltd.errors import InputError
from ltd.evaluation.compare import WARM_UP_TOKENS, token_hash
from ltd.evaluation.encoding import encode_turn
from ltd.evaluation.method_table import BASELINE
from ltd.evaluation.methods import TreeMethod
from ltd.evaluation.questions import TASKS, Turn, all_turns, load_questions
from ltd.evaluation.run_config import RunConfig, choose_methods, in_rotation, run_settings
from ltd.ops.library import build_info
from ltd.target.device import resolve_dtype
from ltd.target.locate import packaged_gguf
from ltd.target.model import load_model
from peer_engines import (
    LlamaCppPeer,
    LtdPeer,
    Peer,
    TransformersPeer,
    answer,
    converted,
    llama_cpp_build,
    llama_cpp_refusal,
)
from peers_report import write_report
from timing import command_line, write_json

CONTEXT = 4096  # prompt and answer together; more than the tasks need, less than some models would allocate
CPU = torch.device("cpu")
QUANTISED = "llama.cpp quantised"
Samples = dict[tuple[str, str, int, str], Record]  # by task, question, turn (from 0), row


@dataclass(frozen=True, slots=True)
class PeersConfig(RunConfig):
    """What to compare, on what; `out` is a folder.

    Attributes:
        methods: of ltd, beside plain decoding; trees and looked-up tokens, as `TreeMethod` reads them.
        lookups: how many tokens prompt lookup proposes at most.
        gguf: the model for llama.cpp; None is the target, if it is a GGUF file or the default.
    """

    dtype: str = "bfloat16"
    methods: tuple[str, ...] = ("static:1:4", "eagle3")
    lookups: tuple[int, ...] = (2, 10)  # what llama-cpp-python recommends for CPUs, and the usual number elsewhere
    gguf: str | None = None

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)  # not super(): a dataclass with slots is a new class that super() does not know
        if self.max_new_tokens < 2:
            raise InputError(f"max_new_tokens is {self.max_new_tokens}; a rate begins with the second token")
        if min(self.lookups) < 1:
            raise InputError(f"lookup is {min(self.lookups)}; it counts proposed tokens, so it must be at least 1")
        chosen = [row.name for row in make_rows(self, with_llama_cpp=True)]
        if len(set(chosen)) != len(chosen):
            raise InputError(f"the rows are {'; '.join(chosen)}; name each method and each lookup once")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: an engine, and how it decodes.

    Attributes:
        engine: transformers, llama.cpp quantised, llama.cpp with the type of the others, or ltd.
        method: ltd's way; None for the others.
        lookup: the others' proposed tokens; None is plain decoding.
    """

    engine: str
    method: TreeMethod | None = None
    lookup: int | None = None

    @property
    def name(self) -> str:
        """For people and files."""
        if self.method is not None and self.method.name != BASELINE:
            return f"{self.engine}, {self.method.name}"
        return f"{self.engine}, plain" if self.lookup is None else f"{self.engine}, lookup {self.lookup}"

    @property
    def plain(self) -> str:
        """The row of the same engine's plain decoding, whose text this one should give."""
        return f"{self.engine}, plain"


REFERENCE = Row("transformers").name
OURS = Row("ltd").name


def make_rows(config: PeersConfig, with_llama_cpp: bool) -> list[Row]:
    """All rows, in the order of the table."""
    dtype = str(resolve_dtype(config.dtype, CPU)).removeprefix("torch.")
    others = ("transformers", QUANTISED, f"llama.cpp {dtype}") if with_llama_cpp else ("transformers",)
    return [
        *(Row(engine, lookup=lookup) for engine in others for lookup in (None, *config.lookups)),
        *(Row("ltd", method=TreeMethod.named(name)) for name in (BASELINE, *config.methods)),
    ]


def chosen_rows(config: PeersConfig, with_llama_cpp: bool) -> list[Row]:
    """The rows, with the policies that `ltd`'s methods come to here; raises InputError as `choose_methods` does."""
    rows = make_rows(config, with_llama_cpp)
    names = [row.method.name for row in rows if row.method is not None]
    chosen = {method.name: method for method in choose_methods(config, names)}
    return [row if row.method is None else replace(row, method=chosen[row.method.name]) for row in rows]


def find_gguf(config: PeersConfig) -> Path | None:
    """The file for llama.cpp, or None. Raises InputError if the one that was named is not there."""
    if config.gguf is not None or str(config.target).endswith(".gguf"):
        file = expand_user(config.gguf or str(config.target))
        if not file.is_file():
            raise InputError(f"there is no GGUF file at {file}")
        return file
    return packaged_gguf() if config.target is None else None


# --- the run ---


def compare(config: PeersConfig) -> Record:
    """Runs what is missing, writes `results.json` into the folder, and returns what it holds.

    Raises:
        InputError: something in the config or the data is wrong, or the folder is another run's; before a model loads.
    """
    set_threads(config.threads)  # a tuned policy may be made for a number of threads
    questions = load_questions(config.data_dir, config.tasks, config.limit)
    gguf = find_gguf(config)
    refusal = llama_cpp_refusal(gguf)
    rows = chosen_rows(config, with_llama_cpp=refusal is None)
    methods = [row.method for row in rows if row.method is not None]
    settings = {**run_settings(config, questions, methods), **peer_settings(rows, gguf, refusal)}
    pairs = in_rotation(all_turns(questions), rows)
    with Journal(config.out / "samples.jsonl", settings) as journal:
        samples: Samples = {(s["task"], s["question_id"], s["turn"], s["method"]): s for s in journal.records}
        missing = [(turn, row) for turn, row in pairs if (*turn.key, row.name) not in samples]
        if missing:
            generate_missing(config, missing, samples, journal, gguf)
    facts = {"command": command_line(), "build": build_info(), "settings": settings}
    results = {**facts, "samples": published(pairs, samples)}
    write_json(config.out / "results.json", results)
    return results


def peer_settings(rows: Sequence[Row], gguf: Path | None, refusal: str | None) -> Record:
    """What the results depend on beside `run_settings`."""
    packages = ("transformers", "llama-cpp-python") if refusal is None else ("transformers",)
    return {
        "methods": [row.name for row in rows],
        "reference": REFERENCE,
        "baseline": OURS,
        "temperature": 0.0,
        "llama_cpp_refusal": refusal,
        "llama_cpp_build": llama_cpp_build() if refusal is None else None,
        "gguf": gguf.name if gguf is not None else None,
        "gguf_bytes": gguf.stat().st_size if gguf is not None else None,
        "versions": {package: version(package) for package in packages},
    }


def generate_missing(
    config: PeersConfig, missing: Sequence[tuple[Turn, Row]], samples: Samples, journal: Journal, gguf: Path | None
) -> None:
    """Loads what is to be compared, warms it up, and adds the missing samples to `samples` and to the journal."""
    options: dict[str, Any] = {"dtype": config.dtype, "device": CPU, "threads": config.threads}
    decoder = ltd.load(config.target, config.draft, **options, reuse_mib=0)  # each peer reads the whole prompt
    rows = {row.name: row for _, row in missing}.values()
    peers = load_peers(config, list(rows), decoder, gguf)
    first = Turn(missing[0][0].question, 0)
    for peer in peers.values():
        answer(peer, encode_prompt(first, decoder, samples, config), min(WARM_UP_TOKENS, config.max_new_tokens))
    for turn, row in tqdm(missing, unit="answer", desc="comparing"):
        prompt = encode_prompt(turn, decoder, samples, config)
        place = dict(zip(("task", "question_id", "turn"), turn.key, strict=True))
        sample = {**place, "method": row.name, **answer(peers[row.name], prompt, config.max_new_tokens)}
        samples[(*turn.key, row.name)] = sample
        journal.append(sample)


def load_peers(config: PeersConfig, rows: Sequence[Row], decoder: Decoder, gguf: Path | None) -> dict[str, Peer]:
    """By row; `transformers` gets a model of its own, as a user would load it."""
    model = load_model(config.target, decoder.target.dtype, CPU).model
    peers: dict[str, Peer] = {}
    for row in rows:
        if row.method is not None:
            assert row.method.chosen is not None, "rows are chosen before they are loaded"
            policy = row.method.chosen.policy or BASELINE
            decoder.speculation(policy)  # raises if its trees are too large
            peers[row.name] = LtdPeer(decoder, policy)
        elif row.engine == "transformers":
            peers[row.name] = TransformersPeer(model, decoder.stop_ids, row.lookup)
        else:
            assert gguf is not None
            peers[row.name] = load_llama_cpp(row, decoder, gguf)
    return peers


def load_llama_cpp(row: Row, decoder: Decoder, gguf: Path) -> LlamaCppPeer:
    """The file as it is or in the others' type. Raises InputError if it cannot be the decoder's model."""
    file = gguf if row.engine == QUANTISED else converted(gguf, decoder.target.dtype)
    context = min(CONTEXT, decoder.max_length)
    peer = LlamaCppPeer(file, context, torch.get_num_threads(), decoder.stop_ids, row.lookup)
    if peer.vocab_size != decoder.target.vocab_size:
        raise InputError(
            f"{gguf} has a vocabulary of {peer.vocab_size}, the target one of {decoder.target.vocab_size}; "
            "name the target's own file with --gguf"
        )
    return peer


def encode_prompt(turn: Turn, decoder: Decoder, samples: Samples, config: PeersConfig) -> list[int]:
    """The prompt, after the reference's answers to the turns before; InputError if it is too long for some engine."""
    prompt = encode_turn(decoder, turn, [samples[(*key, REFERENCE)]["token_ids"] for key in turn.before])
    room = min(CONTEXT, decoder.max_length) - config.max_new_tokens
    if len(prompt) > room:
        raise InputError(
            f"{turn.title}: the prompt has {len(prompt)} tokens, and beside {config.max_new_tokens} new ones there is "
            f"room for {max(room, 0)}; ask for fewer, or shorten the prompt"
        )
    return prompt


def published(pairs: Sequence[tuple[Turn, Row]], samples: Samples) -> list[Record]:
    """The samples as `results.json` holds them: a hash for the ids, and whose texts they equal.

    `same_as_reference` compares with plain `transformers`, `same_as_plain` with plain decoding in the same engine; both
    are null where that would be comparing a text with itself.
    """
    results = []
    for turn, row in pairs:
        sample = dict(samples[(*turn.key, row.name)])
        token_ids = sample.pop("token_ids")
        sample["token_ids_sha256"] = token_hash(token_ids)
        for name, other in (("same_as_reference", REFERENCE), ("same_as_plain", row.plain)):
            same = token_ids == samples[(*turn.key, other)]["token_ids"]
            sample[name] = None if other == row.name else same
        results.append(sample)
    return results


# --- the command ---


def parse(arguments: list[str] | None) -> PeersConfig:
    """The command line as a config; raises InputError for values that cannot be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data-dir", type=Path, help="holds TASK/question.jsonl; default: well-known tasks are fetched"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--tasks", type=names, default=TASKS, help="with commas between (default: all four)")
    parser.add_argument("--limit", type=int, help="only the first so many questions of every task")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--target", help="a model folder, GGUF file or hub name; default: the default target")
    parser.add_argument("--draft", help="its head; default: the shipped one")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, help="of every engine; default: torch's own choice")
    parser.add_argument(
        "--method", dest="methods", action="append", help="of ltd, as ltd eval knows it; may be repeated"
    )
    parser.add_argument("--lookup", dest="lookups", action="append", type=int, metavar="N", help="may be repeated")
    parser.add_argument("--gguf", help="the model for llama.cpp; default: the target's own file")
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    return PeersConfig(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def main(arguments: list[str] | None = None) -> None:
    try:
        config = parse(arguments)
        results = compare(config)
    except InputError as error:
        sys.exit(f"error: {error}")
    write_report(results, config.out, wide_console())


if __name__ == "__main__":
    main()
