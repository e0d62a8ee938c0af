"""Distilling a chain draft, against dense losses in plain PyTorch, and as a whole command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from typer.testing import CliRunner

from ltd.chains.model_files import read_chain
from ltd.cli.app import app
from ltd.errors import InputError
from ltd.training import TrainDraftConfig, train_draft
from ltd.training.chain import ChainObjective, new_chain
from ltd.training.data.batches import Batch
from ltd.training.distillation import TargetParts
from ltd.training.loop import CLIP, Training

Target = Callable[[str], Path]
VOCABULARY, WORDS = 96, 40


@pytest.fixture(params=["llama", "qwen2"])
def target(request: pytest.FixtureRequest, tiny_target: Target) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(tiny_target(request.param), dtype=torch.float32)
    return model


def objective_for(target: PreTrainedModel, seed: int) -> ChainObjective:
    words = torch.randperm(VOCABULARY, generator=torch.Generator().manual_seed(seed))[:WORDS].sort().values
    whole = target.get_output_embeddings().weight.detach()
    parts = TargetParts(target.get_input_embeddings().weight.detach(), whole[words])
    return ChainObjective(new_chain(target, (1, 6)), parts, words, whole)


def random_batch(target: PreTrainedModel, sizes: list[int], seed: int) -> Batch:
    """Random tokens and roles, with the states that the target has for them."""
    generator = torch.Generator().manual_seed(seed)
    count = sum(sizes)
    tokens = torch.randint(VOCABULARY, (count,), generator=generator)
    with torch.no_grad():
        read = [target(text[None], output_hidden_states=True) for text in tokens.split(sizes)]
    return Batch(
        tokens=tokens,
        learned=torch.rand(count, generator=generator) < 0.6,
        features=torch.zeros(count, 0),
        final=torch.cat([each.hidden_states[-1][0] for each in read]),
        best=torch.cat([each.logits[0].argmax(-1) for each in read]),
        sizes=sizes,
    )


def dense(objective: ChainObjective, batch: Batch) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of every position that predicts a learned token: the draft's logits over its words, p over all, target's best."""
    rows, start = [], 0
    for size in batch.sizes:
        part = slice(start, start + size)
        logits = objective.model(input_ids=batch.tokens[part][None]).logits[0, :, objective.words]
        chances = (batch.final[part] @ objective.whole.T).softmax(-1)
        learned, best = batch.learned[part], batch.best[part]
        rows += [(logits[i], chances[i], best[i]) for i in range(size - 1) if learned[i + 1]]
        start += size
    return rows


def test_the_draft_starts_as_layers_of_the_target(target: PreTrainedModel) -> None:
    model: Any = new_chain(target, (1, 6))
    body: Any = target.model
    for mine, layer in zip(model.model.layers, (1, 6), strict=True):
        for name, weight in body.layers[layer].state_dict().items():
            assert torch.equal(mine.state_dict()[name], weight), name
    assert torch.equal(model.model.norm.weight, body.norm.weight)
    assert model.get_input_embeddings().weight is body.embed_tokens.weight
    learned = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert learned == {name for name, _ in model.named_parameters() if ".layers." in name or ".norm." in name}
    with torch.no_grad():
        next(iter(model.model.layers.parameters())).zero_()
    assert next(iter(body.layers[1].parameters())).any()  # a copy: the target stays as it is


def test_loss_and_gradients_are_those_of_dense_logits(target: PreTrainedModel) -> None:
    objective, batch = objective_for(target, 1), random_batch(target, [21, 1, 70], 2)
    loss, parts = objective.loss(batch, torch.Generator())
    rows = dense(objective, batch)
    wanted = torch.stack([p[objective.words] / p[objective.words].sum() for _, p, _ in rows])
    logs = torch.stack([logits for logits, _, _ in rows]).log_softmax(-1)
    expected = -(wanted * logs).sum(-1).mean()
    assert objective.slots(batch) == len(rows)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    assert parts.tolist() == pytest.approx([loss.item()])
    weights = list(objective.module.parameters())
    for mine, theirs in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_only_answers_are_learned(target: PreTrainedModel) -> None:
    """What the target thinks elsewhere changes nothing, and a batch without an answer has no loss."""
    objective, batch = objective_for(target, 3), random_batch(target, [40, 30], 4)
    loss, _ = objective.loss(batch, torch.Generator())
    predicts = batch.ahead(batch.learned, 1)
    batch.final = torch.where(predicts[:, None], batch.final, torch.randn(70, 32))
    assert objective.loss(batch, torch.Generator())[0] == loss
    first = int(predicts.nonzero()[0])
    batch.final[first] = -batch.final[first]
    assert objective.loss(batch, torch.Generator())[0] != loss
    batch.learned = torch.zeros_like(batch.learned)
    assert objective.loss(batch, torch.Generator())[0] == 0
    assert objective.slots(batch) == 1


def test_measured_against_brute_force(target: PreTrainedModel) -> None:
    objective, batches = objective_for(target, 5), [random_batch(target, [33, 12], 6), random_batch(target, [50], 7)]
    kl, right, accepted, count = 0.0, 0, 0.0, 0
    with torch.no_grad():
        for logits, p, best in (row for batch in batches for row in dense(objective, batch)):
            q = torch.zeros(VOCABULARY)
            q[objective.words] = logits.softmax(-1)
            known = p[objective.words] / p[objective.words].sum()
            kl += float((known * (known / q[objective.words]).log()).sum())
            accepted += sum(min(a, b) for a, b in zip(p.tolist(), q.tolist(), strict=True))
            right += int(q.argmax() == best)
            count += 1
    for _ in range(2):  # the second time with what it kept
        found = objective.measure(batches)
        assert found.tokens == count
        assert found.kl == pytest.approx(kl / count, rel=1e-3)
        assert found.agreement == pytest.approx(right / count)
        assert found.acceptance == pytest.approx(accepted / count, rel=1e-3)


def test_conversations_side_by_side_are_one_batch(target: PreTrainedModel) -> None:
    """An update computes its conversations in threads; together that is the gradient of the whole batch."""
    objective, batch = objective_for(target, 8), random_batch(target, [40, 17, 64], 9)
    config = TrainDraftConfig(out="unused", kind="chain", batch=3, learning_rate=1e-12)
    training = Training(objective, config, [1] * 3, torch.float32)
    loss, _ = objective.loss(batch, torch.Generator())
    wanted = torch.autograd.grad(loss, training.weights)
    norm = torch.stack([each.norm() for each in wanted]).norm()
    assert training.step(batch).item() == pytest.approx(loss.item(), rel=1e-4)
    for weight, gradient in zip(training.weights, wanted, strict=True):
        torch.testing.assert_close(weight.grad, gradient * min(1, CLIP / norm), rtol=1e-3, atol=1e-5)


# --- the whole ------------------------------------------------------------------------------------------------------

SMALL = ("--kind chain --tokens 1500 --length 90 --user-length 12 --answer-length 30 --rows 8 --held-out-share 0.3 "
         "--draft-vocab-size 48 --batch 4 --epochs 3 --learning-rate 3e-3 --dtype float32 --seed 5 "
         "--mix chat=1")  # fmt: skip


def command(out: Path, target: Path, more: str = "") -> Any:
    return CliRunner().invoke(
        app, ["train-draft", "--out", str(out), "--target", str(target), *f"{SMALL} {more}".split()]
    )


def chain_config(out: Path, target: Path, **changes: Any) -> TrainDraftConfig:
    values: dict[str, Any] = {
        "tokens": 1500, "length": 90, "user_length": 12, "answer_length": 30, "rows": 8, "held_out_share": 0.3,
        "draft_vocab_size": 48, "batch": 4, "epochs": 3, "learning_rate": 3e-3, "dtype": "float32", "seed": 5,
        "mix": "chat=1",
    }  # fmt: skip
    return TrainDraftConfig(out=out, kind="chain", target=str(target), **{**values, **changes})


@pytest.fixture(scope="module")
def finished(tiny_target: Target, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the command that was never stopped."""
    out = tmp_path_factory.mktemp("chain") / "out"
    result = command(out, tiny_target("llama"), "--layers 0,3,7")
    assert result.exit_code == 0, result.output
    return out


def test_finished_run(finished: Path, tiny_target: Target) -> None:
    files = read_chain(finished / "draft")
    assert files.facts.layers_of_target == (0, 3, 7)
    assert files.facts.target == tiny_target("llama").name
    assert files.config.num_hidden_layers == 3
    assert files.words is not None and len(files.words) == 48
    report = json.loads((finished / "draft" / "training.json").read_text())
    measured = report["curves"]["held_out"]
    assert report["held_out"] == {
        name: value for name, value in measured[-1].items() if name not in ("update", "seen_tokens")
    }
    assert measured[-1]["kl"] < 0.95 * measured[0]["kl"]
    assert 0 < report["held_out"]["acceptance"] < 1
    assert "ttt_steps" not in report["choices"]
    assert (finished / "draft" / "training.png").read_bytes().startswith(b"\x89PNG")
    assert str(finished) not in json.dumps(report)


def test_resumed_run_makes_the_same_draft(
    finished: Path, tiny_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = chain_config(tmp_path / "out", tiny_target("llama"), layers=(0, 3, 7), checkpoint_seconds=1e-9)
    step, updates = Training.step, []

    def stop_at_three(training: Training, batch: Batch) -> Tensor:
        updates.append(training.update)
        if training.update == 3 and len(updates) == 4:
            raise KeyboardInterrupt
        return step(training, batch)

    monkeypatch.setattr(Training, "step", stop_at_three)
    with pytest.raises(KeyboardInterrupt):
        train_draft(config)
    folder = train_draft(config)
    assert updates[:5] == [0, 1, 2, 3, 3]
    once, twice = (load_file(each / "model.safetensors") for each in (finished / "draft", folder))
    assert once.keys() == twice.keys()
    assert all(torch.equal(once[name], twice[name]) for name in once)


def test_all_words_and_the_usual_layers(tiny_target: Target, tmp_path: Path) -> None:
    folder = train_draft(chain_config(tmp_path / "out", tiny_target("llama"), draft_vocab_size=0, epochs=1))
    files = read_chain(folder)
    assert files.words is None and files.facts.words is None
    assert files.facts.layers_of_target == (0, 7)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"kind": "medusa"}, "kind is 'medusa', but must be one of eagle3, chain"),
        ({"kind": "chain", "ttt_steps": 5}, "ttt_steps is an option of kind eagle3 only"),
        ({"kind": "chain", "trim_vocabulary": False}, "trim_vocabulary is an option of kind eagle3 only"),
        ({"layers": (0, 1)}, "layers is an option of kind chain only"),
        ({"kind": "chain", "layers": (3, 1)}, "from low to high"),
        ({"kind": "chain", "layers": (-1, 1)}, "from low to high"),
        ({"kind": "chain", "layers": ()}, "from low to high"),
        ({"kind": "eagle3", "draft_vocab_size": 0}, "draft_vocab_size is 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        TrainDraftConfig(out="unused", **values)


def test_layers_that_the_target_lacks_are_refused(tiny_target: Target, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the target has only layers 0 … 7"):
        train_draft(chain_config(tmp_path / "out", tiny_target("llama"), layers=(0, 8)))


def test_command_refuses_what_is_no_list_of_layers(tiny_target: Target, tmp_path: Path) -> None:
    result = command(tmp_path / "out", tiny_target("llama"), "--layers first")
    assert result.exit_code != 0
    assert not (tmp_path / "out").exists()


def test_folders_of_one_kind_are_not_for_the_other(tmp_path: Path) -> None:
    chain, head = TrainDraftConfig(out=tmp_path, kind="chain"), TrainDraftConfig(out=tmp_path)
    old = {name: value for name, value in head.to_dict().items() if name != "kind"}
    head.check_same(old)  # from before there were kinds
    chain.check_same(chain.to_dict())
    with pytest.raises(InputError, match="started with kind = 'eagle3'"):
        chain.check_same(old)
    with pytest.raises(InputError, match="started with layers = None"):
        TrainDraftConfig(out=tmp_path, kind="chain", layers=(0, 1)).check_same(chain.to_dict())
