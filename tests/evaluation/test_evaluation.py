"""The interleaved run of several methods, its resumption, and what is recorded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from small_models import VOCABULARY, small_config
from transformers import AutoModelForCausalLM, AutoTokenizer

from ltd.chains.acceptance_files import draft_hash, save_acceptance
from ltd.chains.model_files import ChainFacts, save_chain
from ltd.common.differences import difference
from ltd.decoding.decoder import Decoder
from ltd.errors import InputError
from ltd.evaluation.compare import EvalConfig, evaluate, plan, published, token_hash
from ltd.evaluation.lossless import first_difference
from ltd.evaluation.method_table import PAPER_METHODS
from ltd.evaluation.methods import Method, TransformersMethod, TreeMethod
from ltd.evaluation.questions import Question
from ltd.evaluation.report import write_report
from ltd.evaluation.run_config import run_settings
from ltd.loading import load as load_decoder
from ltd.policies import DDD, Static
from ltd.policies.baselines.acceptance_head import AcceptanceHead
from ltd.target.model import tokenizer_fingerprint

QUESTIONS = {"first": [["Hi there"], ["What now?"]], "second": [["Say a", "and b"]]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with two tasks, one of them with two turns."""
    for task, conversations in QUESTIONS.items():
        folder = tmp_path / "data" / task
        folder.mkdir(parents=True)
        lines = [json.dumps({"question_id": 7 + number, "turns": turns}) for number, turns in enumerate(conversations)]
        (folder / "question.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "data"


@pytest.fixture
def config(data: Path, tmp_path: Path, tiny_target: Callable[..., Path], tiny_head: Callable[..., Path]) -> EvalConfig:
    """Three methods on a tiny random model."""
    return EvalConfig(
        data_dir=data,
        out=tmp_path / "out",
        tasks=("first", "second"),
        methods=("none", "eagle3", "static:2:4"),
        max_new_tokens=12,
        target=str(tiny_target("llama")),
        draft=str(tiny_head("llama")),
        dtype="float32",
    )


def test_a_run_that_was_refused_leaves_its_folder_to_the_corrected_command(config: EvalConfig) -> None:
    for mistake in ({"draft": "none"}, {"methods": ("none", "svip:text=8"), "draft": "lookup"}):
        with pytest.raises(InputError, match="decides about a draft, and there is none"):
            evaluate(replace(config, **mistake))
    assert len(evaluate(config)["samples"]) == 12
    with pytest.raises(InputError, match="holds a run with draft"):
        evaluate(replace(config, draft="none"), must_not_load)


def must_not_load(*args: Any, **kwargs: Any) -> Any:
    """Stands in for `ltd.load` where nothing may be loaded."""
    raise AssertionError("a model was loaded")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"data_dir": Path("nowhere")}, "no data folder nowhere"),
        ({"tasks": ("first", "third")}, "holds these tasks: first, second"),
        ({"tasks": ()}, "name each task once"),
        ({"tasks": ("first", "first")}, "name each task once"),
        ({"limit": 0}, "limit is 0"),
        ({"methods": ("none", "magic")}, "unknown method 'magic'"),
        ({"methods": ("static:2",)}, "unknown method 'static:2'"),
        ({"methods": (f"static:1:{9:09999}",)}, "unknown method 'static:1:0000"),  # more digits than Python reads
        ({"methods": (f"static:1:2:width={9:09999}",)}, "it must be a whole number"),
        ({"methods": (f"lookup:{9:09999}",)}, "unknown method 'lookup:0000"),
        ({"methods": (f"chain:{9:09999}",)}, "there is no rule for the length of a chain"),
        ({"methods": (f"transformers:lookup:tokens={9:09999}",)}, "unknown method 'transformers:lookup:tokens=0000"),
        ({"methods": ("static:99:4",)}, "depth 99"),
        ({"methods": ("none", "paper")}, "name each method once"),
        ({"methods": ("ddd:speed=9",)}, "no option 'speed'"),
        ({"methods": ("ddd:size=many",)}, "size is 'many'; it must be a whole number"),
        ({"methods": ("disco:model=nowhere",)}, "the baseline nowhere cannot be used"),
        ({"methods": ("grid:nowhere.json",)}, "nowhere.json"),
        ({"methods": ("transformers:magic",)}, "unknown method 'transformers:magic'"),
        ({"methods": ("transformers:lookup:tokens=0",)}, "with N at least 1"),
        ({"methods": ("transformers:assisted",), "chain": "nowhere"}, "no chain draft in nowhere"),
        ({"methods": ("none", "=static:2:3")}, "'=static:2:3' has an empty label; write LABEL=static:2:3"),
        ({"methods": ("none", " =ddd")}, "empty label"),
        ({"methods": ("grid:",)}, "name of a file or folder is empty"),
        ({"chain": "somewhere"}, "no method here uses a chain draft"),
        (
            {"methods": ("chain:2", "one=chain:2:sampler=noise", "chain:heuristic:most=9:sampler=residual")},
            "is greedy and makes no use of the sampler in one=chain:2:sampler=noise, chain:heuristic:most=9:sampler",
        ),
        (
            {"methods": ("static:1:4", "static:1:4:sampler=noise", "one=static:1:4:width=3:sampler=rejection")},
            "no use of the sampler in static:1:4:sampler=noise, one=static:1:4:width=3:sampler=rejection; leave it out",
        ),
        ({"temperature": 1.0, "seed": 2**63 - 1}, f"each of the 3 questions .* must be 0 … {2**63 - 3}"),
        ({"turns": 0}, "turns is 0"),
        ({"methods": ("none", "none")}, "name each method once"),
        ({"against": "ddd"}, "no method 'ddd' in this run to compare with; it has none, eagle3, static:2:4"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"dtype": "int8"}, "dtype 'int8'"),
    ],
)
def test_bad_input_is_told_before_a_model_loads(config: EvalConfig, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        evaluate(replace(config, **changes), load=must_not_load)
    assert not (config.out / "results.json").exists()


def test_the_last_seeds_are_taken(config: EvalConfig) -> None:
    last = 2**63 - 3
    results = evaluate(replace(config, methods=("none",), temperature=1.0, seed=last, max_new_tokens=2))
    assert results["settings"]["seed"] == last and len(results["samples"]) == 4


def test_an_out_folder_that_is_a_file_is_told_before_a_model_loads(config: EvalConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        evaluate(replace(config, out=tmp_path / "file"), load=must_not_load)


def test_methods_take_turns_in_rotating_order() -> None:
    questions = [Question("t", "1", ("a", "b")), Question("t", "2", ("c",)), Question("t", "3", ("d",))]
    pieces = plan(questions, [Method.parse(name) for name in ("none", "eagle3", "static:2:4")], seed=5)
    by_prompt = [[piece.method.name for piece in pieces[start : start + 3]] for start in range(0, 12, 3)]
    assert by_prompt == [
        ["none", "eagle3", "static:2:4"],
        ["eagle3", "static:2:4", "none"],
        ["static:2:4", "none", "eagle3"],
        ["none", "eagle3", "static:2:4"],
    ]
    assert [piece.seed for piece in pieces[::3]] == [5, 5, 6, 7]
    assert len({piece.key for piece in pieces}) == len(pieces)


def test_every_answer_is_recorded_and_identical_to_plain_decoding(config: EvalConfig) -> None:
    results = evaluate(config)
    samples = results["samples"]
    assert len(samples) == 4 * 3
    assert json.loads((config.out / "results.json").read_text()) == results
    for sample in samples:
        drafted = sample["method"] != "none"
        assert sample["identical_to_none"] is (True if drafted else None)
        assert sample["first_divergence"] is None
        assert sample["new_tokens"] == 1 + sum(sample["gains"]) <= config.max_new_tokens
        assert set(sample["seconds"]) >= {"prefill", "draft", "select", "verify", "accept", "commit", "policy"}
        assert drafted or set(sample["gains"]) <= {1}
    assert results["settings"]["dtype"] == "float32"
    assert {"processor", "cores", "threads", "torch"} <= results["settings"].keys()


def test_results_of_a_gpu_say_so(config: EvalConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the CPU are kept as they were when there was no other device."""
    assert "device" not in run_settings(replace(config, device="cpu"), [])
    monkeypatch.setattr("ltd.evaluation.run_config.resolve_device", torch.device)
    assert run_settings(replace(config, device="cuda:1"), [])["device"] == "cuda:1"


def test_factors_for_sampled_text_belong_to_runs_that_sample(config: EvalConfig, tmp_path: Path) -> None:
    assert config.draft is not None
    head = tmp_path / "head"
    shutil.copytree(config.draft, head)
    runs = [replace(config, draft=str(head), temperature=temperature) for temperature in (0.0, 1.0)]
    before = [run_settings(run, []) for run in runs]
    (head / "sampling.json").write_text("factors")
    greedy, sampled = (run_settings(run, []) for run in runs)
    assert greedy == before[0]
    assert sampled != before[1]
    assert difference(before[1], sampled) == "with other factors for sampled text beside its draft head than this one's"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_turn_follows_the_same_methods_answers(config: EvalConfig, temperature: float) -> None:
    config = replace(config, tasks=("second",), methods=("eagle3",), temperature=temperature)
    evaluate(config)
    records = [json.loads(line) for line in (config.out / "samples.jsonl").read_text().splitlines()[1:]]
    decoder = load_decoder(config.target, config.draft, dtype="float32")
    answer = decoder.tokenizer.decode(records[0]["token_ids"], skip_special_tokens=True)
    prompt = decoder.encode(
        [
            {"role": "user", "content": "Say a"},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": "and b"},
        ]
    )
    assert records[1]["prompt_hash"] == token_hash(prompt)
    again = decoder.generate(prompt, max_new_tokens=12, temperature=temperature, seed=0, policy=Static(8, 60))
    assert records[1]["token_ids"] == again.token_ids


def test_a_tokenizer_without_chat_template_gets_plain_text(config: EvalConfig) -> None:
    def load(*args: Any, **kwargs: Any) -> Decoder:
        decoder = load_decoder(*args, **kwargs)
        decoder.tokenizer.chat_template = None
        return decoder

    config = replace(config, tasks=("second",), methods=("none",))
    evaluate(config, load)
    records = [json.loads(line) for line in (config.out / "samples.jsonl").read_text().splitlines()[1:]]
    decoder = load(config.target, config.draft, dtype="float32")
    answer = decoder.tokenizer.decode(records[0]["token_ids"], skip_special_tokens=True)
    assert records[1]["prompt_hash"] == token_hash(decoder.encode(f"Say a\n\n{answer}\n\nand b", chat=False))


def test_a_turn_that_is_too_long_is_named_before_anything_is_generated(config: EvalConfig) -> None:
    def load(*args: Any, **kwargs: Any) -> Any:
        return CountingDecoder(load_decoder(*args, **kwargs), kill_at=1)

    file = config.data_dir / "first" / "question.jsonl"
    for turns in (["x" * 400], ["short", "x" * 400]):
        lines = [{"question_id": 7, "turns": ["short"]}, {"question_id": 8, "turns": turns}]
        file.write_text("\n".join(map(json.dumps, lines)))
        complaint = rf"first, question 8, turn {len(turns)}: the prompt has \d+ tokens"
        with pytest.raises(InputError, match=complaint):
            evaluate(replace(config, out=config.out / str(len(turns))), load)


class Killed(BaseException):
    """What a kill looks like from inside."""


class CountingDecoder:
    """A decoder that counts its answers, and is killed in the middle of one."""

    def __init__(self, decoder: Decoder, kill_at: int | None = None) -> None:
        self.decoder, self.kill_at, self.started = decoder, kill_at, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.decoder, name)

    def stream(self, prompt: list[int], **settings: Any) -> Iterator[list[int]]:
        self.started += 1
        for news in self.decoder.stream(prompt, **settings):
            if self.started == self.kill_at:
                raise Killed
            yield news


def test_a_killed_run_goes_on_without_repeating_work(config: EvalConfig, tmp_path: Path) -> None:
    warm_ups = len(config.methods)
    first: list[CountingDecoder] = []

    def load(*args: Any, kill_at: int | None = None, **kwargs: Any) -> Any:
        first.append(CountingDecoder(load_decoder(*args, **kwargs), kill_at))
        return first[-1]

    with pytest.raises(Killed):
        evaluate(config, lambda *args, **kwargs: load(*args, kill_at=warm_ups + 6, **kwargs))
    assert not (config.out / "results.json").exists()
    resumed = evaluate(config, load)
    assert first[1].started == warm_ups + 12 - 5
    whole = evaluate(replace(config, out=tmp_path / "whole"))
    assert [without_times(sample) for sample in resumed["samples"]] == [without_times(s) for s in whole["samples"]]
    assert evaluate(config, must_not_load) == resumed


def without_times(sample: dict[str, Any]) -> dict[str, Any]:
    """What must be equal in two runs."""
    return {name: value for name, value in sample.items() if "second" not in name}


def test_other_settings_do_not_mix(config: EvalConfig) -> None:
    evaluate(config)
    before = (config.out / "samples.jsonl").read_bytes()
    with pytest.raises(InputError, match="max_new_tokens 12, and this one has 13"):
        evaluate(replace(config, max_new_tokens=13), must_not_load)
    questions = config.data_dir / "first" / "question.jsonl"
    questions.write_text(questions.read_text().replace("Hi there", "Hello"))
    with pytest.raises(InputError, match="questions"):
        evaluate(config, must_not_load)
    assert (config.out / "samples.jsonl").read_bytes() == before


def test_divergence_from_plain_decoding_is_recorded() -> None:
    questions = [Question("t", "1", ("a", "b"))]
    pieces = plan(questions, [Method.parse("none"), Method.parse("eagle3")], seed=0)
    tokens = {(0, "none"): [5, 6, 7], (0, "eagle3"): [5, 9], (1, "none"): [1], (1, "eagle3"): [1]}
    prompts = {(0, "none"): "p", (0, "eagle3"): "p", (1, "none"): "q", (1, "eagle3"): "r"}
    samples = {
        ("t", "1", turn, name): {"token_ids": tokens[turn, name], "prompt_hash": prompts[turn, name]}
        for turn, name in tokens
    }
    verdicts = {piece.key[2:]: sample for piece, sample in zip(pieces, published(pieces, samples, 0.0), strict=True)}
    found = {key: (sample["identical_to_none"], sample["first_divergence"]) for key, sample in verdicts.items()}
    assert found == {(0, "none"): (None, None), (0, "eagle3"): (False, 1), (1, "none"): (None, None),
                     (1, "eagle3"): (None, None)}  # fmt: skip
    assert all("token_ids" not in sample for sample in verdicts.values())


def test_rejection_is_a_method_beside_the_others(config: EvalConfig) -> None:
    """Only the distribution of its text is plain decoding's."""
    drawn = "static:1:4:sampler=rejection"
    config = replace(config, tasks=("first",), methods=("none", drawn), temperature=1.0)
    samples = [sample for sample in evaluate(config)["samples"] if sample["method"] == drawn]
    assert samples and all(set(sample["sizes"]) == {4} and set(sample["depths"]) == {1} for sample in samples)
    assert all(sample["identical_to_none"] is None for sample in samples)
    assert all("the distribution is the same" in sample["not_compared"] for sample in samples)


def test_rejection_is_refused_on_a_gpu_before_anything_loads() -> None:
    drawn = Method.parse("static:1:4:sampler=rejection")
    with pytest.raises(InputError, match="recursive rejection runs on the CPU alone, not on cuda"):
        drawn.choose(must_not_load, torch.device("cuda"))


def test_names_stand_for_methods(tmp_path: Path) -> None:
    (tmp_path / "grid.json").write_text(json.dumps({"format": "ltd-grid", "schema": 1, "depth": 3, "size": 9}))
    rule = {"format": "ltd-rule", "schema": 1, "policy": "ddd:floor=-0.5:size=6"}
    (tmp_path / "ddd.json").write_text(json.dumps(rule))
    policies = {"none": "none", "tuned": None, "grid": None, "eagle3": Static(8, 60), "static:2:4": Static(2, 4),
                f"grid:{tmp_path / 'grid.json'}": Static(3, 9),
                f"rule:{tmp_path / 'ddd.json'}": DDD(floor=-0.5, size=6)}  # fmt: skip
    for name, policy in policies.items():
        method = TreeMethod.named(name)
        assert (method.name, method.policy) == (name, policy)
    assert type(TreeMethod.named("svip").policy).__name__ == "SVIP"
    lookups = {"transformers": None, "transformers:lookup": 10, "transformers:lookup:tokens=3": 3}
    for name, lookup in lookups.items():
        assert Method.parse(name) == TransformersMethod(name, lookup)


def test_a_rules_files_are_its_numbers_and_its_network(tmp_path: Path) -> None:
    file = tmp_path / "disco.json"
    file.write_text(json.dumps({"format": "ltd-rule", "schema": 1, "policy": "disco:threshold=0.4"}))
    assert TreeMethod.named(f"rule:{file}").files == [file, *TreeMethod.named("disco").files]
    assert len(TreeMethod.named("disco").files) == 2


def test_paper_stands_for_the_papers_rows(config: EvalConfig) -> None:
    assert replace(config, methods=("paper", "chain:2")).methods == (*PAPER_METHODS, "chain:2")


def test_only_the_first_turns(config: EvalConfig) -> None:
    results = evaluate(replace(config, methods=("none",), turns=1))
    assert [sample["turn"] for sample in results["samples"]] == [0, 0, 0]


def test_transformers_gives_the_same_greedy_text_and_comparable_numbers(config: EvalConfig) -> None:
    methods = ("none", "transformers", "transformers:lookup:tokens=3")
    samples = evaluate(replace(config, methods=methods))["samples"]
    for sample in samples:
        if sample["method"] != "none":
            assert sample["identical_to_none"] is True
            assert sample["depths"] == sample["sizes"] == []
        if sample["method"] == "transformers":
            assert set(sample["gains"]) <= {1} and sample["new_tokens"] == 1 + len(sample["gains"])
        assert sum(sample["gains"]) < sample["new_tokens"] and sample["seconds"]["prefill"] > 0
        assert (sample["decode_seconds"] > 0) == (len(sample["gains"]) > 0) or sample["method"] == "none"
    assert max(sample["new_tokens"] for sample in samples) == config.max_new_tokens


def test_sampling_of_transformers_is_not_compared_but_repeats_itself(config: EvalConfig, tmp_path: Path) -> None:
    config = replace(config, tasks=("first",), methods=("none", "eagle3", "transformers"), temperature=1.0)
    samples = evaluate(config)["samples"]
    verdicts = {sample["method"]: (sample["identical_to_none"], sample["not_compared"]) for sample in samples}
    assert verdicts["eagle3"] == (True, None)
    assert verdicts["none"] == (None, "this is plain decoding itself")
    assert verdicts["transformers"][0] is None and "the distribution is the same" in verdicts["transformers"][1]
    again = evaluate(replace(config, out=tmp_path / "again"))["samples"]
    assert [s["token_ids_sha256"] for s in again] == [s["token_ids_sha256"] for s in samples]


@pytest.mark.parametrize("method", ["none", "transformers"])
def test_what_a_models_files_say_of_sampling_is_left_out_of_every_method(
    config: EvalConfig, tmp_path: Path, method: str
) -> None:
    """All draw from the distribution at the temperature that is asked for; else they could not be compared."""
    assert config.target is not None
    told = tmp_path / "told"
    shutil.copytree(config.target, told)
    words = {"do_sample": True, "temperature": 0.1, "top_k": 1, "min_p": 0.9, "top_h": 0.1, "typical_p": 0.1}
    found = json.loads((told / "generation_config.json").read_text())
    (told / "generation_config.json").write_text(json.dumps({**found, **words}))
    config = replace(config, tasks=("first",), methods=(method,), temperature=1.0)
    plain, other = (
        evaluate(replace(config, target=str(folder), out=tmp_path / name))["samples"]
        for folder, name in ((config.target, "a"), (told, "b"))
    )
    assert [s["token_ids_sha256"] for s in plain] == [s["token_ids_sha256"] for s in other]


def test_a_label_of_plain_decoding_is_what_texts_are_compared_with(config: EvalConfig) -> None:
    samples = evaluate(replace(config, tasks=("first",), methods=("plain=none", "eagle3")))["samples"]
    verdicts = {sample["method"]: (sample["identical_to_none"], sample["not_compared"]) for sample in samples}
    assert verdicts == {"plain=none": (None, "this is plain decoding itself"), "eagle3": (True, None)}


@pytest.fixture
def chain(config: EvalConfig, tmp_path: Path) -> str:
    """The folder of a random chain draft for the tiny model."""
    torch.manual_seed(3)
    sizes = small_config("llama")
    sizes.num_hidden_layers = 2
    fingerprint = tokenizer_fingerprint(AutoTokenizer.from_pretrained(config.target), VOCABULARY)
    facts = ChainFacts("tiny", fingerprint, (0, 1), None)
    folder = tmp_path / "chain"
    folder.mkdir()
    save_chain(AutoModelForCausalLM.from_config(sizes), None, folder, facts, {})
    return str(folder)


def test_chains_and_assisted_generation_give_the_same_greedy_text(config: EvalConfig, chain: str) -> None:
    methods = ("none", "chain:2", "chain:heuristic", "transformers:assisted")
    results = evaluate(replace(config, methods=methods, chain=chain))
    assert "chain_sha256" in results["settings"]
    for sample in results["samples"]:
        if sample["method"] != "none":
            assert sample["identical_to_none"] is True
        if sample["method"] == "chain:2":
            assert set(sample["sizes"]) <= {0, 1, 2} and len(sample["sizes"]) == sample["cycles"]
    assert results["scores"]["chain:2"]["drafted"]["size"] > 1


def test_a_head_for_another_chain_draft_is_refused(config: EvalConfig, chain: str, tmp_path: Path) -> None:
    head = AcceptanceHead(32)
    save_acceptance(head, tmp_path / "head", "another", {})
    method = f"chain:specdecpp:model={tmp_path / 'head'}"
    with pytest.raises(InputError, match="another draft"):
        evaluate(replace(config, methods=("none", method), chain=chain))
    save_acceptance(head, tmp_path / "head", draft_hash(chain), {})
    evaluate(replace(config, methods=("none", method), chain=chain, out=tmp_path / "fits", tasks=("first",)))


def test_a_label_is_the_methods_name_in_tables(config: EvalConfig, tmp_path: Path) -> None:
    named = ("none", "small=static:1:3", "large=eagle3:depth=2:size=6")
    results = evaluate(replace(config, methods=named, tasks=("first",)))
    write_report(results, config.out, Console(quiet=True))
    table = (config.out / "table.md").read_text()
    assert "| small |" in table and "| large |" in table and "static" not in table
    plain = evaluate(replace(config, methods=("none", "static:1:3"), tasks=("first",), out=tmp_path / "plain"))
    sizes = [[s["sizes"] for s in run["samples"] if s["method"].endswith("static:1:3")] for run in (results, plain)]
    assert sizes[0] == sizes[1]
    with pytest.raises(InputError, match="each method once"):
        replace(config, methods=("none", "a=static:1:3", "a=static:1:4"))


def test_a_finished_run_is_compared_with_one_of_its_methods(config: EvalConfig) -> None:
    evaluate(config)
    results = evaluate(replace(config, against="static:2:4"), must_not_load)
    assert "against" not in results["settings"]
    write_report(results, config.out, Console(quiet=True), "static:2:4")
    comparison = json.loads((config.out / "against.json").read_text())
    assert comparison["against"] == "static:2:4" and comparison["methods"] == ["none", "eagle3"]
    assert [(each["task"], each["question_id"]) for each in comparison["questions"]] == [
        ("first", "7"), ("first", "8"), ("second", "7")]  # fmt: skip
    assert "Speed over static:2:4 on the same questions" in (config.out / "table.md").read_text()


def test_sampled_chains_are_not_compared(config: EvalConfig, chain: str) -> None:
    config = replace(config, tasks=("first",), methods=("none", "chain:2"), chain=chain, temperature=1.0)
    for sample in evaluate(config)["samples"]:
        assert sample["identical_to_none"] is sample["first_divergence"] is None
        assert ("the distribution is the same" in sample["not_compared"]) == (sample["method"] == "chain:2")


def test_a_check_of_chains(config: EvalConfig, chain: str, tmp_path: Path) -> None:
    from ltd.evaluation.check import CheckConfig, check, is_lossless

    model = {"target": config.target, "draft": config.draft, "chain": chain}
    results = check(
        CheckConfig(config.data_dir, tmp_path / "check.json", config.tasks, max_new_tokens=8, method="chain:3", **model)
    )
    assert is_lossless(results) and len(results["prompts"]) == 4
    trees = CheckConfig(config.data_dir, tmp_path / "trees.json", config.tasks, method="eagle3", **model)
    with pytest.raises(InputError, match="no method here uses a chain draft"):
        check(trees, must_not_load)
    for name, used in {"chain:2:sampler=noise": chain, "static:1:4:sampler=rejection": None}.items():
        with pytest.raises(InputError, match=f"makes no use of the sampler in {name}, and .* shows; leave it out"):
            check(replace(trees, method=name, chain=used), must_not_load)


def test_adding_a_method_to_a_run_is_refused(config: EvalConfig) -> None:
    evaluate(replace(config, methods=("none",)))
    with pytest.raises(InputError, match=r"holds a run with methods \['none'\]"):
        evaluate(replace(config, methods=("none", "eagle3")), must_not_load)


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_first_difference(one: list[int], other: list[int]) -> None:
    index = first_difference(one, other)
    if index is None:
        assert one == other
    else:
        assert one[:index] == other[:index]
        assert one[index : index + 1] != other[index : index + 1]
