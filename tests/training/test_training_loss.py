"""The loss of training-time test against a naive unrolling with explicit masks, its gradients included."""

from __future__ import annotations

import pytest
import torch
from head_reference import ReferenceHead
from torch import Tensor

from ltd.drafts.eagle3.head import DraftNorm, Eagle3Config, Eagle3Head
from ltd.training.config import TrainDraftConfig
from ltd.training.data.batches import ROUND_TO, Batch
from ltd.training.distillation import SoftCrossEntropy, TargetParts, filled
from ltd.training.eagle3.measure import HeadObjective, measure
from ltd.training.eagle3.unroll import loss_of_batch, step_masks, thinned, unroll
from ltd.training.loop import CLIP, Training, rate_at

VOCAB, DRAFT_VOCAB, WIDTH, STEPS, DECAY = 40, 24, 16, 5, 0.8


def random_head(**options: bool) -> Eagle3Head:
    config = Eagle3Config(
        hidden_size=WIDTH, intermediate_size=20, num_attention_heads=4, num_key_value_heads=2, head_dim=6,
        vocab_size=VOCAB, draft_vocab_size=DRAFT_VOCAB, target_hidden_size=WIDTH, feature_layers=(0, 1, 2), **options,
    )  # fmt: skip
    head = Eagle3Head(config).double()
    for weight in head.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    ids = torch.randperm(VOCAB)[:DRAFT_VOCAB].sort().values
    head.d2t = ids - torch.arange(DRAFT_VOCAB)
    head.t2d = torch.zeros(VOCAB, dtype=torch.bool).index_fill(0, ids, True)
    return head


def random_batch(sizes: list[int]) -> Batch:
    count = sum(sizes)
    batch = Batch(
        tokens=torch.randint(VOCAB, (count,)),
        learned=torch.rand(count) < 0.95,
        features=torch.randn(count, 3 * WIDTH, dtype=torch.float64),
        final=torch.randn(count, WIDTH, dtype=torch.float64),
        best=torch.randint(VOCAB, (count,)),
        sizes=sizes,
        total=8 + torch.rand(count, dtype=torch.float64),
    )
    for learned in batch.learned.split(sizes):
        learned[:2] = False
    return batch


def conversations(batch: Batch) -> list[dict[str, Tensor]]:
    """The tensors of every conversation by itself."""
    names = ("tokens", "learned", "features", "final", "best", "total")
    parts = zip(*(getattr(batch, name).split(batch.sizes) for name in names), strict=True)
    return [dict(zip(names, part, strict=True)) for part in parts]


def random_parts(head: Eagle3Head, spread: float = 1.0) -> TargetParts:
    rows = spread * torch.randn(DRAFT_VOCAB, WIDTH, dtype=torch.float64)
    return TargetParts(torch.randn(VOCAB, WIDTH, dtype=torch.float64), rows)


def naive_states(head: Eagle3Head, parts: TargetParts, tokens: Tensor, features: Tensor) -> list[Tensor]:
    """States of every step of one conversation, the mask over all keys so far written out entry by entry."""
    reference = ReferenceHead(head.config, dict(head.named_parameters()))
    length = len(tokens)
    keys: list[Tensor] = []
    values: list[Tensor] = []
    states, out = reference.fuse(features), []
    for step in range(STEPS):
        mask = torch.zeros(length, (step + 1) * length, dtype=torch.bool)
        for slot in range(length):
            mask[slot, : slot + 1] = True
            for earlier in range(1, step + 1):
                mask[slot, earlier * length + slot] = True
        ids = [int(tokens[slot + step + 1]) if slot + step + 1 < length else 0 for slot in range(length)]
        positions = torch.arange(length) + step
        states = reference.step(parts.embedding[ids], states, positions, keys, values, mask)
        out.append(states)
    return out


def naive_loss(head: Eagle3Head, parts: TargetParts, batch: Batch, weighed: bool = False) -> Tensor:
    reference = ReferenceHead(head.config, dict(head.named_parameters()))
    total, count = torch.zeros((), dtype=torch.float64), 0
    for each in conversations(batch):
        learned, length = each["learned"], len(each["tokens"])
        for step, states in enumerate(naive_states(head, parts, each["tokens"], each["features"])):
            logs = reference.logits(states).log_softmax(-1)
            for slot in range(length - step - 2):
                if not all(learned[slot + 1 : slot + step + 3]):
                    continue
                count += step == 0
                wanted = slot + step + 1  # the target's word after this token is what the slot predicts
                logits = parts.output_rows @ each["final"][wanted]
                probabilities = logits.softmax(-1)
                if weighed:  # of all words, without renormalising
                    probabilities = (logits - each["total"][wanted]).exp()
                    probabilities = probabilities / max(1.0, float(probabilities.sum()))
                elif not head.t2d[each["best"][wanted]]:
                    continue
                total = total - DECAY**step * (probabilities * logs[slot]).sum()
    return total / count


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("options", [{}, {"norm_before_residual": True}, {"norm_output": True, "fc_norm": True}])
def test_loss_and_gradients_equal_naive_unrolling(options: dict[str, bool], weighed: bool) -> None:
    torch.manual_seed(3)
    head, batch = random_head(**options), random_batch([23, 9, 4])
    parts = random_parts(head)
    loss, losses = loss_of_batch(head, parts, batch, STEPS, DECAY, weighed=weighed)
    weights = list(head.parameters())
    gradients = torch.autograd.grad(loss, weights)
    expected = naive_loss(head, parts, batch, weighed)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)  # the sum is kept in float32
    assert losses.shape == (STEPS,)
    assert (losses > 0).all()
    for (name, _), mine, theirs in zip(
        head.named_parameters(), gradients, torch.autograd.grad(expected, weights), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}")


def test_thinned_slots_stand_for_weights() -> None:
    """The mean over many draws of the thinned loss and its gradient is that of all slots, weighed."""
    torch.manual_seed(4)
    head, batch = random_head(), random_batch([13, 9])
    parts = random_parts(head)
    weight = head.layer.mlp.down_proj.weight
    generator = torch.Generator().manual_seed(1)

    def draw() -> tuple[Tensor, Tensor]:
        loss, _ = loss_of_batch(head, parts, batch, STEPS, 0.5, generator)
        return loss.detach(), torch.autograd.grad(loss, weight)[0]

    losses, gradients = (torch.stack(drawn) for drawn in zip(*(draw() for _ in range(400)), strict=True))
    exact, _ = loss_of_batch(head, parts, batch, STEPS, 0.5)
    exact_gradient = torch.autograd.grad(exact, weight)[0]
    error = losses.std() / 20
    assert error > 0
    assert abs(losses.mean() - exact.detach()) < 4 * error
    distance = (gradients.mean(0) - exact_gradient).norm()
    assert distance < 4 * gradients.std(0).norm() / 20


def test_gradients_of_conversations_add_up() -> None:
    """An update computes its conversations side by side; without thinning that is the gradient of the whole batch."""
    torch.manual_seed(9)
    head, batch = random_head().float(), random_batch([23, 1, 12])
    parts = TargetParts(torch.randn(VOCAB, WIDTH), torch.randn(DRAFT_VOCAB, WIDTH))
    batch.features, batch.final = batch.features.float(), batch.final.float()
    config = TrainDraftConfig(out="unused", batch=3, ttt_steps=STEPS, ttt_decay=1.0, learning_rate=1e-12, loss="masked")
    training = Training(HeadObjective(head, parts, config), config, [1] * 3, torch.float32)
    expected, _ = loss_of_batch(head, parts, batch, STEPS, 1.0)
    wanted = torch.autograd.grad(expected, training.weights)
    norm = torch.stack([each.norm() for each in wanted]).norm()
    training.step(batch)
    for weight, gradient in zip(training.weights, wanted, strict=True):
        torch.testing.assert_close(weight.grad, gradient * min(1, CLIP / norm), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65])
def test_rows_are_filled_up_to_few_shapes(count: int) -> None:
    rows = torch.arange(count)
    filled_up = filled(rows)
    assert len(filled_up) % ROUND_TO == 0
    assert len(filled_up) - count < ROUND_TO
    assert filled_up[:count].tolist() == rows.tolist()
    assert set(filled_up.tolist()) == set(rows.tolist())


def test_steps_keep_fewer_and_fewer_slots() -> None:
    masks = [torch.ones(10_000, dtype=torch.bool)] * 4
    kept = list(thinned(masks, 0.6, torch.Generator().manual_seed(2)))
    assert kept[0].all()
    for step in range(1, 4):
        assert not (kept[step] & ~kept[step - 1]).any()
        assert kept[step].float().mean().item() == pytest.approx(0.6**step, abs=0.02)


def test_conversations_do_not_see_each_other() -> None:
    torch.manual_seed(4)
    head, batch = random_head(), random_batch([7, 1, 12])
    parts = random_parts(head)
    together = list(unroll(head, parts, batch, step_masks(batch, STEPS)))
    start = 0
    for size, each in zip(batch.sizes, conversations(batch), strict=True):
        alone = Batch(**each, sizes=[size])
        for (slots, states), (all_slots, all_states) in zip(
            unroll(head, parts, alone, step_masks(alone, STEPS)), together, strict=True
        ):
            mine = ((all_slots >= start) & (all_slots < start + size)).nonzero()[:, 0]
            assert (all_slots[mine] - start).tolist() == slots.tolist()
            torch.testing.assert_close(all_states[mine], states[: len(slots)])
        start += size


def test_soft_cross_entropy_over_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltd.training.distillation.ROWS_PER_CHUNK", 3)
    torch.manual_seed(5)
    x = torch.randn(8, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(9, 6, dtype=torch.float64, requires_grad=True)
    probabilities = torch.randn(5, 9, dtype=torch.float64).softmax(-1)
    rows, scales = torch.randint(5, (8,)), torch.rand(8)
    mine, losses = SoftCrossEntropy.apply(x, weight, probabilities, rows, scales)
    expected = -((x @ weight.T).log_softmax(-1) * probabilities[rows]).sum(-1)
    theirs = (expected * scales).sum()
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-6)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-6)
    assert not losses.requires_grad
    mine_grad, theirs_grad = (torch.autograd.grad(2 * loss, (x, weight)) for loss in (mine, theirs))
    for a, b in zip(mine_grad, theirs_grad, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_step_masks_follow_the_answer() -> None:
    batch = random_batch([9, 3])
    batch.learned = torch.tensor([0, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1], dtype=torch.bool)
    # Slot i of step k needs the tokens i+1 ... i+k+2, all in one answer of one conversation.
    assert [mask.nonzero()[:, 0].tolist() for mask in step_masks(batch, 3)] == [[1, 2, 3, 6, 9], [1, 2], [1]]


def test_measure_counts_what_it_says() -> None:
    torch.manual_seed(6)
    head, batch = random_head(), random_batch([16, 11])
    parts = random_parts(head)
    batch.tokens[1:] = batch.best[:-1]  # a greedy text, so that the chain counts every slot
    found = measure(head, parts, [batch], STEPS)
    reference = ReferenceHead(head.config, dict(head.named_parameters()))
    hits = torch.zeros(STEPS)
    slots = torch.zeros(STEPS)
    gains = []
    for each in conversations(batch):
        tokens, learned, best = each["tokens"], each["learned"], each["best"]
        states = naive_states(head, parts, tokens, each["features"])
        guesses = [reference.logits(state).argmax(-1) for state in states]
        for slot in range(len(tokens) - 2):
            gain, unbroken = 1, True
            for step in range(STEPS):
                if not all(learned[slot + 1 : slot + step + 3]) or slot + step + 2 >= len(tokens):
                    gain = 0
                    break
                guess = guesses[step][slot]
                hit = bool(guess + head.d2t[guess] == best[slot + step + 1])
                slots[step] += 1
                hits[step] += hit
                unbroken = unbroken and hit
                gain += unbroken
            if gain:
                gains.append(gain)
    assert found.accuracy == pytest.approx((hits / slots).tolist())
    assert found.slots == slots[0]
    assert found.chain == pytest.approx(sum(gains) / len(gains))


def test_training_fits_what_can_be_fitted() -> None:
    """One batch, learned by heart: every step of training-time test must predict it, from its own earlier states."""
    torch.manual_seed(7)
    head, batch = random_head().float(), random_batch([16, 11])
    parts = TargetParts(torch.randn(VOCAB, WIDTH), 4 * torch.randn(DRAFT_VOCAB, WIDTH))
    batch.features, batch.final = batch.features.float(), batch.final.float()
    best = (batch.final @ parts.output_rows.T).argmax(-1)
    batch.best = best + head.d2t[best]
    config = TrainDraftConfig(out="unused", learning_rate=1e-2, epochs=150, batch=2, ttt_steps=STEPS)
    training = Training(HeadObjective(head, parts, config), config, [1] * 2, torch.float32)
    before = training.measure([batch]).accuracy
    losses = [training.step(batch) for _ in range(training.updates)]
    after = training.measure([batch]).accuracy
    assert training.updates == 150
    assert max(before) < 0.3
    assert min(after) > 0.9
    assert (losses[-1] < losses[0] / 2).all()


@pytest.mark.parametrize("options", [{}, {"norm_before_fc": True}, {"norm_output": True, "fc_norm": True}])
def test_mixed_precision_learns_without_a_warning(options: dict[str, bool], recwarn: pytest.WarningsRecorder) -> None:
    """Also without those that torch gives once in a process."""
    always = torch.is_warn_always_enabled()
    torch.manual_seed(8)
    head, batch = random_head(**options).float(), random_batch([16, 11])
    parts = TargetParts(torch.randn(VOCAB, WIDTH), torch.randn(DRAFT_VOCAB, WIDTH))
    batch.features, batch.final = batch.features.bfloat16(), batch.final.float()
    config = TrainDraftConfig(out="unused", batch=2, ttt_steps=STEPS)
    training = Training(HeadObjective(head, parts, config), config, [1] * 2, torch.bfloat16)
    torch.set_warn_always(True)
    try:
        assert training.step(batch).isfinite().all()
        training.measure([batch])
    finally:
        torch.set_warn_always(always)
    assert not [str(each.message) for each in recwarn]


@pytest.mark.filterwarnings("ignore:Mismatch dtype")  # of what it is compared with
@pytest.mark.parametrize("coming", [torch.float32, torch.bfloat16])
def test_mixed_precision_norms_as_torch_does(coming: torch.dtype) -> None:
    torch.manual_seed(9)
    norm, given = DraftNorm(WIDTH, 1e-5), torch.randn(7, WIDTH, dtype=coming)
    torch.nn.init.normal_(norm.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mine, theirs = norm(given), torch.nn.functional.rms_norm(given, (WIDTH,), norm.weight, 1e-5)
    assert mine.dtype == coming and torch.equal(mine, theirs)


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    config = TrainDraftConfig(out="unused", learning_rate=0.5, warmup_share=0.2)
    rates = [rate_at(update, 20, config) for update in range(20)]
    assert rates[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5])
    assert rates[4] == pytest.approx(0.5)
    assert rates[12] == pytest.approx(0.25)
    assert rates == rates[:4] + sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 0.01
