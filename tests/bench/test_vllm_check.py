"""The check of exported heads in vLLM, with a stand-in for vLLM: what is asked, what is compared, when it fails."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import ltd
import vllm_check
from ltd.policies import Static
from ltd.target.model import NamedModel
from vllm_check import Ours, Row

Folder = Callable[[str], Path]
# As much of vLLM as is used. It says what the test has put beside it.
STAND_IN = """
import json, os
from pathlib import Path
from types import SimpleNamespace

assert os.environ["HF_HUB_OFFLINE"] == "1"  # before the import
__version__ = "0.0"
HERE = Path(__file__).parent

class SamplingParams(SimpleNamespace):
    pass

class LLM:
    def __init__(self, model, speculative_config, **options):
        print("what an engine prints is no result")
        config = json.loads((Path(model) / "config.json").read_text())
        assert config["model_type"] == "llama" and options["dtype"] == "float32"
        self.drafted = 0
        if speculative_config is not None:
            head = json.loads((Path(speculative_config["model"]) / "config.json").read_text())
            assert head["architectures"] == ["LlamaForCausalLMEagle3"]
            assert speculative_config["method"] == "eagle3"
            self.drafted = speculative_config["num_speculative_tokens"]
        self.told = json.loads((HERE / "told.json").read_text())[str(self.drafted)]
        assert self.told is not None, "the stand-in fails"

    def generate(self, prompts, settings, use_tqdm):
        with (HERE / "asked.jsonl").open("a") as file:
            print(json.dumps([self.drafted, prompts, vars(settings)]), file=file)
        answers = self.told["answers"]
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(answer))]) for answer in answers]

    def get_metrics(self):
        return [
            SimpleNamespace(name="vllm:spec_decode_num_drafts", value=self.told["drafts"]),
            SimpleNamespace(name="vllm:spec_decode_num_accepted_tokens_per_pos", values=self.told["accepted"]),
            SimpleNamespace(name="vllm:something_else", value=5),
        ]
"""
NEW, ASKED = 10, 2
QUESTIONS = vllm_check.QUESTIONS[:ASKED]


@pytest.fixture
def plain(tiny_target: Folder) -> list[list[int]]:
    """What `transformers` answers, in float32."""
    model = AutoModelForCausalLM.from_pretrained(tiny_target("llama"), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_target("llama"))
    answers = []
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
        answers.append(output[0, inputs["input_ids"].shape[1] :].tolist())
    return answers


@pytest.fixture
def check(
    tiny_target: Folder, tiny_head: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, dict[str, Any]]]:
    """check(told, …) → exit code and results beside a made-up vLLM that says so, by the number of drafted tokens."""

    def run(told: dict[int, Any], *options: str) -> tuple[int, dict[str, Any]]:
        place = tmp_path / "vllm"
        place.mkdir()
        (place / "__init__.py").write_text(STAND_IN)
        (place / "told.json").write_text(json.dumps(told))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        given = {"target": tiny_target("llama"), "head": tiny_head("llama"), "python": sys.executable,
                 "out": tmp_path / "out", "new-tokens": NEW, "limit": ASKED, "drafted": "1,3"}  # fmt: skip
        code = vllm_check.run([*(f"--{name}={value}" for name, value in given.items()), *options])
        return code, json.loads((tmp_path / "out" / "results.json").read_text())

    return run


def test_what_is_asked_and_compared(
    check: Callable[..., Any], plain: list[list[int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {
        0: {"answers": plain, "drafts": 0, "accepted": []},
        1: {"answers": plain, "drafts": 10, "accepted": [6]},
        3: {"answers": plain, "drafts": 8, "accepted": [6, 4, 2]},
    }
    code, results = check(told)
    assert code == 0 and results["wrong"] == [] and results["vllm"] == "0.0"
    assert [(row["drafted"], row["same_as_plain"], row["same_as_ours"]) for row in results["rows"]] == [
        (0, ASKED, ASKED), (1, ASKED, ASKED), (3, ASKED, ASKED),
    ]  # fmt: skip
    shown = capsys.readouterr().out
    assert "0.75, 0.50, 0.25" in shown and "what an engine prints" not in shown
    asked = [json.loads(line) for line in (tmp_path / "vllm" / "asked.jsonl").read_text().splitlines()]
    assert [drafted for drafted, *_ in asked] == [0, 1, 3]
    for _, prompts, settings in asked:
        assert settings == {"temperature": 0.0, "max_tokens": NEW, "stop_token_ids": [2]}
        assert len(prompts) == ASKED and prompts == asked[0][1]


def test_other_texts_and_few_accepted_tokens_are_wrong(
    check: Callable[..., Any],
    plain: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = [plain[0], [*plain[1][:-1], 90]]
    told = {
        0: {"answers": other, "drafts": 0, "accepted": []},  # another engine may part at a near tie
        1: {"answers": plain, "drafts": 10, "accepted": [8]},
        3: {"answers": other, "drafts": 10, "accepted": [6, 1, 0]},
    }
    texts = Ours.answers
    monkeypatch.setattr(Ours, "answers", lambda *given: (texts(*given)[0], 0.8 if given[-1] else 0.0))
    code, results = check(told)
    assert code == 1 and results["wrong"] == [
        "with 1 drafted tokens 1 of 2 texts are not plain vLLM's",
        "with 3 drafted tokens 0.70 tokens of a draft are accepted, but 0.80 here",
    ]
    assert [row["same_as_ours"] for row in results["rows"]] == [1, 2, 1]
    assert capsys.readouterr().err.count("wrong: ") == 2
    # A floor that is low enough leaves the text alone.
    (row,) = [Row(**row) for row in results["rows"] if row["drafted"] == 3]
    assert row.complaints(0.85) == [] and len(row.complaints(0.9)) == 1


def test_nothing_drafted_is_no_success() -> None:
    assert Row(1, 2, 2, 2, drafts=0, accepted=[], ours=0.5).complaints(0.9)
    assert not Row(0, 2, 2, 2, drafts=0, accepted=[], ours=0.0).complaints(0.9)


def test_an_engine_that_fails_is_one_sentence(check: Callable[..., Any], plain: list[list[int]]) -> None:
    with pytest.raises(
        ltd.InputError, match=r"vLLM did not answer \(exit code 1\).*AssertionError: the stand-in fails"
    ):
        check({0: None})


def test_an_environment_that_is_missing_is_one_sentence(check: Callable[..., Any]) -> None:
    with pytest.raises(ltd.InputError, match="no Python at /nowhere/python; make vllm-check sets up"):
        check({}, "--python=/nowhere/python")


@pytest.mark.parametrize("drafted", ["", "0", "1,1", "one"])
def test_numbers_of_drafted_tokens(drafted: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        vllm_check.parse(["--out=out", f"--drafted={drafted}"])
    assert "--drafted" in capsys.readouterr().err


def test_ours_is_a_chain(tiny_target: Folder, tiny_head: Folder, plain: list[list[int]]) -> None:
    """Its first token is the best of a wide tree's, and all of its tokens are verified; the text is the model's."""
    ours = Ours(NamedModel(tiny_target("llama")), tiny_head("llama"))
    prompts = [ours.decoder.encode(question) for question in QUESTIONS]
    wide = ltd.load(tiny_target("llama"), tiny_head("llama"), dtype="float32", policy=Static(0, 1))
    gains = []
    for prompt in prompts:
        answer = wide.generate(prompt, max_new_tokens=NEW)
        assert isinstance(answer, ltd.Generation)
        gains += answer.statistics.gains
    assert ours.answers(prompts, NEW, 1) == (plain, sum(gains) / len(gains) - 1)
    assert ours.answers(prompts, NEW, 3)[0] == plain
    assert ours.decoder.last_statistics.sizes == [3] * len(ours.decoder.last_statistics.sizes)
