"""Traces of sampled text: with its seed a replay is the decoder, cycle by cycle, with the head, the text, and both."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_lookups import even_scores
from made_texts import made_copies
from recordings import DEPTH, NEW_TOKENS, Recorded, Schedule, assert_same, decode, load_bigrams
from safetensors.numpy import load_file, save_file

import ltd
from ltd.cli import main
from ltd.common.shards import shard_file
from ltd.decoding.acceptance import Sampling
from ltd.errors import InputError
from ltd.evaluation.questions import Question
from ltd.lookup.scores import default_text_scores
from ltd.policies.base import text_limit
from ltd.policies.learned.setting import Setting
from ltd_rl.traces.compact import load_compact, save_compact
from ltd_rl.traces.format import METADATA, load_traces, save_shard, temperatures_of
from ltd_rl.traces.record import record
from ltd_rl.traces.replay import gains, replay
from ltd_rl.traces.samplings import question_seed, samplings
from ltd_rl.traces.text import propose_everywhere

HOT = (0.6, 1.0)
SCORES = replace(default_text_scores(), sampled=even_scores(0.4))  # as different as can be


@pytest.fixture
def sampled(recorded: Callable[..., Recorded]) -> Callable[[str], Recorded]:
    """Recordings of half of the questions at 0.6 and half at 1, with a decoder that knows the scores of the text."""

    def get(family: str) -> Recorded:
        run = recorded(family, at=HOT)
        decoder = copy(run.decoder)
        decoder.text_scores = SCORES
        return replace(run, decoder=decoder)

    return get


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize(("depth", "size"), [(0, 3), (1, 12), (4, 60), (4, 512)])
def test_a_fixed_schedule_is_the_decoder(
    sampled: Callable[[str], Recorded], family: str, depth: int, size: int
) -> None:
    run = sampled(family)
    assert temperatures_of(run.traces.generations) == list(HOT)
    for generation in run.traces.generations:
        assert_same(replay(generation, (depth, size)), decode(run.decoder, generation, ltd.Static(depth, size)))


@pytest.mark.parametrize("policy", [ltd.Lookup(6), ltd.Both(2, 6, 16, alone=0.4), ltd.Both(4, 30, 64)], ids=str)
def test_a_rule_over_the_text_is_the_decoder(sampled: Callable[[str], Recorded], policy: ltd.Lookup | ltd.Both) -> None:
    run = sampled("llama")
    for generation in run.traces.generations:
        text = propose_everywhere(generation, SCORES, text_limit(policy))
        assert_same(replay(generation, policy, text=text), decode(run.decoder, generation, policy))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data(), most=st.sampled_from([0, 5, 64]))
def test_any_schedule_is_the_decoder(sampled: Callable[[str], Recorded], draw: st.DataObject, most: int) -> None:
    run = sampled(draw.draw(st.sampled_from(["llama", "qwen3"])))
    generation = draw.draw(st.sampled_from(run.traces.generations))
    count, least = generation.positions, -1 if most else 0
    depths = draw.draw(st.lists(st.integers(least, DEPTH), min_size=count, max_size=count))
    sizes = draw.draw(st.lists(st.one_of(st.integers(0, 30), st.integers(0, 512)), min_size=count, max_size=count))
    policy = Schedule(generation, depths, sizes, max_text=most)
    text = propose_everywhere(generation, SCORES, most) if most else None
    real = decode(run.decoder, generation, policy)
    assert_same(replay(generation, (np.array(depths), np.array(sizes)), text=text), real)
    assert_same(replay(generation, policy, text=text), real)


def test_paths_are_long_enough_to_mean_something(sampled: Callable[[str], Recorded]) -> None:
    generations = sampled("llama").traces.generations
    assert max(gains(generation, DEPTH, 60).max() for generation in generations) > 2


def test_the_text_is_what_its_seed_gives_and_another_seed_gives_another(
    sampled: Callable[[str], Recorded], tmp_path: Path
) -> None:
    run = sampled("llama")
    config, decoder = run.config, run.decoder
    for generation in run.traces.generations:
        question = Question(generation.task, generation.question_id, ())
        drawn = generation.sampling
        assert drawn == Sampling(drawn.temperature, seed=question_seed(config.seed, question))
        prompt = generation.tokens[: generation.prompt_length].tolist()
        answer = decoder.generate(
            prompt, max_new_tokens=NEW_TOKENS, temperature=drawn.temperature, seed=drawn.seed, policy="none"
        )
        assert answer.token_ids == generation.tokens[generation.prompt_length :].tolist()
    seeds = {(g.task, g.question_id): g.sampling.seed for g in run.traces.generations}
    assert len(set(seeds.values())) == len(seeds) == 4
    record(replace(config, out=tmp_path, seed=6), load_bigrams)
    others = load_traces(tmp_path).generations
    assert all(a.sampling.seed != b.sampling.seed for a, b in zip(run.traces.generations, others, strict=True))
    assert any(a.tokens.tolist() != b.tokens.tolist() for a, b in zip(run.traces.generations, others, strict=True))


def test_top_k_and_top_p_are_the_recordings(sampled: Callable[[str], Recorded], tmp_path: Path) -> None:
    config = replace(sampled("llama").config, out=tmp_path, top_k=3, top_p=0.9)
    record(config, load_bigrams)
    decoder = load_bigrams(config.target, config.draft, dtype="float32")
    for generation in load_traces(tmp_path).generations:
        assert (generation.sampling.top_k, generation.sampling.top_p) == (3, 0.9)
        assert_same(replay(generation, (3, 20)), decode(decoder, generation, ltd.Static(3, 20)))


def test_questions_take_the_temperatures_in_turns_and_greedy_ones_are_as_ever(
    recorded: Callable[..., Recorded], tmp_path: Path
) -> None:
    questions = [Question(task, str(number), ("?",)) for task in "ab" for number in range(3)]
    found = samplings(questions, (0.0, 1.0), 4, 0.5, 7)
    assert all(sorted(each.temperature for each in found[place : place + 2]) == [0, 1] for place in (0, 2, 4))
    for each in found:
        assert each == Sampling() if each.temperature == 0 else (each.top_k, each.top_p) == (4, 0.5)
    # Questions of eight kinds in turns: each kind comes to both.
    many = samplings([Question("own", str(number), ("?",)) for number in range(160)], (0.0, 1.0), 4, 0.5, 7)
    for kind in range(8):
        assert 5 <= sum(each.temperature for each in many[kind::8]) <= 15
    greedy, config = recorded("llama"), replace(recorded("llama").config, out=tmp_path, temperatures=(0.0, 1.0))
    record(config, load_bigrams)
    mixed = load_traces(tmp_path)
    assert temperatures_of(mixed.generations) == [0.0, 1.0]
    for one, other in zip(greedy.traces.generations, mixed.generations, strict=True):
        if other.sampling.temperature == 0:
            assert other.sampling == Sampling()
            np.testing.assert_array_equal(one.tokens, other.tokens)
    with pytest.raises(InputError, match="holds a run with"):
        record(replace(config, temperatures=(1.0,)), load_bigrams)


def test_tasks_of_one_question_each_come_to_every_temperature_and_too_few_are_refused(
    recorded: Callable[..., Recorded], tmp_path: Path
) -> None:
    known = recorded("llama").config
    assert len(known.tasks) == 2
    config = replace(known, out=tmp_path, limit=1, temperatures=(0.0, 1.0), max_new_tokens=4)
    record(config, load_bigrams)
    assert temperatures_of(load_traces(tmp_path).generations) == [0.0, 1.0]
    refused = replace(config, out=tmp_path / "refused", temperatures=(0.0, 0.6, 1.0))
    complaint = "the temperatures are 0, 0.6, 1, but there are only 2 questions to take them in turns; name fewer"
    with pytest.raises(InputError, match=complaint):
        record(refused, lambda *_, **__: pytest.fail("it is refused before a model loads"))
    assert not refused.out.exists()


# --- files ---


def format_of(file: Path) -> int:
    content = file.read_bytes()
    head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return int(json.loads(head["__metadata__"][METADATA])["format"])


def test_greedy_shards_are_what_they_were_and_the_others_say_more(
    recorded: Callable[..., Recorded], sampled: Callable[[str], Recorded]
) -> None:
    assert format_of(shard_file(recorded("llama").config.out, 0)) == 3
    assert format_of(shard_file(sampled("llama").config.out, 0)) == 4
    settings_of = [
        json.loads((run.config.out / "run.jsonl").read_text().splitlines()[0])["settings"]
        for run in (recorded("llama"), sampled("llama"))
    ]
    assert settings_of[0]["format"] == 3 and not {"temperatures", "top_k", "top_p", "seed"} & set(settings_of[0])
    assert settings_of[1]["temperatures"] == list(HOT) and settings_of[1]["seed"] == 5


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 1}, "temperature above 0"),
        ({"temperature": -1.0, "top_k": 0, "top_p": 1.0, "seed": 1}, "temperature -1.0 is out of range"),
        ({"temperature": 1.0, "top_k": 0, "top_p": 2.0, "seed": 1}, "top_p 2.0 is out of range"),
        ({"temperature": 1.0, "top_k": 0, "top_p": 1.0}, "lacks"),
        ({"temperature": "hot", "top_k": 0, "top_p": 1.0, "seed": 1}, "must be a number"),
    ],
)
def test_a_damaged_sampling_is_named(
    sampled: Callable[[str], Recorded], tmp_path: Path, entry: dict[str, Any], complaint: str
) -> None:
    run = sampled("llama")
    file = shard_file(tmp_path, 0)
    save_shard(file, run.traces.generations[:1], run.traces.width, run.traces.depth)
    content = file.read_bytes()
    head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    header = json.loads(head["__metadata__"][METADATA])
    header["generations"][0]["sampling"] = entry
    save_file(load_file(file), file, {METADATA: json.dumps(header)})
    with pytest.raises(InputError, match=rf"cannot be read as traces .*{complaint}"):
        load_traces(tmp_path)


def test_compact_traces_keep_how_texts_were_chosen(tmp_path: Path) -> None:
    drawn = Sampling(0.6, top_k=3, seed=2**62)
    generations = [made_copies(1, 40), replace(made_copies(2, 40), sampling=drawn)]
    save_compact(tmp_path, generations, SCORES, 2, 20, Setting(3, "made"))
    assert [each.sampling for each in load_compact(tmp_path).generations] == [Sampling(), drawn]


# --- what is refused ---


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"temperatures": ()}, "the temperatures are none"),
        ({"temperatures": (1.0, 0.0, 1)}, "the temperatures are 1, 0, 1; name one at least, and each once"),
        ({"temperatures": (-0.5,)}, "temperature -0.5 is out of range"),
        ({"top_k": -1}, "top_k -1 is out of range"),
        ({"top_p": 0.0}, "top_p 0.0 is out of range"),
        ({"seed": -1}, "seed -1 is out of range"),
    ],
)
def test_numbers_out_of_range_are_refused(
    sampled: Callable[[str], Recorded], changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        replace(sampled("llama").config, **changes)


def test_the_command_takes_several_temperatures_and_says_what_greedy_decoding_makes_no_use_of(
    data: Path, tiny_target: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["record", "--data-dir", str(data), "--tasks", "first", "--out", str(tmp_path), "--draft", "lookup"]
    arguments += ["--target", str(tiny_target("llama")), "--dtype", "float32", "--max-new-tokens", "8"]
    assert main([*arguments, "--top-k", "3", "--seed", "4"]) == 2
    assert "is greedy and makes no use of --top-k, --seed" in capsys.readouterr().err
    assert main([*arguments, "--temperature", "warm"]) == 2
    assert "--temperature is warm; give a number, or several with commas between" in capsys.readouterr().err
    assert main([*arguments, "--temperature", "0,0.6", "--top-k", "3", "--seed", "4"]) == 0
    found = load_traces(tmp_path).generations
    assert sorted((each.sampling.temperature, each.sampling.top_k) for each in found) == [(0.0, 0), (0.6, 3)]
