"""What `ltd eval` and `ltd check` share: what to ask, whom, and what the answers depend on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ltd.decoder import Decoder, PolicyChoice
from ltd.errors import InputError
from ltd.files import file_hash
from ltd.journal import Record
from ltd.loading import check_policy, expected_setting, find_head, head_hash
from ltd.machine import machine_facts
from ltd.models import resolve_device, resolve_dtype
from ltd.policies import Learned, Static
from ltd.policies.bundle import FACTS, load_bundle
from ltd.policies.expected_gain import load_controller
from ltd.policies.store import find_bundle
from ltd.prompts import check_prompts
from ltd.questions import TASKS, Question, Turn, fingerprint

BASELINE = "none"
BUNDLE, CONTROLLER, TUNED = "bundle:", "controller:", "tuned"
NOT_TUNED = "no learned policy is the default for this target, draft and machine; make one with ltd tune"
T = TypeVar("T")
M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Which questions, which model, and where the results go.

    Attributes:
        data_dir: holds `{task}/question.jsonl`.
        out: where the results go; a rerun to the same place goes on where the last one was.
        tasks: task names.
        limit: only the first so many questions of every task; None for all.
        max_new_tokens: per turn.
        target, draft, dtype, threads: as for `ltd.load`.
    """

    data_dir: Path
    out: Path
    tasks: tuple[str, ...] = TASKS
    limit: int | None = None
    max_new_tokens: int = 128
    target: str | None = None
    draft: str | None = None
    dtype: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads is {self.threads}; it must be at least 1")


@dataclass(frozen=True, slots=True)
class Method:
    """A way to decode: its name on the command line, and its policy; None is the loaded decoder's own."""

    name: str
    policy: PolicyChoice

    @classmethod
    def parse(cls, name: str) -> Method:
        """Reads `none`, `eagle3`, `tuned`, `static:D:V`, `bundle:FOLDER` or `controller:FILE`, or raises InputError."""
        if name == BASELINE:
            return cls(name, "none")
        if name == "eagle3":
            return cls(name, Static(depth=8, size=60))
        if name == TUNED:
            return cls(name, None)
        if name.startswith(BUNDLE):
            return cls(name, load_bundle(method_path(name)).policy)
        if name.startswith(CONTROLLER):
            return cls(name, load_controller(method_path(name)))
        kind, _, numbers = name.partition(":")
        depth, _, size = numbers.partition(":")
        if kind != "static" or not (depth.isdecimal() and size.isdecimal()):
            raise InputError(
                f"unknown method {name!r}; use none, eagle3, tuned, bundle:FOLDER, controller:FILE or static:D:V, for "
                "example static:4:16"
            )
        return cls(name, Static(int(depth), int(size)))


def check_method(decoder: Decoder, method: Method) -> None:
    """Checks that a decoder can decode this way.

    Raises:
        InputError: a learned policy that does not fit, or there is no learned one where one is to be the default.
    """
    if method.name == TUNED and not isinstance(decoder.policy, Learned):
        raise InputError(NOT_TUNED)
    check_policy(decoder, method.policy)


def method_path(name: str) -> Path:
    """The path in the method name `bundle:FOLDER` or `controller:FILE`."""
    return Path(name.partition(":")[2]).expanduser()


def in_rotation(turns: Sequence[T], methods: Sequence[M]) -> list[tuple[T, M]]:
    """Every turn with every method: turn by turn, each starting one method further on than the one before."""
    return [
        (turn, methods[(place + step) % len(methods)])
        for place, turn in enumerate(turns)
        for step in range(len(methods))
    ]


def run_settings(config: RunConfig, questions: Sequence[Question]) -> Record:
    """Everything that results depend on, as JSON values: the config, the machine, and what the names stood for."""
    values = {**dataclasses.asdict(config), **machine_facts()}
    head = find_head(config.draft)
    values["dtype"] = str(resolve_dtype(config.dtype, resolve_device(None))).removeprefix("torch.")
    values["threads"] = config.threads or values["threads"]
    values["draft_sha256"] = head_hash(head)
    methods = [*values.get("methods", ()), values.get("method", "")]
    if hashes := {name: file_hash(file) for name in methods if (file := policy_file(name, config)) is not None}:
        values["policies_sha256"] = hashes
    values["questions"] = fingerprint(questions)
    kept = {name: value for name, value in values.items() if name not in ("data_dir", "out")}
    settings: Record = json.loads(json.dumps(kept))  # tuples become lists, as they will be when read back
    return settings


def policy_file(name: str, config: RunConfig) -> Path | None:
    """The file that says what a method decides; None where its name does."""
    if name.startswith(CONTROLLER):
        return method_path(name)
    if name.startswith(BUNDLE):
        return method_path(name) / FACTS
    return tuned_folder(config) / FACTS if name == TUNED else None


def tuned_folder(config: RunConfig) -> Path:
    """The bundle that `ltd.load` takes by default, or InputError if it would take none."""
    device = resolve_device(None)
    setting = expected_setting(config.target, config.draft, resolve_dtype(config.dtype, device), device)
    stored = None if setting is None else find_bundle(setting, device)
    if stored is None:
        raise InputError(NOT_TUNED)
    return stored.folder


def check_turns(decoder: Decoder, turns: Iterable[Turn]) -> None:
    """Finds turns that cannot be answered, before any is: the answers before them, still to come, count as empty.

    Raises:
        InputError: names the turn and says why, for example that it is too long.
    """
    for turn in turns:
        encode_turn(decoder, turn, [()] * turn.number)


def encode_turn(decoder: Decoder, turn: Turn, answers: Sequence[Sequence[int]]) -> list[int]:
    """The prompt of a turn, after the answers to the turns before it.

    Raises:
        InputError: it cannot be answered; the message names the turn and says why.
    """
    try:
        prompt = encode_conversation(decoder, turn.asked, answers)
        check_prompts([prompt], decoder.target.vocab_size, decoder.max_length)
    except InputError as error:
        raise InputError(f"{turn.title}: {error}") from error
    return prompt


def encode_conversation(decoder: Decoder, turns: Sequence[str], answers: Sequence[Sequence[int]]) -> list[int]:
    """The prompt of a conversation's next answer.

    With a chat template the turns go through it; a tokenizer without one gets turns and answers one after the other,
    with an empty line between.
    """
    texts = [decoder.tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]
    if decoder.tokenizer.chat_template is None:
        parts = [text for pair in zip(turns, texts, strict=False) for text in pair]
        return decoder.encode("\n\n".join([*parts, turns[-1]]), chat=False)
    messages: list[dict[str, str]] = []
    for text, said in zip(turns, texts, strict=False):
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": said}]
    return decoder.encode([*messages, {"role": "user", "content": turns[-1]}], chat=True)


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """The first index at which two token lists part (the shorter one's length if it begins the other), or None."""
    if list(one) == list(other):
        return None
    pairs = zip(one, other, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
