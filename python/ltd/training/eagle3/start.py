"""The head that training starts from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ltd.drafts.eagle3.head import Eagle3Config, Eagle3Head
from ltd.training.distillation import TargetParts
from ltd.training.vocabulary import DraftVocabulary

INITIAL_SPREAD = 0.02  # standard deviation of fresh weights


def target_parts(model: PreTrainedModel, vocabulary: DraftVocabulary, dtype: torch.dtype) -> TargetParts:
    """The target's embedding and the draft vocabulary's rows of its output layer, as frozen copies."""
    embedding = _weight(model.get_input_embeddings())
    rows = _weight(model.get_output_embeddings())[vocabulary.target_ids.to(model.device)]
    return TargetParts(embedding.to(dtype), rows.to(dtype))


def new_head(
    config: Eagle3Config, model: PreTrainedModel, vocabulary: DraftVocabulary, *, from_target: bool, seed: int
) -> Eagle3Head:
    """A float32 head to train: output layer and final norm are the target's, the rest is fresh.

    With `from_target`, the layer starts as the target's last one as far as the shapes agree, and `fc` passes the
    highest feature through, so that the states begin in the basis that these weights and the output layer read.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = Eagle3Head(config)
        for module in head.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=INITIAL_SPREAD)
    head = head.to(model.device)
    head.d2t, head.t2d = (mapping.to(model.device) for mapping in vocabulary.mappings(config.vocab_size))
    with torch.no_grad():
        rows = _weight(model.get_output_embeddings())[vocabulary.target_ids.to(model.device)]
        _take(head.lm_head.weight, rows)
        _take(head.norm.weight, model.model.norm.weight)
        if from_target:
            if config.hidden_size == config.target_hidden_size:
                head.fc.weight[:, -config.hidden_size :] += torch.eye(config.hidden_size, device=model.device)
            last = model.model.layers[-1]
            _take(head.layer.self_attn.o_proj.weight, last.self_attn.o_proj.weight)
            _take(head.layer.post_attention_layernorm.weight, last.post_attention_layernorm.weight)
            for name in ("gate_proj", "up_proj", "down_proj"):
                _take(getattr(head.layer.mlp, name).weight, getattr(last.mlp, name).weight)
    return head


def _weight(layer: Any) -> Tensor:
    weight: Tensor = layer.weight.detach()
    return weight


def _take(weight: Tensor, source: Tensor) -> None:
    if weight.shape == source.shape:
        weight.copy_(source)
