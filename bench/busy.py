"""Tokens per second while other processes want the same processors: does an engine keep its share?

    python bench/busy.py [--out DIR] [--competitors 0,1,2,4] [--threads 1,2] [--seconds 4] [--rounds 2] [--prompt TEXT]
                         [--target …] [--draft …] [--dtype bfloat16] [--gguf FILE]

Competitors are processes that count in a loop. Beside them run, in turns on one prompt, plain decoding of
`transformers`, of llama.cpp where it is installed (`bench/peers.py` says how), and of `ltd`, and `ltd` with the policy
that it takes by itself. An answer is cut off when its time is over; rates leave the prefill out, as in `peers.py`.

The fair share of a rate is that of the quiet machine times the part of a processor that each of the engine's threads
would have if all threads and competitors had the same: cores / (threads + competitors), at most 1. The quiet rate is
that of the same tokens: how many a cycle brings depends on the text, and a busy machine does not come as far in it.

`--out` writes `busy.json` and `table.md`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import PreTrainedModel

import ltd
from console import wide_console
from ltd.common.files import expand_user, write_text
from ltd.common.table import Table
from ltd.common.threads import check_threads, usable_cores
from ltd.decoding.decoder import Decoder
from ltd.errors import InputError
from ltd.evaluation.encoding import encode_turn
from ltd.evaluation.questions import Question, Turn
from ltd.evaluation.transformers_reference import Arrivals
from ltd.target.locate import packaged_gguf
from ltd.target.model import load_model
from peer_engines import LtdPeer, Peer, TransformersPeer, llama_cpp_refusal
from peers import Row, load_llama_cpp
from timing import circumstances, write_json

CPU = torch.device("cpu")
PROMPT = "Tell me how a bicycle stays upright, and then how you would explain it to a child of six years."
MOST_TOKENS = 512
TRANSFORMERS, LLAMA_CPP, PLAIN, DEFAULT = "transformers, plain", "llama.cpp, plain", "ltd, plain", "ltd, default"


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer.

    Attributes:
        engine: which, and how it decodes.
        threads: of the engine.
        competitors: processes beside it.
        tokens: after the first arrival, which ends the prefill; not more than came on the quiet machine.
        seconds: from the first arrival to the last of them.
        quiet_seconds: what they took on the quiet machine, in the median; None where that was not measured.
    """

    engine: str
    threads: int
    competitors: int
    tokens: int
    seconds: float
    quiet_seconds: float | None

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


@dataclass(frozen=True, slots=True)
class Answer:
    """How an answer came in; of what `Sample` says, what one answer shows.

    Attributes:
        progress: tokens after the first arrival, and the seconds since, at every arrival that followed.
    """

    engine: str
    threads: int
    competitors: int
    progress: list[tuple[int, float]]

    @property
    def tokens(self) -> int:
        """All that came."""
        return self.progress[-1][0]

    def seconds_for(self, tokens: int) -> float:
        """Until so many had come."""
        return next(seconds for count, seconds in self.progress if count >= tokens)


# --- measuring ---


class TimeIsOver(Exception):
    """Ends an answer."""


def take_answer(peer: Peer, prompt: list[int], seconds: float) -> list[tuple[int, float]]:
    """The progress of an answer that is cut off after so many seconds of decoding."""
    arrivals = Arrivals()

    def arrive(tokens: Sequence[int]) -> None:
        arrivals(tokens)
        if arrivals.decode_seconds >= seconds:
            raise TimeIsOver

    with suppress(TimeIsOver):
        peer.generate(prompt, MOST_TOKENS, arrive)
    first, *others = arrivals.times[1:]
    return list(zip(accumulate(arrivals.gains), [time - first for time in others], strict=True))


# Ends with the benchmark, also where that is killed.
COMPETE = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(10**6): pass"


@contextmanager
def competitors(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many processes that are always busy."""
    processes = [subprocess.Popen([sys.executable, "-c", COMPETE]) for _ in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def load_peers(decoder: Decoder, model: PreTrainedModel, gguf: Path | None) -> dict[str, Peer]:
    """What takes part, by its name, on as many threads as torch has now. Nothing stops before the time is over."""
    peers: dict[str, Peer] = {TRANSFORMERS: TransformersPeer(model, (), None)}
    if llama_cpp_refusal(gguf) is None:
        assert gguf is not None
        peers[LLAMA_CPP] = load_llama_cpp(Row(f"llama.cpp {decoder.target.dtype}"), decoder, gguf)
    peers[PLAIN] = LtdPeer(decoder, "none")
    if decoder.policy is not None:
        peers[DEFAULT] = LtdPeer(decoder, decoder.policy)
    return peers


def measure(options: argparse.Namespace, gguf: Path | None) -> list[Answer]:
    """All engines in turns, in every number of threads beside every number of competitors."""
    model = load_model(options.target, getattr(torch, options.dtype), CPU).model
    answers = []
    for threads in options.threads:
        decoder = ltd.load(options.target, options.draft, dtype=options.dtype, device=CPU, threads=threads, reuse_mib=0)
        prompt = encode_turn(decoder, Turn(Question("busy", "1", (options.prompt,)), 0), [])
        peers = load_peers(decoder, model, gguf)
        for peer in peers.values():
            take_answer(peer, prompt, seconds=0.5)  # warms up
        for _ in range(options.rounds):
            for number in options.competitors:
                with competitors(number):
                    for name, peer in peers.items():
                        answers.append(Answer(name, threads, number, take_answer(peer, prompt, options.seconds)))
    return answers


def compare(answers: Sequence[Answer]) -> list[Sample]:
    """Every answer beside the same tokens on the quiet machine."""
    samples = []
    for answer in answers:
        quiet = [a for a in answers if (a.engine, a.threads, a.competitors) == (answer.engine, answer.threads, 0)]
        tokens = min([answer.tokens, *(other.tokens for other in quiet)])
        quiet_seconds = median(other.seconds_for(tokens) for other in quiet) if quiet else None
        setting = (answer.engine, answer.threads, answer.competitors)
        samples.append(Sample(*setting, tokens, answer.seconds_for(tokens), quiet_seconds))
    return samples


def find_gguf(options: argparse.Namespace) -> Path | None:
    """The file for llama.cpp, or None; raises InputError if the one that was named is not there."""
    if options.gguf is None:
        return packaged_gguf() if options.target is None else None
    file: Path = expand_user(options.gguf)
    if not file.is_file():
        raise InputError(f"there is no GGUF file at {file}")
    return file


# --- showing ---


def fair_part(threads: int, competitors: int, cores: int) -> float:
    """The part of a processor that each thread has if all that want one have the same."""
    return min(1.0, cores / (threads + competitors))


def make_table(samples: Sequence[Sample], cores: int) -> Table:
    """One row per engine and number of threads, medians of the rounds."""
    numbers = list(dict.fromkeys(sample.competitors for sample in samples))
    rows = []
    for engine, threads in dict.fromkeys((sample.engine, sample.threads) for sample in samples):
        cells = []
        for number in numbers:
            taken = [s for s in samples if (s.engine, s.threads, s.competitors) == (engine, threads, number)]
            rate = median(sample.rate for sample in taken)
            quiet = [sample.seconds / sample.quiet_seconds for sample in taken if sample.quiet_seconds is not None]
            if number == 0 or not quiet:
                cells.append(f"{rate:.1f}")
            else:
                fair = rate * median(quiet) * fair_part(threads, number, cores)
                cells.append(f"{rate:.1f} / {fair:.1f} = {rate / fair:.2f}")
        rows.append([engine, str(threads), *cells])
    title = f"tokens per second / fair share, {cores} cores"
    return Table(title, ["engine", "threads", *(f"{number} competitors" for number in numbers)], rows)


# --- the command ---


def numbers(text: str) -> list[int]:
    """Whole numbers with commas between."""
    return [int(part) for part in text.split(",")]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default=None, help="a model folder or hub name; default: the default target")
    parser.add_argument("--draft", default=None, help="its head; default: the shipped one for the default target")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--threads", type=numbers, default=None, metavar="N,N", help="default: 1 and all cores")
    parser.add_argument("--competitors", type=numbers, default=[0, 1, 2, 4], metavar="N,N")
    parser.add_argument("--seconds", type=float, default=4.0, help="for every answer, after its prefill")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--gguf", default=None, help="the model for llama.cpp; default: the default target's own file")
    parser.add_argument("--out", type=Path, default=None, metavar="DIR", help="also write busy.json and table.md")
    options = parser.parse_args(arguments)
    if options.threads is None:
        options.threads = list(dict.fromkeys((1, usable_cores())))
    if options.rounds < 1 or not options.seconds > 0 or min(options.competitors) < 0:
        parser.error("--rounds and --seconds must be positive, and --competitors not negative")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    try:
        for threads in options.threads:
            check_threads(threads)
        gguf = find_gguf(options)
        samples = compare(measure(options, gguf))
    except InputError as error:
        sys.exit(f"error: {error}")
    left_out = llama_cpp_refusal(gguf)
    table = make_table(samples, usable_cores())
    wide_console().print(table.rich())
    if left_out is not None:
        print(left_out)
    if options.out is not None:
        content: dict[str, Any] = {"left out": left_out, "samples": [asdict(sample) for sample in samples]}
        write_json(options.out / "busy.json", {**circumstances(), **content})
        write_text(options.out / "table.md", table.markdown())


if __name__ == "__main__":
    main()
