"""Training an acceptance head: samples and loss against plain computation, resuming, files, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import VOCABULARY, small_config
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from ltd.chains.acceptance_files import draft_hash, load_acceptance, save_acceptance
from ltd.chains.model_files import ChainFacts, chain_for_transformers, save_chain
from ltd.cli.main import main
from ltd.common.shards import shard_file
from ltd.errors import InputError
from ltd.policies.baselines.acceptance_head import AcceptanceHead
from ltd.target.model import tokenizer_fingerprint
from ltd.training.acceptance import loop as acceptance_loop
from ltd.training.acceptance.config import AcceptanceConfig
from ltd.training.acceptance.loop import calibration, soft_auc, train_head, weighted_loss
from ltd.training.acceptance.samples import AcceptanceSamples, Reader, load_samples
from ltd.training.acceptance.train import train_acceptance
from ltd.training.data.conversation import ANSWER, TEMPLATE, USER, Conversation
from ltd.training.data.conversations import save_shard
from ltd.training.loop import rate_share

Folder = Callable[[str], Path]
WORDS = torch.arange(0, VOCABULARY, 2)


def conversation(seed: int, length: int = 40) -> Conversation:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCABULARY, (length,), generator=generator).tolist()
    half = length // 2
    return Conversation(tokens, [TEMPLATE] * 3 + [USER] * (half - 3) + [ANSWER] * (length - half))


@pytest.fixture(scope="module")
def chain(tiny_target: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random chain draft of two layers that knows every second word."""
    torch.manual_seed(3)
    config = small_config("llama")
    config.num_hidden_layers = 2
    folder = tmp_path_factory.mktemp("chain")
    fingerprint = tokenizer_fingerprint(AutoTokenizer.from_pretrained(tiny_target("llama")), VOCABULARY)
    facts = ChainFacts("tiny", fingerprint, (0, 1), len(WORDS))
    save_chain(AutoModelForCausalLM.from_config(config), WORDS, folder, facts, {})
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of a `train-draft` run."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "data").mkdir()
    save_shard([conversation(seed) for seed in range(30)], folder / "data" / "00000.safetensors")
    return folder


def config(out: Path, chain: Path, run: Path, target: Path, **changes: Any) -> AcceptanceConfig:
    values: dict[str, Any] = {"epochs": 2, "batch": 64, "held_out": 0.2, "dtype": "float32", "tokens": 500, **changes}
    return AcceptanceConfig(draft=chain, run=run, out=out, target=str(target), **values)


# --- samples --------------------------------------------------------------------------------------------------------


def test_samples_equal_dense_probabilities(chain: Path, tiny_target: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    target = LlamaForCausalLM.from_pretrained(tiny_target("llama"), dtype=torch.float32).eval()
    draft = chain_for_transformers(chain, target)
    text = conversation(5)
    seen: list[torch.Tensor] = []
    forward = draft.model.forward
    monkeypatch.setattr(draft.model, "forward", lambda ids, **more: (seen.append(ids[0]), forward(ids, **more))[1])
    samples = Reader(target, draft, WORDS, 0.4).read(text, torch.Generator().manual_seed(1))

    tokens, at = torch.tensor(text.tokens), [place for place, role in enumerate(text.roles) if role == ANSWER]
    original, *sequences = seen
    assert torch.equal(original, tokens) and len(sequences) == 3  # of 40, 40 and 20 % of the positions
    monkeypatch.undo()
    assert len(samples.labels) == len(at)
    with torch.no_grad():
        p = target(tokens[None]).logits[0].softmax(-1)
        q = torch.zeros_like(p)
        q[:, WORDS] = draft(tokens[None]).logits[0][:, WORDS].softmax(-1)
        states = [draft(ids[None], output_hidden_states=True).hidden_states[-1][0].bfloat16() for ids in sequences]
    for row, place in enumerate(at):
        # A drafted token may equal the target's, so which sequence carries it is read off the states.
        (mine,) = [n for n, found in enumerate(states) if torch.equal(found[place], samples.states[row])]
        token = int(sequences[mine][place])
        assert token in WORDS
        assert float(samples.labels[row]) == pytest.approx(
            min(1.0, float(p[place - 1, token] / q[place - 1, token])), abs=1e-4
        )
    for ids in sequences:
        differs = (ids != tokens).nonzero()[:, 0].tolist()
        assert set(differs) <= set(at) and len(differs) <= round(0.4 * len(at))
    assert samples.labels.min() < 0.9 * samples.labels.max()


@pytest.mark.parametrize(("mixing", "passes"), [(1.0, 1), (0.5, 2), (0.15, 7)])
def test_every_position_is_drafted_once(mixing: float, passes: int, chain: Path, tiny_target: Folder) -> None:
    target = LlamaForCausalLM.from_pretrained(tiny_target("llama"), dtype=torch.float32).eval()
    draft = chain_for_transformers(chain, target)
    text, calls = conversation(1, 200), list[int]()
    draft.model.register_forward_hook(lambda *_: calls.append(1))
    samples = Reader(target, draft, WORDS, mixing).read(text, torch.Generator().manual_seed(1))
    assert len(samples.labels) == len(samples.states) == text.roles.count(ANSWER)
    assert len(calls) == 1 + passes


# --- loss and numbers -----------------------------------------------------------------------------------------------


def test_loss_equals_its_formula() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 2), torch.rand(50)
    accepted = logits.double().softmax(-1)[:, 1]
    above = below = 0.0
    for chance, label in zip(accepted.tolist(), labels.tolist(), strict=True):
        logs = torch.tensor([1 - chance, chance]).double().log().tolist()
        above -= 6 * (1 - label) * logs[0] + label * logs[1]
        below += 6 * (1 - label) + label
    assert float(weighted_loss(logits, labels, 6.0)) == pytest.approx(above / below, rel=1e-5)


def test_auc_equals_counting_pairs() -> None:
    torch.manual_seed(1)
    chances, labels = torch.randint(0, 6, (40,)) / 5, torch.rand(40)
    won = total = 0.0
    for mine, accepted in zip(chances.tolist(), labels.tolist(), strict=True):
        for theirs, other in zip(chances.tolist(), labels.tolist(), strict=True):
            total += accepted * (1 - other)
            won += accepted * (1 - other) * (0.5 if mine == theirs else float(mine > theirs))
    assert soft_auc(chances, labels) == pytest.approx(won / total)
    assert soft_auc(chances, torch.ones(40)) == 0.5


def test_calibration_bins() -> None:
    found = calibration(torch.tensor([0.0, 0.05, 0.55, 1.0]), torch.tensor([0.0, 1.0, 0.25, 0.5]))
    assert [(each["tokens"], each["label"]) for each in found] == [(2, 0.5), (1, 0.25), (1, 0.5)]


def test_rate_warms_up_and_falls_to_zero() -> None:
    shares = [rate_share(update, 100, 0.1) for update in range(101)]
    assert shares[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert shares[100] == pytest.approx(0)


def test_a_toy_problem_is_learned(tmp_path: Path, chain: Path, run: Path) -> None:
    torch.manual_seed(0)
    states = torch.randn(3000, 8)
    samples = AcceptanceSamples(states.bfloat16(), (2 * states[:, 0] - states[:, 1]).sigmoid())
    settings = AcceptanceConfig(draft=chain, run=run, out=tmp_path, epochs=6, batch=64, weight=1.0, lr=1e-2)
    head = AcceptanceHead(8)
    train_head(
        head, AcceptanceSamples(samples.states[:2500], samples.labels[:2500]), settings, tmp_path / "checkpoint.pt"
    )
    error = (head.chance(samples.states[2500:]) - samples.labels[2500:]).abs().mean()
    assert error < 0.05 < samples.labels.std()


# --- the whole ------------------------------------------------------------------------------------------------------


def test_finished_run_and_resuming(
    tmp_path: Path, chain: Path, run: Path, tiny_target: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = config(tmp_path / "whole", chain, run, tiny_target("llama"))
    found = train_acceptance(whole)
    facts = json.loads((tmp_path / "whole" / "acceptance.json").read_text())
    assert facts["held_out"] == found
    assert facts["draft"] == draft_hash(chain)
    assert str(tmp_path) not in json.dumps(facts)
    assert load_acceptance(tmp_path / "whole", chain).inputs == 32
    assert train_acceptance(whole) == found

    class Killed(Exception):
        pass

    save, saved = acceptance_loop.save_state, []

    def die(state: dict[str, Any], file: Path) -> None:
        save(state, file)
        saved.append(file)
        raise Killed

    parts = config(tmp_path / "parts", chain, run, tiny_target("llama"))
    with monkeypatch.context() as patch:
        patch.setattr(acceptance_loop, "save_state", die)
        with pytest.raises(Killed):
            train_acceptance(parts)
    (tmp_path / "parts" / "samples" / "held_out" / "00000.safetensors").unlink()
    assert train_acceptance(parts) == found
    first, second = (load_file(tmp_path / name / "acceptance.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(first[name], second[name]) for name in first)

    with pytest.raises(InputError, match=r"holds a training with weight 6\.0, and this one has 2\.0"):
        train_acceptance(config(tmp_path / "whole", chain, run, tiny_target("llama"), weight=2.0))


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_that_went_on_is_noticed(
    tmp_path: Path, chain: Path, tiny_target: Folder, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    data, out = tmp_path / "run" / "data", tmp_path / "head"
    data.mkdir(parents=True)
    save_shard([conversation(seed) for seed in range(12)], data / "00000.safetensors")
    asked = config(out, chain, tmp_path / "run", tiny_target("llama"), tokens=300, held_out=0.4)
    if finished:
        found = train_acceptance(asked)
        assert train_acceptance(asked) == found
    else:
        with monkeypatch.context() as patch:
            patch.setattr("ltd.training.acceptance.train.cache_samples", None)
            with pytest.raises(TypeError):
                train_acceptance(asked)
    save_shard([conversation(seed) for seed in range(12, 30)], data / "00001.safetensors")
    with pytest.raises(InputError) as refused:
        train_acceptance(asked)
    assert str(refused.value) == (
        f"{out} holds a training on other conversations than those that {tmp_path / 'run'} has now, as that run went "
        "on or was made anew; give another folder"
    )
    facts = json.loads((out / "config.json").read_text())
    del facts["texts_sha256"]  # of a folder from before it was kept
    (out / "config.json").write_text(json.dumps(facts))
    if finished:
        assert train_acceptance(asked) == found


def test_a_run_that_went_on_after_enough_tokens_is_the_same(tmp_path: Path, chain: Path, tiny_target: Folder) -> None:
    data = tmp_path / "run" / "data"
    data.mkdir(parents=True)
    save_shard([conversation(seed) for seed in range(30)], data / "00000.safetensors")
    asked = config(tmp_path / "head", chain, tmp_path / "run", tiny_target("llama"), tokens=300, epochs=1)
    found = train_acceptance(asked)
    save_shard([conversation(seed) for seed in range(30, 40)], data / "00001.safetensors")
    assert train_acceptance(asked) == found


def test_command_line(
    tmp_path: Path, chain: Path, run: Path, tiny_target: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"--out": tmp_path / "head", "--run": run, "--draft": chain, "--target": tiny_target("llama")}
    arguments = [str(part) for option in options.items() for part in option]
    assert main(["train-acceptance", *arguments, "--tokens", "600", "--epochs", "1", "--dtype", "float32"]) == 0
    assert "AUC" in capsys.readouterr().out
    assert main(["train-acceptance", *arguments, "--mixing", "1.5"]) == 2
    assert "mixing is 1.5" in capsys.readouterr().err


def test_what_is_refused(tmp_path: Path, chain: Path, run: Path, tiny_target: Folder) -> None:
    target = tiny_target("llama")
    with pytest.raises(InputError, match="no conversations"):
        train_acceptance(config(tmp_path / "out", chain, tmp_path, target))
    with pytest.raises(InputError, match="use more tokens"):
        train_acceptance(config(tmp_path / "out", chain, run, target, tokens=1))
    with pytest.raises(InputError, match="no chain draft"):
        train_acceptance(config(tmp_path / "out", tmp_path, run, target))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        train_acceptance(config(tmp_path / "full", chain, run, target))
    for bad in ({"epochs": 0}, {"weight": 0.0}, {"lr": float("nan")}, {"mixing": 0.0}, {"width": 0}):
        with pytest.raises(InputError, match=next(iter(bad))):
            config(tmp_path / "out", chain, run, target, **bad)


# --- files ----------------------------------------------------------------------------------------------------------


def test_samples_that_do_not_fit_each_other_are_named(tmp_path: Path) -> None:
    states, labels = torch.zeros(3, 4, dtype=torch.bfloat16), torch.zeros(3)
    save_file({"states": states, "labels": labels}, shard_file(tmp_path, 0))
    assert load_samples(tmp_path).states.shape == (3, 4)
    save_file({"states": states, "labels": labels[1:].clone()}, shard_file(tmp_path, 1))
    with pytest.raises(InputError, match=r"00001.safetensors is damaged: it holds 3 of states, 2 of labels"):
        load_samples(tmp_path)


def test_files_round_trip_and_damage(tmp_path: Path, chain: Path) -> None:
    head = AcceptanceHead(6, 5, 2)
    nn.init.normal_(head.out.weight)
    save_acceptance(head, tmp_path, draft_hash(chain), {"target": "tiny"})
    again = load_acceptance(tmp_path, chain)
    for name, tensor in head.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor.bfloat16().float())
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"another")
    with pytest.raises(InputError, match="another draft"):
        load_acceptance(tmp_path, other)

    facts, weights = tmp_path / "acceptance.json", tmp_path / "acceptance.safetensors"
    good, whole = facts.read_text(), weights.read_bytes()
    for text, message in [("{", "not valid JSON"), ("[]", "holds no JSON object"),
                          (good.replace('"width": 5', '"width": 4'), "sizes")]:  # fmt: skip
        facts.write_text(text)
        with pytest.raises(InputError, match=message):
            load_acceptance(tmp_path)
    facts.write_text(good)
    weights.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="is not the file that"):
        load_acceptance(tmp_path)
    weights.unlink()
    with pytest.raises(InputError, match="is missing"):
        load_acceptance(tmp_path)
