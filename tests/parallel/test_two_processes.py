"""Two processes that share a target come to the tokens of one; all of it in one run, as starting it takes long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import parallel_program
import pytest
import torch
from parallel_program import FAMILIES
from small_models import small_config, small_tokenizer
from transformers import AutoModelForCausalLM, PretrainedConfig

from ltd.drafts.eagle3.files import save_head
from ltd.drafts.eagle3.head import Eagle3Config, Eagle3Head

ROOT = Path(__file__).parents[2]
LONGEST = 1800  # seconds, on a machine that others use; it takes half a minute where nothing else runs
NOT_DIVISIBLE = "one-key-head"


@dataclass(frozen=True)
class Run:
    """What the processes wrote and printed, and what one process comes to."""

    processes: list[dict[str, Any]]
    alone: dict[str, Any]
    folder: Path
    printed: str
    errors: str


def config(family: str, **changes: Any) -> PretrainedConfig:
    """A small configuration with few layers, each of which the processes wait for, and room for reuse."""
    known = small_config(family)
    tied = {"tie_word_embeddings": family == "qwen3"}
    sizes = {"num_hidden_layers": 3, "max_position_embeddings": 1024, "layer_types": None}
    return type(known)(**{**known.to_dict(), **sizes, **tied, **changes})


def make_models(folder: Path) -> None:
    """Tiny models with their heads, and one whose heads two processes cannot divide."""
    for place, family in enumerate(FAMILIES):
        torch.manual_seed(place)
        AutoModelForCausalLM.from_config(config(family)).save_pretrained(folder / family)
        small_tokenizer().save_pretrained(folder / family)
        save_head(Eagle3Head(Eagle3Config.for_target(config(family), draft_vocab_size=96)), folder / f"{family}-head")
    odd = config("llama", num_key_value_heads=1)
    AutoModelForCausalLM.from_config(odd).save_pretrained(folder / NOT_DIVISIBLE)
    small_tokenizer().save_pretrained(folder / NOT_DIVISIBLE)


def commands(folder: Path, data: Path) -> list[list[str]]:
    """Command lines that both processes run at the end."""
    target = ["--target", str(folder / "llama"), "--dtype", "float32", "--device", "cpu"]
    questions = ["--data-dir", str(data), "--tasks", "mt_bench", "--limit", "1", "--max-new-tokens", "6"]
    return [
        ["generate", "Hello", *target, "--max-new-tokens", "6", "--json"],
        ["check", *questions, *target, "--method", "lookup:8", "--out", str(folder / "check.json")],
        ["generate", "Hello", "--target", str(folder / NOT_DIVISIBLE), "--device", "cpu"],
        ["generate", "Hello", *target, "--temperature", "-1"],
        ["eval", *questions, *target, "--methods", "none,transformers", "--out", str(folder / "eval")],
        ["tune", "--quick"],
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("parallel")
    make_models(folder)
    (folder / "mt_bench").mkdir()
    (folder / "mt_bench" / "question.jsonl").write_text('{"question_id": 1, "turns": ["Who?"]}\n')
    (folder / "commands.json").write_text(json.dumps(commands(folder, folder)))
    paths = [str(ROOT / name) for name in ("python", "rl", "tests/support")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = [str(ROOT / "tests/support/parallel_program.py"), str(folder)]
    done = subprocess.run([*program, *script], env=environment, capture_output=True, text=True, timeout=LONGEST)
    assert done.returncode == 0, done.stderr[-4000:]
    processes = [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
    alone = {family: parallel_program.in_one_process(folder, family) for family in FAMILIES}
    return Run(processes, alone, folder, done.stdout, done.stderr)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("draft", ["head", "oracle"])
def test_two_processes_come_to_the_tokens_of_one(run: Run, family: str, draft: str) -> None:
    first, second = (process[family][draft] for process in run.processes)
    assert first == second
    for name, expected in run.alone[family][draft].items():
        tokens, known = first[name], expected
        if name == "begun":  # how many tokens two cycles gain is the draft's luck
            count = min(len(tokens), len(known))
            tokens, known = tokens[:count], known[:count]
        assert len(tokens) > 0 and tokens == known, name


def test_trees_were_accepted(run: Run) -> None:
    """Else the tokens would say nothing about trees."""
    assert sum(run.processes[0]["llama"]["accepted"]) > 0


def test_a_text_is_read_on_in_all_processes(run: Run) -> None:
    first, second = (process["llama"]["statistics"] for process in run.processes)
    assert first == second
    assert first["reused_tokens"] == 512


def test_generate_of_transformers_with_a_spread_model(run: Run) -> None:
    first, second = (process["qwen3"]["transformers"] for process in run.processes)
    assert first == second == run.alone["qwen3"]["transformers"]


def test_a_draft_gets_the_whole_output_layer(run: Run) -> None:
    for family in FAMILIES:
        model = AutoModelForCausalLM.from_pretrained(run.folder / family, dtype=torch.float32)
        expected = model.get_output_embeddings().weight.tolist()
        assert all(process[family]["output layer"] == expected for process in run.processes)


def test_what_is_refused_is_refused_in_all_processes(run: Run) -> None:
    first, second = (process["llama"]["refused"] for process in run.processes)
    assert first == second
    assert "the prompt is empty" in first[0] and "temperature -1.0 is out of range" in first[1]
    assert "works inside generate and stream" in run.processes[0]["llama"]["outside"]


def test_who_is_left_alone_says_so(run: Run) -> None:
    assert "another process of this run has ended" in run.processes[0]["left alone"]


def test_commands_run_in_the_first_process_and_end_alike(run: Run) -> None:
    assert run.processes[0]["codes"] == run.processes[1]["codes"] == [0, 0, 2, 2, 2, 2]
    answers = [json.loads(line) for line in run.printed.splitlines() if line.startswith("{")]
    assert len(answers) == 1 and len(answers[0]["token_ids"]) <= 6
    results = json.loads((run.folder / "check.json").read_text())
    assert [prompt["verdict"] for prompt in results["prompts"]] == ["equal"]
    assert results["settings"]["processes"] == 2


@pytest.mark.parametrize(
    "sentence",
    [
        "error: the target has 4 heads with 1 key/value heads, which cannot be divided among 2 processes; it runs in",
        "error: temperature -1.0 is out of range",
        "error: transformers runs in one process only; leave it out, or start without torchrun",
        "error: ltd tune runs in one process, but torchrun started several; start it without torchrun",
    ],
)
def test_a_mistake_is_told_once(run: Run, sentence: str) -> None:
    assert run.errors.count(sentence) == 1
