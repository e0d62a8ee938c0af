"""Times `transformers serve` with ltd and without it, beside the decoder of `ltd generate`: whole answers, in turns.

    python bench/serving.py --out out/bench/serving

Every question is asked of all of them in every round, and nothing else runs meanwhile. Seconds are those that a client
waits: protocol, prompt and answer. A round's questions have its number in front, so that nobody has read them before,
but for what stands before a question in every chat. Without ltd the server runs in the type of the others and, where
that is another one, in float32 too, which is faster for `transformers` on some processors.
"""

from __future__ import annotations

import json
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

import ltd
from console import wide_console
from ltd.common.json_files import parse_json
from ltd.common.table import Table
from ltd.custom_generate.export import export_model
from ltd.target.device import resolve_dtype
from server_process import served
from timing import circumstances, write_json

QUESTIONS = (
    "Explain why the sky is blue.",
    "Write a short story about a lighthouse keeper who finds a letter.",
    "List the months of the year, with the number of their days.",
    "Write a Python function that returns the n-th Fibonacci number.",
)
OURS, SERVED, PLAIN = "ltd generate", "transformers serve, with ltd", "transformers serve"
FLOAT32 = "float32"


@dataclass(frozen=True)
class Answer:
    """Attributes: way, question, text: who answered what, and how; tokens: new ones; seconds: until it was there."""

    way: str
    question: str
    text: str
    tokens: int
    seconds: float

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


Ask = Callable[[str], tuple[str, int]]


def of_decoder(decoder: ltd.Decoder, new_tokens: int) -> Ask:
    """Asks a decoder in this process."""

    def ask(question: str) -> tuple[str, int]:
        answer = decoder.generate(decoder.encode(question), max_new_tokens=new_tokens)
        assert isinstance(answer, ltd.Generation)
        return decoder.tokenizer.decode(answer.token_ids, skip_special_tokens=True), len(answer.token_ids)

    return ask


def of_server(address: str, model: Path, new_tokens: int) -> Ask:
    """Asks a server."""

    def ask(question: str) -> tuple[str, int]:
        messages = [{"role": "user", "content": question}]
        body = {"model": str(model), "messages": messages, "temperature": 0.0, "max_tokens": new_tokens}
        request = urllib.request.Request(
            f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as response:
            answer = parse_json(response.read(), dict[str, Any], address)
        return answer["choices"][0]["message"]["content"], answer["usage"]["completion_tokens"]

    return ask


def measure(ways: dict[str, Ask], rounds: int) -> list[Answer]:
    """The answers of all rounds, after one that does not count."""
    answers = []
    for count in range(rounds + 1):
        for question in QUESTIONS:
            asked = f"{count}. {question}"
            for way, ask in ways.items():
                start = time.perf_counter()
                text, tokens = ask(asked)
                if count > 0:
                    answers.append(Answer(way, asked, text, tokens, time.perf_counter() - start))
    return answers


def make_table(answers: list[Answer]) -> Table:
    """By way: the median rate, that over the decoder's for the same question and round, and how many texts are its."""
    by_way: dict[str, list[Answer]] = {}
    for answer in answers:
        by_way.setdefault(answer.way, []).append(answer)
    ours, rows = by_way[OURS], []
    for way, theirs in by_way.items():
        pairs = list(zip(theirs, ours, strict=True))
        rate, beside = (median(values) for values in zip(*((a.rate, a.rate / b.rate) for a, b in pairs), strict=True))
        same = sum(a.text == b.text for a, b in pairs)
        rows.append([way, f"{rate:.1f}", f"{beside:.2f}x", f"{same} of {len(pairs)}"])
    return Table("Whole answers", ["", "tokens/s", f"over {OURS}", "same text"], rows)


def main(
    out: Annotated[Path, typer.Option(help="Folder for results.json.")],
    target: Annotated[str | None, typer.Option(help="As of ltd generate.")] = None,
    draft: Annotated[str | None, typer.Option(help="As of ltd generate.")] = None,
    dtype: Annotated[str, typer.Option(help="As of ltd generate.")] = "auto",
    new_tokens: Annotated[int, typer.Option(min=1, help="Most new tokens of an answer.")] = 128,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = work / "served"
        export_model(target, folder, draft=draft, dtype=dtype)
        ways = {OURS: of_decoder(ltd.load(target, draft, dtype=dtype, device="cpu"), new_tokens)}
        servers = {SERVED: ["--trust-remote-code"], PLAIN: []}
        if resolve_dtype(dtype, torch.device("cpu")) != torch.float32:
            servers[f"{PLAIN}, {FLOAT32}"] = ["--dtype", FLOAT32]
        for way, options in servers.items():
            place = work / way
            place.mkdir()
            ways[way] = of_server(stack.enter_context(served(folder, place, *options)), folder, new_tokens)
        answers = measure(ways, rounds)
    table = make_table(answers)
    write_json(out / "results.json", {**circumstances(), "answers": [asdict(answer) for answer in answers]})
    wide_console().print(table.rich())


if __name__ == "__main__":
    typer.run(main)
