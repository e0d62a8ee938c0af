"""Serves a target with an exported head in the CPU build of vLLM: is the text the same, and are the drafts any good?

    python bench/vllm_check.py --out out/vllm-check [--python .venv/vllm/bin/python] [--drafted 1,3] [--new-tokens 64]
                               [--target …] [--head …] [--floor 0.9]

`make vllm-check` sets up vLLM's environment first; the two share no packages. The head is written as `ltd export --to
vllm` writes it. vLLM answers the same questions plainly and with the head, greedily, in float32, one at a time. Beside
its drafts stand those of the same head here, as chains: they must be accepted about as often. Ends with exit code 1 if
a text differs from plain vLLM's, or if fewer drafts are accepted than `--floor` times what they are here. Whether plain
vLLM's text is ours is shown too; two engines may part at a near tie.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import vllm_engine
from console import wide_console
from ltd.cli.export import write_head
from ltd.cli.options import names
from ltd.common.assets import shipped_head
from ltd.common.files import expand_user
from ltd.common.json_files import read_json
from ltd.common.program import run_program
from ltd.common.table import Table
from ltd.custom_generate.export import folder_of
from ltd.decoding.decoder import Decoder, Generation
from ltd.drafts.eagle3.draft import Eagle3Draft
from ltd.drafts.eagle3.files import load_head
from ltd.errors import InputError
from ltd.loading import make_target
from ltd.policies import Static
from ltd.target.model import NamedModel, load_model, stop_token_ids
from timing import circumstances, write_json

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
SLACK = 16  # what vLLM may draft behind the end of an answer
QUESTIONS = (
    "Explain why the sky is blue.",
    "Name three rivers and the countries that they flow through.",
    "Write a short poem about the sea.",
    "What is the difference between a list and a tuple in Python?",
    "Give me a recipe for pancakes.",
    "Why do cats purr?",
    "List the planets of the solar system, the nearest to the sun first.",
    "Write a Python function that returns the n-th Fibonacci number.",
)


@dataclass(frozen=True)
class Row:
    """vLLM with so many drafted tokens at a time, beside plain vLLM and the head here.

    Attributes:
        drafted: tokens at a time; 0 is plain decoding.
        questions: how many there were.
        same_as_plain, same_as_ours: answers that are plain vLLM's, and `ltd`'s plain decoding's.
        drafts, accepted: how often the head drafted in vLLM, and how many of these drafts were accepted up to their
            first, second … token at least.
        ours: accepted tokens per draft here; 0 in plain decoding.
    """

    drafted: int
    questions: int
    same_as_plain: int
    same_as_ours: int
    drafts: int
    accepted: list[int]
    ours: float

    @property
    def theirs(self) -> float:
        """Accepted tokens per draft in vLLM."""
        return sum(self.accepted) / self.drafts if self.drafts else 0.0

    def complaints(self, floor: float) -> list[str]:
        """What is wrong, for people; nothing if all is well."""
        found, name = [], f"with {self.drafted} drafted tokens"
        if self.same_as_plain < self.questions:
            found.append(f"{name} {self.questions - self.same_as_plain} of {self.questions} texts are not plain vLLM's")
        if self.theirs < floor * self.ours:
            found.append(f"{name} {self.theirs:.2f} tokens of a draft are accepted, but {self.ours:.2f} here")
        return found


# --- both sides ---


class Ours:
    """The target and the head in this process, in float32.

    Args:
        target: of the model.
        head: a folder with an EAGLE-3 head.
    """

    def __init__(self, target: NamedModel, head: Path) -> None:
        loaded = load_model(target, torch.float32, CPU)
        weights = load_head(head, torch.float32, CPU, target=loaded.model)
        stop_ids = stop_token_ids(loaded.model, loaded.tokenizer)
        model = make_target(loaded.model, weights.config.feature_layers, takes_weights=True)
        chain = Eagle3Draft(weights, model.embedding, width=1)  # as engines draft: one token after the other
        self.decoder = Decoder(model, chain, tokenizer=loaded.tokenizer, stop_ids=stop_ids)

    def answers(self, prompts: Sequence[list[int]], new_tokens: int, drafted: int) -> tuple[list[list[int]], float]:
        """The greedy text of all prompts, and how many tokens of a draft were accepted on average."""
        policy = Static(depth=drafted - 1, size=drafted) if drafted else "none"
        texts, gains = [], []
        for prompt in prompts:
            answer = self.decoder.generate(prompt, max_new_tokens=new_tokens, policy=policy)
            assert isinstance(answer, Generation)
            texts.append(answer.token_ids)
            gains += answer.statistics.gains
        return texts, sum(gains) / len(gains) - 1 if gains else 0.0


def ask_vllm(python: Path, job: dict[str, Any], work: Path) -> dict[str, Any]:
    """What an engine of vLLM in a process of its own says to a job; InputError with the end of its log if it fails."""
    name = f"engine-{job['drafted']}"
    out, log = work / f"{name}.json", work / f"{name}.log"
    with log.open("w") as output:
        command = [str(python), vllm_engine.__file__, str(out)]
        done = subprocess.run(command, input=json.dumps(job), text=True, stdout=output, stderr=output, check=False)
    if done.returncode != 0:
        raise InputError(f"vLLM did not answer (exit code {done.returncode}); the end of its log: {tail_of(log)}")
    return read_json(out, dict[str, Any])


def tail_of(log: Path) -> str:
    """The last lines of a log."""
    return " / ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])


# --- the check ---


def check(options: argparse.Namespace) -> tuple[list[Row], dict[str, str]]:
    """A row for plain decoding and for each number of drafted tokens; and the versions of vLLM and its torch.

    Raises:
        InputError: something cannot be found, or an engine of vLLM fails.
    """
    python = expand_user(options.python)
    if not python.is_file():
        raise InputError(f"there is no Python at {python}; make vllm-check sets up one with vLLM in it")
    head = shipped_head() if options.head is None else expand_user(options.head)
    target = NamedModel(options.target)
    folder = folder_of(target)
    ours = Ours(target, head)
    prompts = [ours.decoder.encode(question) for question in QUESTIONS[: options.limit]]
    steps = (0, *options.drafted)
    job: dict[str, Any] = {
        "model": str(folder),
        "prompts": prompts,
        "new_tokens": options.new_tokens,
        "stop_token_ids": list(ours.decoder.stop_ids),
        "max_length": max(map(len, prompts)) + options.new_tokens + SLACK,
    }
    here = [ours.answers(prompts, options.new_tokens, drafted) for drafted in steps]
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        write_head(str(work / "head"), "vllm", str(head), "bfloat16", None, None)
        job["head"] = str(work / "head")
        said = [ask_vllm(python, {**job, "drafted": drafted}, work) for drafted in tqdm(steps, desc="vLLM")]
    rows = []
    for drafted, there, (texts, accepted) in zip(steps, said, here, strict=True):
        plain, ours_too = (count_same(there["answers"], others) for others in (said[0]["answers"], texts))
        rows.append(Row(drafted, len(prompts), plain, ours_too, there["drafts"], there["accepted"], accepted))
    return rows, {"vllm": said[0]["vllm"], "vllm's torch": said[0]["torch"]}


def count_same(answers: Sequence[list[int]], others: Sequence[list[int]]) -> int:
    """How many answers are the same."""
    return sum(one == other for one, other in zip(answers, others, strict=True))


def make_table(rows: Sequence[Row]) -> Table:
    """The rows, for people."""
    columns = ["", "as plain vLLM", "as ltd", "drafts", "accepted, token by token", "tokens per draft", "here"]
    cells = []
    for row in rows:
        same = [f"{count} of {row.questions}" for count in (row.same_as_plain, row.same_as_ours)]
        name = f"{row.drafted} drafted" if row.drafted else "plain"
        shares = ", ".join(f"{count / row.drafts:.2f}" for count in row.accepted) if row.drafts else "-"
        means = [f"{row.theirs:.2f}", f"{row.ours:.2f}"] if row.drafted else ["-", "-"]
        cells.append([name, *same, f"{row.drafts}" if row.drafted else "-", shares, *means])
    return Table("vLLM with the exported head", columns, cells)


# --- the command ---


def counts(text: str) -> list[int]:
    """Numbers of tokens with commas between; raises for what is none, as argparse wants it."""
    found = [int(name) for name in names(text)]
    if not found or min(found) < 1 or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError("name numbers of at least 1, each once")
    return found


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for results.json")
    parser.add_argument("--python", type=Path, default=ROOT / ".venv/vllm/bin/python", help="one that has vLLM")
    parser.add_argument("--target", help="as of ltd generate")
    parser.add_argument("--head", help="folder of an EAGLE-3 head (default: the shipped one)")
    parser.add_argument("--drafted", type=counts, default=[1, 3], help="tokens at a time, with commas between")
    parser.add_argument("--new-tokens", type=int, default=64, help="most new tokens of an answer")
    numbers = range(1, len(QUESTIONS) + 1)
    parser.add_argument("--limit", type=int, default=len(QUESTIONS), choices=numbers, help="most questions")
    parser.add_argument("--floor", type=float, default=0.9, help="least acceptance, as a part of what it is here")
    return parser.parse_args(arguments)


def run(arguments: Sequence[str] | None) -> int:
    """Checks, prints and writes; 1 if anything is wrong."""
    options = parse(arguments)
    rows, versions = check(options)
    complaints = [line for row in rows for line in row.complaints(options.floor)]
    facts = {**circumstances(), **versions, "new_tokens": options.new_tokens, "floor": options.floor}
    write_json(options.out / "results.json", {**facts, "rows": [asdict(row) for row in rows], "wrong": complaints})
    wide_console().print(make_table(rows).rich())
    for line in complaints:
        print(f"wrong: {line}", file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(run_program(lambda: run(None)))
