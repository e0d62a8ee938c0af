"""The head that training starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ltd.drafts.eagle3.draft import Eagle3Draft
from ltd.drafts.eagle3.head import Eagle3Config, Eagle3Head
from ltd.drafts.opening import read_draft
from ltd.errors import InputError
from ltd.target.model import LoadedModel, tokenizer_fingerprint
from ltd.training.data.batches import Batch
from ltd.training.distillation import TargetParts
from ltd.training.vocabulary import DraftVocabulary

INITIAL_SPREAD = 0.02  # standard deviation of fresh weights
LEAST_FACTOR = 0.1  # of a final norm's weight, relative to their mean


def target_parts(model: PreTrainedModel, vocabulary: DraftVocabulary, dtype: torch.dtype) -> TargetParts:
    """The target's embedding and the draft vocabulary's rows of its output layer, as frozen copies."""
    embedding = _weight(model.get_input_embeddings())
    rows = _weight(model.get_output_embeddings())[vocabulary.target_ids.to(model.device)]
    return TargetParts(embedding.to(dtype), rows.to(dtype))


@dataclass(frozen=True, slots=True)
class StateScales:
    """How large the target's states are: root mean squares of every feature, low to high, and after the final norm."""

    features: tuple[float, ...]
    final: float

    @classmethod
    def of(cls, batch: Batch, layers: int) -> StateScales:
        """Of the tokens of a batch; the padding behind conversations is zero and does not count."""
        present = batch.final.float().abs().amax(-1) > 0
        features = batch.features[present].float().unflatten(-1, (layers, -1))
        sizes = features.square().mean((0, 2)).sqrt().tolist()
        return cls(tuple(sizes), float(batch.final[present].float().square().mean().sqrt()))


def new_head(
    config: Eagle3Config, model: PreTrainedModel, vocabulary: DraftVocabulary, *, from_target: bool, seed: int,
    scales: StateScales,
) -> Eagle3Head:  # fmt: skip
    """A float32 head to train: output layer and final norm are the target's, the rest is fresh.

    With `from_target`, the layer starts as the target's last one as far as the shapes agree, and `fc` passes the
    highest feature through, so that the states begin in the basis that these weights and the output layer read. Norms
    of features begin with weights that leave features about as large as they are. Where states are fed back after the
    final norm, they are in another basis: see `_into_normed_basis`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = Eagle3Head(config)
        for module in head.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=INITIAL_SPREAD)
    head = head.to(model.device)
    head.d2t, head.t2d = (mapping.to(model.device) for mapping in vocabulary.mappings(config.vocab_size))
    final_norm = _weight(model.model.norm)
    with torch.no_grad():
        rows = _weight(model.get_output_embeddings())[vocabulary.target_ids.to(model.device)]
        _take(head.lm_head.weight, rows)
        _take(head.norm.weight, final_norm)
        if from_target:
            if config.hidden_size == config.target_hidden_size:
                head.fc.weight[:, -config.hidden_size :] += torch.eye(config.hidden_size, device=model.device)
            last = model.model.layers[-1]
            _take(head.layer.self_attn.o_proj.weight, last.self_attn.o_proj.weight)
            _take(head.layer.post_attention_layernorm.weight, last.post_attention_layernorm.weight)
            for name in ("gate_proj", "up_proj", "down_proj"):
                _take(getattr(head.layer.mlp, name).weight, getattr(last.mlp, name).weight)
        for norm, size in zip(head.fc_norm or (), scales.features, strict=False):
            nn.init.constant_(norm.weight, size)  # type: ignore[arg-type]
        if from_target and config.norm_output and head.norm.weight.shape == final_norm.shape:
            _into_normed_basis(head, scales)
    return head


def trained_head(folder: Path, target: LoadedModel) -> Eagle3Head:
    """A head that learned before, in float32 on the CPU; raises InputError if it is none for the target."""
    model, cpu = target.model, torch.device("cpu")
    fingerprint = tokenizer_fingerprint(target.tokenizer, model.config.vocab_size)
    head = read_draft(folder, torch.float32, cpu, model=model, fingerprint=fingerprint).head
    embedding: Any = model.get_input_embeddings()
    Eagle3Draft(head, embedding)  # refuses sizes that are not the target's
    if head.embed_tokens is not None:
        raise InputError(
            f"the head in {folder} brings its own embedding; training reads the target's, so start from another head"
        )
    return head


def _into_normed_basis(head: Eagle3Head, scales: StateScales) -> None:
    """Rewrites a head that starts from the target for states as they are after the target's final norm.

    That norm divides a state by its size and multiplies with its weights. Here every state is so from the beginning:
    `fc` and all that is added to the states is multiplied likewise, the layer's second norm undoes it for the target's
    feed-forward block, and the head's own final norm only keeps the size.
    """
    layer, size = head.layer, scales.features[-1]
    factors = head.norm.weight / size
    least = LEAST_FACTOR * factors.abs().mean()  # a direction that the norm almost removes cannot be undone
    factors = torch.where(factors.abs() < least, least, factors)
    for linear in (head.fc, layer.self_attn.o_proj, layer.mlp.down_proj):
        linear.weight.mul_(factors[:, None])
    layer.post_attention_layernorm.weight.mul_(scales.final / size / factors)
    head.norm.weight.fill_(scales.final)


def _weight(layer: Any) -> Tensor:
    weight: Tensor = layer.weight.detach()
    return weight


def _take(weight: Tensor, source: Tensor) -> None:
    if weight.shape == source.shape:
        weight.copy_(source)
