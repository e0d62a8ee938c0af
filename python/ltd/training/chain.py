"""Distilling a chain draft: a few of the target's layers learn to continue as the target does.

The state after token i predicts token i+1 over the draft's words. The loss is the soft cross-entropy from the target's
distribution, renormalised over these words: of all q that know only the words, that one maximises the chance
sum_x min(p(x), q(x)) with which a drafted token is accepted, also where the target's own favourite is no draft word.
So all positions that predict a token of an answer are learned.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel

from ltd.training.data.batches import Batch
from ltd.training.distillation import ROWS_PER_CHUNK, SoftCrossEntropy, TargetParts, filled, target_probabilities


def new_chain(target: PreTrainedModel, layers: tuple[int, ...]) -> PreTrainedModel:
    """A float32 model of the target's family with copies of these of its layers and of its final norm.

    Token embedding and output layer are the target's own, and frozen.
    """
    config = copy.deepcopy(target.config)
    config.num_hidden_layers = len(layers)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[layer] for layer in layers]
    config.dtype = torch.float32
    with torch.random.fork_rng(devices=[]):  # the fresh weights are all replaced
        model: Any = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    body: Any = target.model
    for mine, layer in zip(model.model.layers, layers, strict=True):
        mine.load_state_dict(body.layers[layer].state_dict())
    model.model.norm.load_state_dict(body.norm.state_dict())
    model = model.to(target.device)
    model.set_input_embeddings(target.get_input_embeddings())
    model.set_output_embeddings(target.get_output_embeddings())
    model.requires_grad_(False)
    trained_part(model).requires_grad_(True)
    return model  # type: ignore[no-any-return]


def trained_part(model: PreTrainedModel) -> nn.ModuleDict:
    """The layers and the final norm."""
    body: Any = model.model
    return nn.ModuleDict({"layers": body.layers, "norm": body.norm})


@dataclass(frozen=True, slots=True)
class HeldOutChain:
    """How close the draft is to the target on held-out answers, as means over their tokens.

    kl: KL(p || q) in nats, p renormalised over the draft's words. agreement: share of the tokens where the draft's best
    word is the target's, of all its words. acceptance: sum_x min(p(x), q(x)) over all words, the chance that a token
    drawn from the draft is accepted at temperature 1. tokens: how many were measured.
    """

    kl: float
    agreement: float
    acceptance: float
    tokens: int

    def to_dict(self) -> dict[str, Any]:
        """Rounded plain values, ready for JSON."""
        return {name: round(value, 4) for name, value in asdict(self).items()}

    def __str__(self) -> str:
        return f"KL {self.kl:.3f}, agreement {100 * self.agreement:.1f} %, acceptance {100 * self.acceptance:.1f} %"


class ChainObjective:
    """The training of a chain draft, see `ltd.training.loop.Objective`.

    model: of `new_chain`; parts: the target's embedding and its output rows of the words (Vd,H); words (Vd,) int64; all
    on one device. whole: all output rows (V,H).
    """

    def __init__(self, model: PreTrainedModel, parts: TargetParts, words: Tensor, whole: Tensor) -> None:
        self.model, self.parts, self.words, self.whole = model, parts, words, whole
        self.module = trained_part(model)
        self._covered: list[Tensor] = []

    def slots(self, batch: Batch) -> Tensor:
        """The positions that predict a token of an answer."""
        return batch.ahead(batch.learned, 1).sum().clamp_min(1)

    def states(self, batch: Batch) -> Tensor:
        """The draft's states (n,H) after the final norm."""
        # Padding stands on the right, where causal attention keeps it out of everything that counts.
        tokens = nn.utils.rnn.pad_sequence(list(batch.tokens.split(batch.sizes)), batch_first=True)
        body: Any = self.model.model
        embedded = self.parts.embedding[tokens].to(next(self.module.parameters()).dtype)
        states = body(inputs_embeds=embedded, use_cache=False).last_hidden_state
        return torch.cat([row[:size] for row, size in zip(states, batch.sizes, strict=True)])

    def loss(self, batch: Batch, _: torch.Generator) -> tuple[Tensor, Tensor]:
        """The mean soft cross-entropy of the slots, which is also the only part."""
        slots = batch.ahead(batch.learned, 1).nonzero()[:, 0]
        rows = filled(slots)
        wanted = target_probabilities(self.parts, batch.final[rows])
        scales = torch.zeros(len(rows), device=rows.device)
        scales[: len(slots)] = 1 / max(1, len(slots))
        total, losses = SoftCrossEntropy.apply(  # type: ignore[no-untyped-call]
            self.states(batch)[rows],
            self.parts.output_rows,
            wanted,
            torch.arange(len(rows), device=rows.device),
            scales,
        )
        return total, (losses @ scales)[None]

    @torch.no_grad()
    def measure(self, batches: Iterable[Batch]) -> HeldOutChain:
        """Measure on the batches, which must be the same ones every time."""
        sums, tokens = torch.zeros(3, dtype=torch.float64), 0
        for number, batch in enumerate(batches):
            slots = batch.ahead(batch.learned, 1).nonzero()[:, 0]
            if number == len(self._covered):  # costs more than all the rest, so it is kept
                self._covered.append(covered(batch.final[slots], self.parts.output_rows, self.whole))
            states = self.states(batch)[slots].to(self.parts.output_rows.dtype)
            logits = (states @ self.parts.output_rows.t()).float()
            wanted = target_probabilities(self.parts, batch.final[slots]).float()
            logs = logits.log_softmax(-1)
            kl = functional.kl_div(logs, wanted, reduction="sum")
            agreement = (self.words[logits.argmax(-1)] == batch.best[slots]).sum()
            acceptance = torch.minimum(wanted * self._covered[number][:, None], logs.exp()).sum()
            sums += torch.stack([kl, agreement, acceptance]).double().cpu()
            tokens += len(slots)
        kl, agreement, acceptance = (sums / max(1, tokens)).tolist()
        return HeldOutChain(kl, agreement, acceptance, tokens)


def covered(final: Tensor, rows: Tensor, whole: Tensor) -> Tensor:
    """The target's probability (n,) float32 of the words with these output rows (Vd,H); final (n,H), whole (V,H)."""
    parts = []
    for states in final.to(whole.dtype).split(ROWS_PER_CHUNK):
        some, every = ((states @ weight.t()).float().logsumexp(-1) for weight in (rows, whole))
        parts.append((some - every).exp())
    return torch.cat(parts) if parts else final.new_zeros(0, dtype=torch.float32)
