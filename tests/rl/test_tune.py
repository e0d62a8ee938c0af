"""`ltd tune` from a model to policies that are used by default."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ltd.cli import main
from ltd.cli.tune import verdict
from ltd.common.files import cache_folder
from ltd.common.lock import LOCK, only_run
from ltd.decoding.decoder import Decoder
from ltd.errors import InputError
from ltd.evaluation.methods import TreeMethod
from ltd.evaluation.scores import scores
from ltd.loading import load
from ltd.policies import Learned, Lookup, Static
from ltd.policies.learned.bundle import load_bundle
from ltd.policy_choice import DEFAULT_CPU_POLICY, setting_of

pytest.importorskip("stable_baselines3")

from toy_outcomes import TINY

from ltd_rl.traces import sources
from ltd_rl.traces.format import load_traces, temperatures_of
from ltd_rl.traces.splits import split_generations
from ltd_rl.trainers.ppo_config import PPOConfig
from ltd_rl.tuning import comparison, fixed
from ltd_rl.tuning import tune as stages
from ltd_rl.tuning.config import TuneConfig
from ltd_rl.tuning.tune import mark_of, tune
from ltd_rl.tuning.winner import together
from ltd_rl.tuning.work import expected

SHORT = PPOConfig(**{**TINY, "total_timesteps": 256, "gamma": 0.9})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "humaneval").mkdir()
    lines = [json.dumps({"question_id": n, "turns": [f"Say {n}"]}) for n in range(10)]
    (folder / "humaneval" / "question.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def config(
    data: Path,
    tiny_target: Callable[[str], Path],
    tiny_head: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> TuneConfig:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return TuneConfig(
        out=tmp_path / "work",
        data_dir=data,
        tasks=("humaneval",),
        max_new_tokens=12,
        seconds=0.2,
        questions=2,
        temperatures=(0.0,),
        target=str(tiny_target("llama")),
        draft=str(tiny_head("llama")),
        dtype="float32",
    )


def grid(decoder: Decoder) -> Any:
    """What the method `grid` decides with beside a decoder."""
    return TreeMethod.named("grid").choose(lambda: setting_of(decoder), decoder.target.device).chosen.policy


def must_not_run(*_: Any, **__: Any) -> Any:
    raise AssertionError("this stage was finished before")


def must_not_load(*_: Any, **__: Any) -> Any:
    raise AssertionError("no model should have been loaded")


def decide(monkeypatch: pytest.MonkeyPatch, wins: Callable[[str], bool]) -> None:
    """The clock is not asked: decoding takes these methods half as long as the others, in every answer."""
    measured = comparison.evaluate

    def decided(*arguments: Any) -> Any:
        results = measured(*arguments)
        for sample in results["samples"]:
            tokens = sum(sample["gains"])
            sample["decode_seconds"] = tokens * (1.0 if wins(sample["method"]) else 2.0)
        return results

    monkeypatch.setattr(comparison, "evaluate", decided)


@pytest.mark.parametrize("temperatures", [(0.0,), (0.0, 1.0)])
def test_the_result_is_used_by_default_and_a_rerun_measures_nothing_again(
    config: TuneConfig, monkeypatch: pytest.MonkeyPatch, temperatures: tuple[float, ...]
) -> None:
    config = replace(config, temperatures=temperatures)
    before = load(config.target, config.draft, dtype="float32")
    assert before.policy == DEFAULT_CPU_POLICY
    with pytest.raises(InputError, match="find it with ltd tune"):
        grid(before)
    decide(monkeypatch, lambda method: method.startswith("bundle:"))
    tuned = tune(config)
    decoder = load(config.target, config.draft, dtype="float32")
    assert isinstance(decoder.policy, Learned)
    assert tuned.learned and str(decoder.policy) == str(tuned.kept)
    prompt = decoder.encode("Say 7")
    assert decoder.generate(prompt).token_ids == before.generate(prompt, policy="none").token_ids
    assert config.out is not None
    learned = load_bundle(config.out / "bundle").policy
    traces = load_traces(config.out / "traces")
    assert temperatures_of(traces.generations) == list(temperatures)
    generations, _ = split_generations(traces.generations)
    lengths = [g.prompt_length + position for g in generations for position in range(g.positions)]
    for network in (learned.depth_network, learned.size_network):
        assert network is not None and network.layout.length_range == (min(lengths), max(lengths))
    bundle = load_bundle(tuned.folder)
    assert bundle.reward == "renewal" and bundle.training["trainer"] == "exact"
    assert bundle.training["temperatures"] == list(temperatures)
    assert bundle.policy.made_for.sampling_sha256 == (None if temperatures == (0.0,) else "none")  # beside this head
    assert set(bundle.validation) == set(tuned.names) and tuple(tuned.results) == temperatures
    told = {None: together(tuned.results), **tuned.results}
    for temperature, results in told.items():
        table = scores(results)
        for name, method in tuned.names.items():
            row = bundle.validation[name]
            row = row if temperature is None else row["temperatures"][f"{temperature:g}"]
            assert row["tokens_per_second"] == table[method]["mean"].tokens_per_second
            ratio = 1.0 if name == "learned" else 2.0
            # Sampled answers may be too short for an interval of their own.
            known = [[ratio, ratio], None] if temperature else [[ratio, ratio]]
            assert row["learned_over_it"]["ratio"] == ratio and row["learned_over_it"]["interval"] in known
    best = next(name for name in tuned.names if name.startswith("best static"))
    assert f"best static ({', '.join(map(str, bundle.training['best_static']))})" == best
    assert grid(decoder) == Static(*bundle.training["best_static"])
    monkeypatch.setattr(sources, "calibrate", must_not_run)
    again = tune(config)
    assert again.folder == tuned.folder


def test_the_three_splits_share_no_question_and_every_task_is_in_each(
    config: TuneConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Tasks of very different sizes, such that a split of them all would leave one without."""
    for task, count in (("few", 4), ("many", 13)):
        (tmp_path / "questions" / task).mkdir(parents=True)
        lines = [json.dumps({"question_id": n, "turns": [f"Say {n}"]}) for n in range(count)]
        (tmp_path / "questions" / task / "question.jsonl").write_text("\n".join(lines))
    seen: list[Any] = []
    split = stages.split_three_ways
    monkeypatch.setattr(stages, "split_three_ways", lambda generations: seen.append(split(generations)) or seen[0])
    tuned = tune(replace(config, data_dir=tmp_path / "questions", tasks=("few", "many"), questions=4))
    sides = [
        {(each.task, each.question_id) for each in side}
        for side in (seen[0].training, seen[0].validation, seen[0].comparison)
    ]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 17
    assert all({task for task, _ in side} == {"few", "many"} for side in sides)
    compared = {(sample["task"], sample["question_id"]) for sample in tuned.results[0.0]["samples"]}
    assert compared <= sides[2] and len(compared) == 4


@pytest.mark.parametrize(("task", "count"), [("one", 1), ("three", 3)])
def test_a_task_that_cannot_be_split_is_told_before_a_model_loads(
    config: TuneConfig, tmp_path: Path, task: str, count: int
) -> None:
    for name, number in (("many", 40), (task, count)):
        (tmp_path / "questions" / name).mkdir(parents=True)
        lines = [json.dumps({"question_id": n, "turns": [f"Say {n}"]}) for n in range(number)]
        (tmp_path / "questions" / name / "question.jsonl").write_text("\n".join(lines))
    asked = replace(config, data_dir=tmp_path / "questions", tasks=("many", task), questions=4)
    with pytest.raises(InputError, match=f"task {task} has {count} question.*at least 4"):
        tune(asked, must_not_load)


@pytest.mark.parametrize("wins", ["bundle:", "static:0:0", "none"])
def test_only_what_is_surely_faster_is_kept(config: TuneConfig, monkeypatch: pytest.MonkeyPatch, wins: str) -> None:
    monkeypatch.setattr(stages, "best_setting", lambda outcomes: Static(0, 0))
    decide(monkeypatch, lambda method: method.startswith("bundle:"))
    earlier = tune(config)
    assert (earlier.folder / "policy.json").exists()
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(earlier.folder.parents[2]))
    monkeypatch.setattr(stages, "best_setting", lambda outcomes: Static(0, 0))
    decide(monkeypatch, lambda method: method.startswith(wins))
    tuned = tune(config)
    assert tuned.folder == earlier.folder
    assert tuned.learned == (wins == "bundle:")
    assert ("95 % intervals" in verdict(tuned)) == (wins == "none")
    assert ("learned policies over all simpler choices do not lie above 1" in verdict(tuned)) == (wins == "static:0:0")
    decoder = load(config.target, config.draft, dtype="float32")
    assert grid(decoder) == Static(0, 0)  # whatever is kept
    if wins == "none":
        assert tuned.kept is None and not (tuned.folder / "policy.json").exists()
        assert decoder.policy == DEFAULT_CPU_POLICY
        method = TreeMethod.named("tuned").choose(lambda: setting_of(decoder), decoder.target.device)
        assert method.chosen is not None and method.chosen.policy == DEFAULT_CPU_POLICY
        return
    kept = load_bundle(tuned.folder).policy
    assert (kept.size_network is not None) == tuned.learned
    if tuned.learned:
        assert kept.costs is not None and len(kept.costs.verify) == len(kept.sizes)  # drafting may not lose
    else:
        assert (kept.depth_limit, kept.sizes) == (0, (0,))


# --- without a draft ---


def test_without_a_draft_sizes_are_learned_and_used_by_default(
    config: TuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, draft="lookup")
    before = load(config.target, "lookup", dtype="float32")
    assert isinstance(before.policy, Lookup)
    decide(monkeypatch, lambda method: method.startswith("bundle:"))
    tuned = tune(config)
    assert tuned.learned and tuned.incumbent == "default"
    assert set(tuned.names) == {"plain decoding", "default", "the best lookup", "learned"}
    for draft in ("lookup", None):  # no head fits this target
        decoder = load(config.target, draft, dtype="float32")
        policy = decoder.policy
        assert decoder.draft is None and isinstance(policy, Learned) and str(policy) == str(tuned.kept)
        assert policy.depth_network is None and policy.size_network is not None
        assert policy.made_for.head_sha256 == "lookup" and policy.depth_limit == 0 and policy.max_text > 0
        assert policy.text_scores is not None and policy.costs is not None
        assert (policy.costs.begin, policy.costs.expand) == (0.0, 0.0)
        for text in ("Say 7", "Say 8", "abcabcabcabcabc"):
            prompt = decoder.encode(text)
            answer = decoder.generate(prompt, max_new_tokens=60)
            assert answer.token_ids == before.generate(prompt, max_new_tokens=60, policy="none").token_ids
            assert set(answer.statistics.depths) == {-1}
    assert isinstance(grid(decoder), Lookup)
    bundle = load_bundle(tuned.folder)
    assert bundle.best_static is None and set(bundle.validation) == set(tuned.names)
    monkeypatch.setattr(sources, "calibrate", must_not_run)
    assert tune(config).folder == tuned.folder


@pytest.mark.parametrize("wins", ["lookup:size=3:", "none"])
def test_without_a_draft_too_only_what_is_surely_faster_is_kept(
    config: TuneConfig, monkeypatch: pytest.MonkeyPatch, wins: str
) -> None:
    monkeypatch.setattr(fixed, "best_lookup", lambda *_: (Lookup(3, 0.2), None))
    decide(monkeypatch, lambda method: method.startswith(wins))
    tuned = tune(replace(config, draft="lookup"))
    decoder = load(config.target, "lookup", dtype="float32")
    expected = Lookup(3, 0.2) if wins != "none" else Lookup()
    assert decoder.policy == expected and tuned.kept == (expected if wins != "none" else None)
    assert (tuned.folder / "rule.json").exists() == (wins != "none") and not (tuned.folder / "policy.json").exists()
    assert grid(decoder) == Lookup(3, 0.2)  # whatever is kept
    method = TreeMethod.named("tuned").choose(lambda: setting_of(decoder), decoder.target.device)
    assert method.chosen is not None and method.chosen.policy == expected


def test_ppo_needs_a_draft(config: TuneConfig) -> None:
    with pytest.raises(InputError, match="there is none; use the trainer exact"):
        tune(replace(config, draft="lookup", trainer="ppo", reward="ratio"), must_not_load)


def test_ppo_trains_in_the_papers_schedule(config: TuneConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PPOConfig, "paper", classmethod(lambda cls, role, **changes: SHORT))
    tuned = tune(replace(config, trainer="ppo", reward="ratio"))
    assert config.out is not None
    iterations = json.loads((config.out / "ppo" / "iterations.json").read_text())
    assert [entry["iteration"] for entry in iterations] == [0, 1, 2, 3]
    assert load_bundle(config.out / "bundle").training["trainer"] == "ppo"
    assert tuned.folder.exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"trainer": "sgd"}, "no trainer 'sgd'"),
        ({"reward": "length"}, "ratio and renewal, not length"),
        ({"reward": "fame", "trainer": "ppo"}, "no reward 'fame'"),
        ({"draft": "none"}, "there must be one"),
        ({"questions": 1}, "questions is 1; it must be at least 2"),
        ({"threads": 100_000}, "threads is 100000"),
        ({"seconds": 0.0}, "seconds 0.0 is out of range"),
        ({"data_dir": Path("nowhere")}, "no data folder nowhere"),
        ({"tasks": ("other",)}, "holds these tasks: humaneval"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperatures": ()}, "the temperatures are none"),
        ({"temperatures": (1.0, 1.0)}, "the temperatures are 1, 1; name one at least, and each once"),
        ({"temperatures": (-1.0,)}, "temperature -1.0 is out of range"),
        ({"limit": 4, "temperatures": (0.2, 0.4, 0.6, 0.8, 1.0)}, "only 4 questions to take them in turns"),
        ({"limit": 1}, "task humaneval has 1 question,"),
        ({"limit": 3, "data_dir": None, "tasks": ("own",)}, "task own has 3 questions,"),
        ({"tasks": ("qa",), "data_dir": None}, "HF_HUB_OFFLINE is set"),
    ],
)
def test_bad_settings_are_told_before_a_model_loads(
    config: TuneConfig, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        tune(replace(config, **changes), must_not_load)


def test_temperatures_that_differ_have_names_that_differ() -> None:
    assert [mark_of(each, 10) for each in ((0.0,), (0.0, 1.0), (0.6,))] == ["", "-at-0-1", "-at-0.6"]
    assert mark_of((0.0, 1.0), 4) == "-at-0-1-width-4"
    assert mark_of((0.1234567, 0.12345671), 10) == "-at-0.1234567-0.12345671"


@pytest.mark.parametrize("named", [True, False])
def test_a_second_run_in_the_same_folder_is_told_before_a_model_loads(config: TuneConfig, named: bool) -> None:
    if not named:  # in the user's cache, under a name that depends on the setting
        config = replace(config, out=None)
    seen: list[Path] = []

    def load_and_stop(*_: Any, **__: Any) -> Any:
        seen.extend(file.parent for folder in (config.out, cache_folder()) if folder for file in folder.rglob(LOCK))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(config, load_and_stop)
    (folder,) = seen  # which is held when the model is asked for
    assert folder == config.out if named else folder.parent == cache_folder() / "tuning"
    other = replace(config, temperatures=(0.0, 1.0))  # with traces of its own
    if not named:
        with pytest.raises(KeyboardInterrupt):
            tune(other, load_and_stop)
        assert f"{folder.name}-at-0-1" in {each.name for each in seen}
    with only_run(folder), pytest.raises(InputError, match=f"another run is at work in {folder}"):
        tune(config, must_not_load)


def test_the_folder_in_the_cache_is_that_of_the_loaded_setting(config: TuneConfig) -> None:
    here = setting_of(load(config.target, config.draft, dtype="float32"))
    assert here is not None and config.target is not None
    greedy = replace(here, target=Path(config.target).name, sampling_sha256=None)
    assert expected(config) == greedy
    assert expected(replace(config, temperatures=(0.0, 1.0))) == replace(greedy, sampling_sha256=here.sampling_sha256)


def test_the_command_shows_a_comparison(config: TuneConfig, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"data-dir": config.data_dir, "tasks": "humaneval", "out": config.out, "max-new-tokens": 12,
               "seconds": 0.2, "questions": 2, "target": config.target, "draft": config.draft,
               "dtype": "float32"}  # fmt: skip
    assert main(["tune", *(part for name, value in options.items() for part in (f"--{name}", str(value)))]) == 0
    shown = capsys.readouterr()
    out = " ".join(shown.out.split())
    for words in ("plain decoding", "learned", "speedup", "95 % interval", "over each", "prefill left out: greedy text",
                  "text at temperature 1", "over each: all temperatures together"):  # fmt: skip
        assert words in out
    for words in ("[1/5]", "[5/5]", "fewer than 10 questions", "greedy text and text at temperature 1"):
        assert words in shown.err
