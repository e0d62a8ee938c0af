"""The benchmarks' bookkeeping, and that they run from end to end on tiny models; no test here looks at a time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import environments
import forward as engine
import peers
import replay
from console import wide_console
from floor import Floor, Work
from ltd.errors import InputError
from ltd.evaluation.questions import Question, Turn
from ltd.evaluation.run_config import in_rotation
from ltd.evaluation.transformers_reference import Arrivals
from peer_engines import LlamaCppPeer, llama_cpp_refusal
from peers import OURS, REFERENCE, PeersConfig, Row, compare, make_rows, published
from peers_report import make_table, write_report
from timing import Timing, rounds_for, time_in_turns

PNG = b"\x89PNG"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with two tasks, one of them with two turns."""
    for task, turns in {"first": ["Hi there"], "second": ["Say a", "and b"]}.items():
        folder = tmp_path / "data" / task
        folder.mkdir(parents=True)
        (folder / "question.jsonl").write_text(json.dumps({"question_id": 7, "turns": turns}) + "\n")
    return tmp_path / "data"


@pytest.fixture
def config(data: Path, tmp_path: Path, tiny_target: Callable[..., Path], tiny_head: Callable[..., Path]) -> PeersConfig:
    """All peers but llama.cpp, which has no file for a random model."""
    return PeersConfig(
        data_dir=data,
        out=tmp_path / "out",
        tasks=("first", "second"),
        max_new_tokens=12,
        target=str(tiny_target("llama")),
        draft=str(tiny_head("llama")),
        dtype="float32",
        methods=("static:0:3", "static:2:4", "both:0:2:3", "eagle3"),
        lookups=(2,),
    )


# --- timing ---


def test_functions_run_in_turns() -> None:
    order: list[str] = []
    times = time_in_turns([lambda: order.append("a"), lambda: order.append("b")], range(3))
    assert order == ["a", "b"] * 3
    assert [len(each) for each in times] == [3, 3]


def test_there_are_always_rounds_enough_for_quartiles() -> None:
    assert len(list(rounds_for(0.0))) >= 2


def test_the_floor_is_memory_first_and_then_arithmetic() -> None:
    work = Work(weight_bytes=200, weight_count=100, attention_count=3)
    # A chain of two behind a prefix of ten sees 11 and 12 tokens.
    assert work.operations(2, prefix=10) == 2 * (100 * 2 + 3 * (11 + 12))
    floor = Floor(work, read_seconds=1.0, operations_per_second=1000.0)
    assert floor.seconds(1, prefix=0) == 1.0
    assert floor.seconds(100, prefix=0) == work.operations(100, 0) / 1000.0


# --- the engine's benchmark ---


@pytest.mark.parametrize("with_draft", [False, True])
def test_the_engine_benchmark_writes_numbers_and_a_plot(
    with_draft: bool, tmp_path: Path, tiny_target: Callable[..., Path], tiny_head: Callable[..., Path],
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(engine, "SIZES", (1, 3, 8))
    monkeypatch.setattr("floor.PRODUCT_SIDES", (16, 32))
    draft = ["--draft", str(tiny_head("llama"))] if with_draft else []
    options = ["--dtype", "float32", "--prefix", "9", "--repeats", "2", "--out", str(tmp_path / "new")]
    engine.main(["--target", str(tiny_target("llama")), *draft, *options])
    results = json.loads((tmp_path / "new" / "forward.json").read_text())
    assert [forward["tokens"] for forward in results["forwards"]] == [1, 3, 8]
    assert all(forward["floor"] > 0 and forward["engine"]["median"] > 0 for forward in results["forwards"])
    assert (results["draft"] is not None) == with_draft
    assert results["dtype"] == "float32"
    assert results["prefix"] == 9
    assert {"command", "processor", "threads", "torch", "build", "load_seconds"} <= results.keys()
    assert (tmp_path / "new" / "forward.png").read_bytes().startswith(PNG)
    printed = capsys.readouterr().out
    assert "behind a prefix of 9 tokens" in printed
    assert "until ltd.load() is ready" in printed
    assert ("one expansion" in printed) == with_draft


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--repeats", "1"], "must be at least 2"),
        (["--prefix", "1"], "must be at least 2"),
        (["--target", "nowhere"], "there is no model at nowhere"),
    ],
)
def test_the_engine_benchmark_refuses_bad_input(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        engine.main(arguments)
    assert complaint in f"{exit_.value.code} {capsys.readouterr().err}"


# --- peers: the bookkeeping ---


def test_rows_have_names_and_know_their_plain_decoding(config: PeersConfig) -> None:
    rows = {row.name: row.plain for row in make_rows(config, with_llama_cpp=True)}
    assert rows == {
        "transformers, plain": REFERENCE,
        "transformers, lookup 2": REFERENCE,
        "llama.cpp quantised, plain": "llama.cpp quantised, plain",
        "llama.cpp quantised, lookup 2": "llama.cpp quantised, plain",
        "llama.cpp float32, plain": "llama.cpp float32, plain",
        "llama.cpp float32, lookup 2": "llama.cpp float32, plain",
        "ltd, plain": OURS,
        "ltd, static:0:3": OURS,
        "ltd, static:2:4": OURS,
        "ltd, both:0:2:3": OURS,
        "ltd, eagle3": OURS,
    }
    without = make_rows(config, with_llama_cpp=False)
    assert [row.name for row in without] == [name for name in rows if not name.startswith("llama.cpp")]


def test_every_prompt_begins_with_another_row_and_meets_all() -> None:
    turns = [Turn(Question("t", str(number), ("hello",)), 0) for number in range(4)]
    pairs = in_rotation(turns, ["a", "b", "c"])
    assert [turn for turn, _ in pairs] == [turn for turn in turns for _ in range(3)]
    assert "".join(row for _, row in pairs) == "abc" + "bca" + "cab" + "abc"


def test_arrivals_leave_the_first_out() -> None:
    arrivals = Arrivals()
    for tokens in ([5, 6], [7], [8, 9, 10]):
        arrivals(tokens)
    assert arrivals.token_ids == [5, 6, 7, 8, 9, 10]
    assert arrivals.gains == [1, 3]
    arrivals.times = [1.0, 1.5, 2.0, 4.0]
    assert arrivals.prefill_seconds == 0.5
    assert arrivals.decode_seconds == 2.5


def test_texts_are_compared_with_the_reference_and_with_plain_decoding() -> None:
    rows = [Row("transformers"), Row("transformers", lookup=2), Row("ltd")]
    tokens = {REFERENCE: [[1, 2], [3]], "transformers, lookup 2": [[1, 2], [4]], OURS: [[9], [3]]}
    turns = [Turn(Question("t", str(number), ("hello",)), 0) for number in range(2)]
    samples = {
        (*turn.key, name): {
            "task": "t", "question_id": str(number), "method": name, "token_ids": ids[number],
            "gains": [1], "cycles": 1, "decode_seconds": 1.0,
        }
        for name, ids in tokens.items()
        for number, turn in enumerate(turns)
    }  # fmt: skip
    settings = {"tasks": ["t"], "methods": list(tokens), "reference": REFERENCE, "baseline": OURS}
    results = {"settings": settings, "samples": published(in_rotation(turns, rows), samples)}
    shares = {row[0]: tuple(row[-2:]) for row in make_table(results).rows}
    assert shares == {
        REFERENCE: ("-", "-"),
        "transformers, lookup 2": ("1 of 2", "1 of 2"),
        OURS: ("1 of 2", "-"),
    }


# --- peers: from end to end ---


@pytest.mark.usefixtures("no_llama_cpp")
def test_the_comparison_is_made_reported_and_not_repeated(
    config: PeersConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = compare(config)
    assert len(results["samples"]) == 3 * 7
    for sample in results["samples"]:
        assert sum(sample["gains"]) < sample["new_tokens"] <= config.max_new_tokens
        # In float32 nothing that is lossless says anything else.
        assert sample["same_as_reference"] is (None if sample["method"] == REFERENCE else True)
    write_report(results, config.out, wide_console())
    for text in ((config.out / "table.md").read_text(), capsys.readouterr().out):
        assert "llama-cpp-python is not installed; pip install llama-cpp-python" in " ".join(text.split())
        assert "3 of 3" in text
    assert (config.out / "plot.png").read_bytes().startswith(PNG)
    assert json.loads((config.out / "results.json").read_text()) == results
    monkeypatch.setattr(peers.ltd, "load", None)  # a finished run loads nothing
    assert compare(config)["samples"] == results["samples"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"data_dir": Path("nowhere")}, "no data folder nowhere"),
        ({"tasks": ("third",)}, "holds these tasks: first, second"),
        ({"limit": 0}, "limit is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"max_new_tokens": 1}, "a rate begins with the second token"),
        ({"dtype": "int8"}, "dtype 'int8'"),
        ({"methods": ("static:0",)}, "unknown method 'static:0'"),
        ({"methods": ("static:0:3", "static:0:3")}, "each method and each lookup once"),
        ({"lookups": (0,)}, "lookup is 0"),
        ({"gguf": "nowhere.gguf"}, "no GGUF file at nowhere.gguf"),
        ({"max_new_tokens": 250}, "first, question 7, turn 1: the prompt has"),
    ],
)
def test_bad_input_is_told(config: PeersConfig, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        compare(replace(config, **changes))
    assert not (config.out / "results.json").exists()


def test_the_command_line_ends_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="error: there is no data folder"):
        peers.main(
            ["--data-dir", str(tmp_path / "none"), "--out", str(tmp_path), "--method", "static:1:4", "--lookup", "3"]
        )


# --- llama.cpp, which need not be here ---


class FakeLlama:
    """Stands in for `llama_cpp.Llama`: counts up from the prompt's last token, for ever."""

    def __init__(self, path: str, **settings: Any) -> None:
        self.settings, self.resets = settings, 0

    def n_vocab(self) -> int:
        return 96

    def reset(self) -> None:
        self.resets += 1

    def generate(self, prompt: list[int], temp: float) -> Iterator[int]:
        assert temp == 0.0
        for step in range(1, 1000):
            yield prompt[-1] + step


@pytest.fixture
def fake_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that looks like llama-cpp-python."""
    package, speculative = ModuleType("llama_cpp"), ModuleType("llama_cpp.llama_speculative")
    package.Llama = FakeLlama  # type: ignore[attr-defined]
    speculative.LlamaPromptLookupDecoding = lambda num_pred_tokens: num_pred_tokens  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "llama_cpp", package)
    monkeypatch.setitem(sys.modules, "llama_cpp.llama_speculative", speculative)


@pytest.mark.usefixtures("fake_llama_cpp")
def test_llama_cpp_stops_at_stop_tokens_and_limits() -> None:
    peer = LlamaCppPeer(Path("model.gguf"), context=64, threads=3, stop_ids=[14], lookup=5)
    answers = []
    for limit in (2, 100):
        arrivals = Arrivals()
        peer.generate([1, 10], limit, arrivals)
        answers.append(arrivals.token_ids)
    assert answers == [[11, 12], [11, 12, 13, 14]]
    assert peer.llama.resets == 2
    assert peer.llama.settings["n_threads"] == peer.llama.settings["n_threads_batch"] == 3
    assert peer.llama.settings["draft_model"] == 5


@pytest.mark.usefixtures("no_llama_cpp")
def test_llama_cpp_that_is_not_installed_is_said() -> None:
    assert llama_cpp_refusal(Path("model.gguf")) == (
        "llama.cpp is left out: llama-cpp-python is not installed; pip install llama-cpp-python"
    )


@pytest.mark.usefixtures("fake_llama_cpp")
def test_llama_cpp_without_a_file_is_said() -> None:
    assert "name one with --gguf" in str(llama_cpp_refusal(None))
    assert llama_cpp_refusal(Path("model.gguf")) is None


def test_timings_are_shown_in_milliseconds() -> None:
    assert Timing(median=1500.0, low=1000.0, high=2000.0).milliseconds() == "1.50 (1.00 … 2.00)"


def test_replays_are_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay.main(["--seconds", "0", "--json", str(tmp_path / "replay.json")]) == 0
    table, results = capsys.readouterr().out, json.loads((tmp_path / "replay.json").read_text())
    assert all(kind in table for kind in results["microseconds"])
    assert results["microseconds"]["fixed (0, 3)"]["cycles"] > 50
    assert replay.main(["--traces", str(tmp_path)]) == 2
    assert "no traces" in capsys.readouterr().err


def test_environments_are_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "environments.json"
    assert environments.main(["--seconds", "0", "--count", "2", "--json", str(file)]) == 0
    table, results = capsys.readouterr().out, json.loads(file.read_text())
    assert all(kind in table for kind in results["rates"])
    assert results["rates"]["size, the paper's"]["width"] == 1268
    for missing in ("--traces", "--latency"):
        assert environments.main([missing, str(tmp_path / "none")]) == 2
    assert environments.main(["--count", "0"]) == 2
    assert "at least 1 is needed" in capsys.readouterr().err
