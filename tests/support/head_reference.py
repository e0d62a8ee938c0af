"""A plain, slow EAGLE-3 head written from the paper's description, to compare the real one with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ltd.drafts.eagle3.head import Eagle3Config


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * (x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt())


def rope(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """x (..., N, d) rotated pair by pair: dimension m goes with m + d/2."""
    half = x.size(-1) // 2
    out = torch.empty_like(x)
    for m in range(half):
        angle = positions.double() * theta ** (-m / half)
        cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        out[..., m] = x[..., m] * cosine - x[..., m + half] * sine
        out[..., m + half] = x[..., m + half] * cosine + x[..., m] * sine
    return out


class ReferenceHead:
    """Works on one sequence without batch dimension, from the real head's weights; keys are kept by the caller."""

    def __init__(self, config: Eagle3Config, weights: dict[str, Tensor]) -> None:
        self.config, self.weights = config, weights

    def fuse(self, features: Tensor) -> Tensor:
        """features (N, F*Ht) -> (N,H)."""
        config, w = self.config, self.weights
        if config.fc_norm:
            width, parts = config.target_hidden_size, []
            for index in range(len(config.feature_layers)):
                part = features[:, index * width : (index + 1) * width]
                parts.append(rms(part, w[f"fc_norm.{index}.weight"], config.rms_norm_eps))
            features = torch.cat(parts, 1)
        if config.norm_before_fc:
            features = rms(features, w["input_norm.weight"], config.rms_norm_eps)
        return features @ w["fc.weight"].T

    def project(self, x: Tensor, name: str, heads: int, positions: Tensor | None) -> Tensor:
        """x (N,2H) -> (heads,N,d), rotated if positions are given."""
        w, config = self.weights, self.config
        y = x @ w[f"layer.self_attn.{name}.weight"].T
        if config.attention_bias:
            y = y + w[f"layer.self_attn.{name}.bias"]
        y = y.reshape(len(x), heads, config.head_dim).transpose(0, 1)
        return y if positions is None else rope(y, positions, config.rope_theta)

    def step(
        self,
        embeddings: Tensor,
        states: Tensor,
        positions: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
        mask: Tensor,
    ) -> Tensor:
        """One forward of N slots. Appends this step's keys; mask (N, all keys so far) bool says who sees what."""
        config, w, eps = self.config, self.weights, self.config.rms_norm_eps
        normed = rms(states, w["layer.hidden_norm.weight"], eps)
        x = torch.cat([rms(embeddings, w["layer.input_layernorm.weight"], eps), normed], 1)
        query = self.project(x, "q_proj", config.num_attention_heads, positions)
        keys.append(self.project(x, "k_proj", config.num_key_value_heads, positions))
        values.append(self.project(x, "v_proj", config.num_key_value_heads, None))
        all_keys, all_values = torch.cat(keys, 1), torch.cat(values, 1)
        group = config.num_attention_heads // config.num_key_value_heads
        heads = []
        for head in range(config.num_attention_heads):
            scores = query[head] @ all_keys[head // group].T / math.sqrt(config.head_dim)
            weights = torch.where(mask, scores, torch.tensor(-math.inf, dtype=scores.dtype)).softmax(1)
            heads.append(weights @ all_values[head // group])
        mixed = torch.cat(heads, 1) @ w["layer.self_attn.o_proj.weight"].T
        if config.attention_bias:
            mixed = mixed + w["layer.self_attn.o_proj.bias"]
        x = (normed if config.norm_before_residual else states) + mixed
        inner = rms(x, w["layer.post_attention_layernorm.weight"], eps)
        gate = inner @ w["layer.mlp.gate_proj.weight"].T
        inner = gate * torch.sigmoid(gate) * (inner @ w["layer.mlp.up_proj.weight"].T)
        out = x + inner @ w["layer.mlp.down_proj.weight"].T
        return rms(out, w["norm.weight"], eps) if config.norm_output else out

    def logits(self, states: Tensor) -> Tensor:
        w = self.weights
        normed = states if self.config.norm_output else rms(states, w["norm.weight"], self.config.rms_norm_eps)
        return normed @ w["lm_head.weight"].T
