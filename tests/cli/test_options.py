"""Options that contradict each other, have no effect, or whose value cannot be: refused by name, before any work."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import typer

from ltd.cli import main
from ltd.cli.app import app
from ltd.cli.generate import asked_policy
from ltd.cli.train_baseline import KNOWN_TO, BaselineKind
from ltd.errors import InputError

BASELINE = ["train-baseline", "--out", "x"]
EVAL = ["eval", "--out", "x", "--data-dir", "nowhere"]
# Options of `ltd train-baseline` that only some kinds know, with a value that these take.
VALUES = {"samples": "s", "epochs": "3", "seed": "1", "width": "8", "traces": "t", "latency": "l.json", "seconds": "2",
          "networks": "n"}  # fmt: skip
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder."""
    monkeypatch.chdir(tmp_path)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a call is told that must be refused, before anything is written."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert list(Path().iterdir()) == []
    return err.removeprefix("error: ").rstrip("\n")


# --- no effect ---


@pytest.mark.parametrize("kind", BaselineKind)
@pytest.mark.parametrize("option", KNOWN_TO)
def test_a_baseline_takes_no_option_of_another_kind(
    capsys: pytest.CaptureFixture[str], kind: BaselineKind, option: str
) -> None:
    call = [*BASELINE, kind.value, f"--{option}", VALUES[option]]
    if kind in KNOWN_TO[option]:
        assert main([*call, "--data-dir", "nowhere"]) == 2
        assert f"makes no use of --{option}" not in capsys.readouterr().err
    else:
        assert complaint(capsys, *call) == f"{kind.value} makes no use of --{option}; leave it out"


def test_all_that_has_no_effect_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    told = complaint(capsys, *BASELINE, "grid", "--width", "8", "--epochs", "2", "--seed", "0")
    assert told == "grid makes no use of --epochs, --seed, --width; leave them out"


@pytest.mark.parametrize(
    ("kind", "given", "without_effect"),
    [
        ("c2t", ["--samples", "s"], ["--data-dir", "d"]),
        ("c2t", ["--samples", "s"], ["--limit", "3"]),
        ("disco", ["--samples", "s"], ["--dtype", "float32"]),
        ("disco", ["--samples", "s"], ["--threads", "1"]),
        ("grid", ["--traces", "t"], ["--data-dir", "d"]),
        ("rules", ["--traces", "t"], ["--tasks", "gsm8k"]),
        ("rules", ["--traces", "t"], ["--max-new-tokens", "64"]),
        ("grid", ["--latency", "l"], ["--seconds", "3"]),
        ("rules", ["--traces", "t", "--latency", "l"], ["--seconds", "3"]),
        ("grid", ["--traces", "t", "--latency", "l"], ["--target", "m"]),
        ("grid", ["--traces", "t", "--latency", "l"], ["--draft", "h"]),
    ],
)
def test_what_is_given_makes_other_options_useless(
    capsys: pytest.CaptureFixture[str], kind: str, given: list[str], without_effect: list[str]
) -> None:
    told = complaint(capsys, *BASELINE, kind, *given, *without_effect)
    assert f"makes no use of {without_effect[0]}; leave it out" in told


@pytest.mark.parametrize("option", [["--top-p", "0.9"], ["--top-k", "5"], ["--seed", "3"], ["--seed", "0"]])
def test_greedy_decoding_takes_no_option_of_sampling(capsys: pytest.CaptureFixture[str], option: list[str]) -> None:
    told = complaint(capsys, "generate", "hi", *option)
    assert told == f"decoding at temperature 0 is greedy and makes no use of {option[0]}; leave it out"


def test_a_greedy_evaluation_takes_no_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "greedy and makes no use of --seed" in complaint(capsys, *EVAL, "--seed", "3")
    assert "no data folder nowhere" in complaint(capsys, *EVAL, "--seed", "3", "--temperature", "1")


@pytest.mark.parametrize("option", [["--depth", "3"], ["--size", "0"], ["--policy", "static"], ["--policy", "folder"]])
def test_without_a_draft_nothing_is_decided(capsys: pytest.CaptureFixture[str], option: list[str]) -> None:
    assert "--draft none drafts no tree" in complaint(capsys, "generate", "hi", "--draft", "none", *option)


def test_plain_decoding_may_be_asked_for_twice() -> None:
    assert asked_policy("none", None, None, "none") == "none"
    assert asked_policy(None, None, None, "none") is None
    assert asked_policy("static", None, None, "folder") == "static"
    with pytest.raises(InputError, match="--draft none"):
        asked_policy(None, None, 4, "none")


# --- contradictions ---

PAIRS = [
    (command, option.opts[0], option.secondary_opts[0])
    for command, known in COMMANDS.items()
    for option in known.params
    if option.secondary_opts
]


def test_the_pairs_of_flags_are_known() -> None:
    assert ("generate", "--chat", "--raw") in PAIRS and len(PAIRS) >= 4


@pytest.mark.parametrize(("command", "yes", "no"), PAIRS)
def test_a_flag_and_its_opposite_exclude_each_other(
    capsys: pytest.CaptureFixture[str], command: str, yes: str, no: str
) -> None:
    for flags in ((yes, no), (no, yes), (no, no)):
        told = complaint(capsys, command, *flags)
        assert told == f"{yes} and {no} exclude each other; give one of them, once"


def test_what_looks_like_a_flag_but_is_a_value_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert "exclude" not in complaint(capsys, "generate", "--raw", "--prompt-file", "--chat")


# --- empty ---

TEXTS = [
    (command, option.opts[0])
    for command, known in COMMANDS.items()
    for option in known.params
    if option.opts[0].startswith("--") and not getattr(option, "is_flag", False)
]


@pytest.mark.parametrize("text", ["", "  "])
@pytest.mark.parametrize(("command", "option"), TEXTS)
def test_an_empty_value_is_refused_and_is_no_current_folder(
    capsys: pytest.CaptureFixture[str], command: str, option: str, text: str
) -> None:
    values = [text, text] if option == "--length-range" else [text]
    told = complaint(capsys, command, option, *values)
    assert told.startswith(f"{option} is empty; give it a value")
    assert (command, option) not in (("generate", "--draft"), ("tune", "--out")) or told.endswith(", or leave it out")


# --- numbers, before what takes long ---


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        *[([*BASELINE, kind, f"--seconds={seconds}"], f"seconds {seconds} is out of range")
          for kind in ("grid", "rules") for seconds in (-1.0, 0.0, math.nan, math.inf)],
        ([*BASELINE, "grid", "--threads", "100000"], "threads is 100000"),
        ([*BASELINE, "c2t", "--epochs", "0"], "epochs"),
        ([*BASELINE, "c2t", "--seed", str(2**31)], f"seed is {2**31}"),
        (["train-draft", "--out", "x", "--seed", str(2**31)], f"seed is {2**31}"),
        (["train-draft", "--out", "x", "--seed", "-1"], "seed is -1"),
        (["train-acceptance", "--out", "x", "--run", "r", "--seed", str(2**31)], f"seed is {2**31}"),
        (["tune", "--seconds", "-1"], "seconds -1.0 is out of range"),
        (["calibrate", "--out", "x.json", "--seconds", "-1"], "seconds -1.0 is out of range"),
        ([*EVAL, "--temperature", "1", "--seed", str(2**63)], f"seed {2**63} is out of range"),
    ],
)  # fmt: skip
def test_a_number_out_of_range_is_told_first(
    capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert told in complaint(capsys, *arguments)


# --- what to read ---


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["generate", "hi", "--color"], "ltd generate"),
        (["generate", "hi", "--depth", "deep"], "ltd generate"),
        (["generate", "hi", "--depth"], "ltd generate"),
        (["train-draft"], "ltd train-draft"),
        (["train-baseline", "sgd", "--out", "x"], "ltd train-baseline"),
        (["tune", "and", "more"], "ltd tune"),
        (["paint"], "ltd"),
        (["--color"], "ltd"),
    ],
)
def test_a_wrong_call_names_the_command_whose_help_to_read(
    capsys: pytest.CaptureFixture[str], arguments: list[str], command: str
) -> None:
    assert complaint(capsys, *arguments).endswith(f"; see {command} --help")
