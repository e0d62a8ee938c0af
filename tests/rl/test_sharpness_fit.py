"""The fit of a head's factors for sampled text, against traces, counting one by one, and where the factor is known."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_traces import made_generations
from recordings import DEPTH, Recorded

from ltd.cli import main
from ltd.drafts.opening import head_hash
from ltd.drafts.sharpness import SAMPLING, UNFITTED, Sharpness, SharpnessAt, load_sharpness, save_sharpness
from ltd.errors import InputError
from ltd.loading import load
from ltd_rl.traces import sharpness_fit
from ltd_rl.traces.calibration import EDGES, calibration
from ltd_rl.traces.fit_sampling import SamplingFitConfig, fit_sampling
from ltd_rl.traces.record import RecordConfig, record_settings
from ltd_rl.traces.sharpness_fit import FACTORS, LEAST_LEFT, LevelsSeen, fit_sharpness, peak_of, see

HOT = (0.6, 1.0)


@pytest.mark.parametrize("true", [0.3, 0.65, 1.0, 2.3])
def test_a_factor_that_is_known_is_found(true: float) -> None:
    """Where tokens are drawn by softmax(true · values), below the W best as well."""
    generator = torch.Generator().manual_seed(int(100 * true))
    values = 2.0 * torch.randn(20_000, 40, generator=generator)
    tokens = torch.multinomial((true * values).softmax(dim=1), 1, generator=generator)
    proposed = values.topk(6, dim=1).indices
    hits = proposed == tokens
    wanted = torch.where(hits.any(dim=1), hits.int().argmax(dim=1), 6)
    seen = LevelsSeen()
    seen.add(0, values, proposed, wanted)
    assert seen.hits[0] == hits.any(dim=1).sum() and seen.cases[0] == 20_000
    assert seen.best() == [pytest.approx(true, rel=0.06)]


def test_likelihoods_are_those_counted_one_by_one() -> None:
    values = torch.tensor([[1.0, 3.0, -torch.inf, 2.0], [0.5, 0.0, 4.0, 1.0]])
    proposed, wanted = values.topk(2, dim=1).indices, torch.tensor([1, 2])
    seen = LevelsSeen()
    seen.add(3, values, proposed, wanted)
    for factor, likelihood in zip(FACTORS, seen.likelihoods[3], strict=True):
        chances = np.exp(factor * values.double().numpy())
        chances /= chances.sum(axis=1, keepdims=True)
        none = max(1 - chances[1, 2] - chances[1, 3], LEAST_LEFT)
        assert likelihood == pytest.approx(np.log(chances[0, 3]) + np.log(none), rel=0.01)
    assert seen.cases.tolist() == [0] * 3 + [2] + [0] * 9


def test_peaks_are_between_the_factors_that_are_tried() -> None:
    line = np.log(FACTORS)
    assert peak_of(-((line - np.log(0.83)) ** 2)) == pytest.approx(0.83)
    assert peak_of(line) == FACTORS[-1] and peak_of(-line) == FACTORS[0]


@pytest.mark.parametrize("at", [(0.0,), HOT])
def test_what_is_seen_along_answers_is_what_traces_hold(
    recorded: Callable[..., Recorded], at: tuple[float, ...]
) -> None:
    run = recorded("llama", at=at)
    for generation in run.traces.generations:
        seen = see(run.decoder, [generation], DEPTH)
        rows = np.arange(generation.positions)
        for level in range(DEPTH + 1):
            known = rows + level < generation.positions
            hit = generation.path[:, level] >= 0
            if level == 0:
                assert seen.cases[0] == known.sum()
            else:  # a parent that is right may be outside of the beam, and has no children then
                parents = generation.path[:, level - 1] >= 0
                assert hit.sum() <= seen.cases[level] <= (parents & known).sum()
            assert seen.hits[level] == hit.sum()


def test_levels_of_which_little_was_seen_have_the_last_factor_that_is_known(
    recorded: Callable[..., Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = recorded("llama", at=HOT)
    with pytest.raises(InputError, match="positions of a temperature, and a fit takes at least 100"):
        fit_sharpness(run.decoder, run.traces.generations[:1], DEPTH)
    monkeypatch.setattr(sharpness_fit, "FEWEST", 20)
    found = fit_sharpness(run.decoder, run.traces.generations, DEPTH)
    assert [fit.temperature for fit in found.fits] == list(HOT)
    for fit in found.fits:
        own = [each for each in run.traces.generations if each.sampling.temperature == fit.temperature]
        cases = see(run.decoder, own, DEPTH).cases
        assert len(fit.levels) == next(level for level, count in enumerate(cases) if count < 20)
        assert all(FACTORS[0] <= factor <= FACTORS[-1] for factor in fit.levels)
    greedy = recorded("llama").traces.generations
    with pytest.raises(InputError, match="no text in these traces is sampled"):
        fit_sharpness(run.decoder, greedy, DEPTH)
    with pytest.raises(InputError, match="no draft whose values could be fitted"):
        see(load(run.config.target, "none", dtype="float32"), greedy, DEPTH)


# --- the command ---


@pytest.fixture
def config(recorded: Callable[..., Recorded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SamplingFitConfig:
    monkeypatch.setattr(sharpness_fit, "FEWEST", 2)
    known = recorded("llama").config
    assert known.draft is not None
    shutil.copytree(known.draft, tmp_path / "head")
    names = ("data_dir", "tasks", "max_new_tokens", "target", "dtype")
    return SamplingFitConfig(
        out=tmp_path / "work", draft=str(tmp_path / "head"), depth=3, **{name: getattr(known, name) for name in names}
    )


def test_factors_are_kept_beside_the_head_and_change_no_text(config: SamplingFitConfig) -> None:
    before = load(config.target, config.draft, dtype="float32")
    found = fit_sampling(config)
    assert load_sharpness(config.head) == found != UNFITTED
    written = (config.head / SAMPLING).read_bytes()
    names = ("data_dir", "tasks", "max_new_tokens", "target", "draft", "dtype", "out")
    shared = {name: getattr(config, name) for name in names}
    for temperatures in ((0.0,), (0.0, 1.0)):  # what is drafted greedily does not depend on it
        settings = record_settings(RecordConfig(**shared, temperatures=temperatures), [])
        assert ("sampling_sha256" in settings) == (1.0 in temperatures)
    assert json.loads(written)["facts"]["fitted_to"]["questions"] == 4
    assert json.loads(written)["head_sha256"] == head_hash(config.head)
    after = load(config.target, config.draft, dtype="float32")
    assert after.draft is not None and after.draft.origin is not None and after.draft.origin.sharpness == found
    prompt = after.encode("Say 7")
    texts = [each.generate(prompt, temperature=1.0, seed=3, max_new_tokens=24).token_ids for each in (before, after)]
    assert texts[0] == texts[1]
    # What is there already plays no part, though scores, and so the parents that have children, would follow it.
    others = Sharpness((SharpnessAt(0.6, [0.01, 100.0]), SharpnessAt(1.0, [100.0, 0.01])))
    save_sharpness(others, config.head, {})
    fit_sampling(config)
    assert (config.head / SAMPLING).read_bytes() == written


def test_the_command_shows_the_factors(config: SamplingFitConfig, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"data-dir": config.data_dir, "tasks": ",".join(config.tasks), "out": config.out, "draft": config.draft,
               "target": config.target, "dtype": "float32", "max-new-tokens": config.max_new_tokens,
               "temperature": 0.87654321, "depth": 2}  # fmt: skip
    assert main(["fit-sampling", *(part for name, value in options.items() for part in (f"--{name}", str(value)))]) == 0
    shown = capsys.readouterr()
    assert "level 0" in shown.out and "0.87654321" in shown.out and f"they are in {config.draft} now" in shown.err
    assert [fit.temperature for fit in load_sharpness(config.head).fits] == [0.87654321]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"temperatures": (0.0, 1.0)}, "name temperatures above 0"),
        ({"temperatures": ()}, "the temperatures are none"),
        ({"depth": 13}, "depth 13"),
        ({"draft": "lookup"}, "the fit is of a draft head, so there must be one"),
        ({"data_dir": Path("nowhere")}, "no data folder nowhere"),
    ],
)
def test_bad_settings_are_told_before_a_model_loads(
    config: SamplingFitConfig, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        fit_sampling(replace(config, **changes), lambda *_, **__: pytest.fail("a model was loaded"))


# --- whether scores tell the truth ---


def test_calibration_is_what_is_counted_one_by_one() -> None:
    generations = made_generations(3, [40, 25, 1])
    for level in range(3):
        found = calibration(generations, level)
        said, right = [], []
        for generation in generations:
            start = (0, 3, 12)[level]
            for position in range(generation.positions - level):
                for column in range(start, (3, 12, 21)[level]):
                    said.append(float(np.exp(np.float64(generation.scores[position, column]))))
                    right.append(int(generation.path[position, level]) == column)
        places = [max(place for place, edge in enumerate(EDGES) if edge <= chance) for chance in said]
        for place in range(len(EDGES) - 1):
            own = [number for number, each in enumerate(places) if each == place]
            assert found.counts[place] == len(own)
            assert found.predicted[place] == pytest.approx(sum(said[number] for number in own))
            assert found.observed[place] == sum(right[number] for number in own)
        assert found.positions == sum(max(each.positions - level, 0) for each in generations)
        values = found.to_dict()
        assert values["error"] == pytest.approx(found.error, abs=1e-4) and sum(values["candidates"]) == len(said)
