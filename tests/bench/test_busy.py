"""The benchmark beside other processes: what a fair share is, and from end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import busy


def test_the_fair_share_is_what_each_thread_has_if_all_have_the_same() -> None:
    assert [busy.fair_part(2, count, cores=2) for count in (0, 1, 2, 4)] == [1, 2 / 3, 1 / 2, 1 / 3]
    assert [busy.fair_part(1, count, cores=2) for count in (0, 1, 2, 4)] == [1, 1, 2 / 3, 2 / 5]


def test_rates_are_compared_with_the_fair_share() -> None:
    taken = [("a", 2, 0, 100, 2, 4), ("a", 2, 0, 300, 6, 4), ("a", 2, 0, 200, 4, 4), ("a", 2, 2, 90, 2, 0.9)]
    taken += [("b", 2, 0, 50, 2, 2), ("b", 2, 2, 30, 2, 1.2)]
    table = busy.make_table([busy.Sample(*sample) for sample in taken], cores=2)
    assert table.columns == ["engine", "threads", "0 competitors", "2 competitors"]
    assert table.rows == [["a", "2", "50.0", "45.0 / 50.0 = 0.90"], ["b", "2", "25.0", "15.0 / 12.5 = 1.20"]]


def test_an_answer_is_compared_with_the_same_tokens_of_the_quiet_machine() -> None:
    quiet = [busy.Answer("a", 2, 0, [(1, 1.0), (5, 2.0), (9, factor * 3.0)]) for factor in (1.0, 2.0, 4.0)]
    behind = busy.Answer("a", 2, 4, [(1, 4.0), (5, 8.0)])
    before = busy.Answer("a", 2, 1, [(1, 1.0), (5, 3.0), (9, 7.0), (10, 9.0)])
    alone = busy.Answer("a", 1, 1, [(1, 1.0)])
    samples = busy.compare([*quiet, behind, before, alone])
    assert [(s.tokens, s.seconds, s.quiet_seconds) for s in samples[3:]] == [
        (5, 8.0, 2.0),
        (9, 7.0, 6.0),
        (1, 1.0, None),
    ]


def test_a_missing_file_for_llama_cpp_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(busy, "load_model", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(SystemExit, match="there is no GGUF file at"):
        busy.main(["--gguf", str(tmp_path / "none.gguf")])


def test_competitors_end_with_the_measurement() -> None:
    with busy.competitors(2) as running:
        assert [process.poll() for process in running] == [None, None]
    assert all(process.poll() is not None for process in running)


@pytest.mark.parametrize("with_draft", [False, True])
def test_the_busy_benchmark_writes_samples_and_a_table(
    with_draft: bool, tmp_path: Path, tiny_target: Callable[..., Path], tiny_head: Callable[..., Path],
    no_llama_cpp: None, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    model = ["--target", str(tiny_target("llama")), "--draft", str(tiny_head("llama")) if with_draft else "none"]
    brief = ["--competitors", "0,1", "--threads", "1", "--seconds", "0.05", "--rounds", "1", "--prompt", "Hi there"]
    before = torch.get_num_threads()
    try:
        busy.main([*model, *brief, "--dtype", "float32", "--out", str(tmp_path)])
    finally:
        torch.set_num_threads(before)
    results = json.loads((tmp_path / "busy.json").read_text())
    engines = ["transformers, plain", "ltd, plain", *(["ltd, default"] if with_draft else [])]
    taken = [(sample["engine"], sample["competitors"]) for sample in results["samples"]]
    assert taken == [(engine, count) for count in (0, 1) for engine in engines]
    assert all(sample["tokens"] > 0 and sample["seconds"] > 0 for sample in results["samples"])
    assert {"command", "processor", "cores", "build", "left out"} <= results.keys()
    assert "1 competitors" in (tmp_path / "table.md").read_text()
    assert "llama.cpp is left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options", [["--rounds", "0"], ["--seconds", "0"], ["--competitors", "-1"], ["--threads", "x"]]
)
def test_the_busy_benchmark_refuses_bad_numbers(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        busy.main(options)
    assert "error" in capsys.readouterr().err
