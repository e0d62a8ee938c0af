"""The EAGLE-3 draft head: its configuration and its one transformer layer.

Source: EAGLE-3 (Li et al., 2025), sections 3.1 and 3.2; the options that published heads add to it are flags of
`Eagle3Config`. The head holds no KV cache: whoever calls it supplies the attention, so that decoding (a cache and a
tree mask) and training (the attention of training-time test) share every other line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ltd.common.json_files import Whole, parse_json
from ltd.engine.kv_cache import key_value_sizes
from ltd.errors import InputError

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""attend(query (B,Hq,m,d), key (B,Hkv,N,d), value (B,Hkv,N,d)) -> (B,m,Hq,d), RoPE already applied to query and key."""
EVERY = slice(None)  # all rows ask

# The other types change with the length of the text or need the target's own tables.
MOST_HEAD_DIM = 4096  # a larger one is damage
MOST_LAYERS = 2**31  # so is a larger number of one
# By type, the numbers that it needs.
ROPE_TYPES: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor",),
}


@dataclass(frozen=True)
class Eagle3Config:
    """Sizes and options of an EAGLE-3 head. `feature_layers` are hs[] indices: hs[k] is the input of target layer k."""

    hidden_size: Whole
    intermediate_size: Whole
    num_attention_heads: Whole
    num_key_value_heads: Whole
    head_dim: Whole
    vocab_size: Whole
    draft_vocab_size: Whole
    target_hidden_size: Whole
    feature_layers: tuple[Whole, ...]
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    max_position_embeddings: int = 2048
    attention_bias: bool = False
    norm_before_residual: bool = False  # the residual is the normed state instead of the state itself
    norm_before_fc: bool = False  # one RMSNorm (`input_norm`) over the concatenated features
    fc_norm: bool = False  # one RMSNorm per feature state
    norm_output: bool = False  # states are fed back after the final norm
    target: str | None = None  # name of the model that the head was trained for
    tokenizer_fingerprint: str | None = None  # `ltd.target.model.tokenizer_fingerprint` of that model's tokenizer

    def __post_init__(self) -> None:
        object.__setattr__(self, "feature_layers", tuple(self.feature_layers))
        for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
                     "vocab_size", "draft_vocab_size", "target_hidden_size"):  # fmt: skip
            if getattr(self, name) < 1:
                raise InputError(f"draft head: {name} is {getattr(self, name)}, but must be at least 1")
        if self.num_attention_heads % self.num_key_value_heads:
            raise InputError(
                f"draft head: num_attention_heads ({self.num_attention_heads}) must be a multiple of"
                f" num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.head_dim % 2 or self.head_dim > MOST_HEAD_DIM:
            raise InputError(
                f"draft head: head_dim is {self.head_dim}, but rotary positions need an even number of at most "
                f"{MOST_HEAD_DIM}"
            )
        if self.draft_vocab_size > self.vocab_size:
            raise InputError(
                f"draft head: draft_vocab_size ({self.draft_vocab_size}) exceeds vocab_size ({self.vocab_size})"
            )
        if not 0 < self.rope_theta < math.inf or not 0 <= self.rms_norm_eps < math.inf:
            raise InputError(
                f"draft head: rope_theta is {self.rope_theta} and rms_norm_eps {self.rms_norm_eps}; the first must be "
                "above 0, the second at least 0, and both finite"
            )
        if not self.feature_layers or min(self.feature_layers) < 0 or max(self.feature_layers) >= MOST_LAYERS:
            raise InputError(
                f"draft head: feature_layers is {self.feature_layers}, but needs indices of 0 or more, below "
                f"{MOST_LAYERS}"
            )
        check_rope(self.rope_scaling or {})
        if (self.rope_scaling or {}).get("rope_type", "default") == "default":
            object.__setattr__(self, "rope_scaling", None)  # the two say the same

    @classmethod
    def from_dict(cls, values: dict[str, Any], what: str = "draft head config") -> Eagle3Config:
        """The config from `to_dict`'s form; keys that are no fields are ignored.

        Raises:
            InputError: one is missing or has another type; the message begins with `what`.
        """
        return parse_json(json.dumps(values), cls, what)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "feature_layers": list(self.feature_layers)}

    @classmethod
    def for_target(cls, target: PretrainedConfig, /, *, draft_vocab_size: int, **options: Any) -> Eagle3Config:
        """The default head for a target: the target's own layer sizes, features of layers 2, N//2 and N-3 (EAGLE-3)."""
        layers = target.num_hidden_layers
        rope = dict(getattr(target, "rope_parameters", None) or {})
        theta = rope.pop("rope_theta", getattr(target, "rope_theta", 10000.0))
        kv_heads, head_dim = key_value_sizes(target)
        values: dict[str, Any] = {
            "hidden_size": target.hidden_size,
            "intermediate_size": target.intermediate_size,
            "num_attention_heads": target.num_attention_heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "vocab_size": target.vocab_size,
            "draft_vocab_size": draft_vocab_size,
            "target_hidden_size": target.hidden_size,
            # Targets of fewer than five layers have no such three; the clamp keeps tiny test models usable.
            "feature_layers": tuple(min(max(k, 0), layers) for k in (2, layers // 2, layers - 3)),
            "rms_norm_eps": target.rms_norm_eps,
            "rope_theta": theta,
            "rope_scaling": rope if rope.get("rope_type", "default") != "default" else None,
            "max_position_embeddings": target.max_position_embeddings,
        }
        return cls(**{**values, **options})


class Rotary(nn.Module):
    """Rotary position embedding (Su et al., 2021), half-split layout, computed for any position: there is no table."""

    inverse_frequencies: Tensor

    def __init__(self, config: Eagle3Config) -> None:
        super().__init__()
        place = torch.empty(0).device  # where a head is made under `with device`, all of it is there
        with torch.device("cpu"):  # so that they are the same on all devices
            frequencies, self.scale = _frequencies(config)
        self.inverse_frequencies = frequencies.to(place)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Rotary:
        # The frequencies move with the module, but stay float32: positions need all its digits.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.inverse_frequencies = self.inverse_frequencies.to(fn(torch.empty(0)).device)
        return self

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions (B,N) int64 -> cosines and sines, each (B,1,N,d) float32."""
        angles = positions[..., None].float() * self.inverse_frequencies
        angles = torch.cat([angles, angles], dim=-1)[:, None]
        return angles.cos() * self.scale, angles.sin() * self.scale


def _frequencies(config: Eagle3Config) -> tuple[Tensor, float]:
    """Of half the head's numbers, float32 (head_dim / 2,) on the CPU, and what cosines and sines are scaled by."""
    if config.rope_scaling is None:
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        return 1.0 / config.rope_theta**exponents, 1.0
    rope_type = config.rope_scaling["rope_type"]
    try:
        return ROPE_INIT_FUNCTIONS[rope_type](_rope_config(config), torch.device("cpu"))
    except Exception as error:  # what a type needs is known to transformers alone, and it raises anything
        raise InputError(f"draft head: its {rope_type} RoPE settings cannot be used: {error!r}") from error


def _rope_config(config: Eagle3Config) -> PretrainedConfig:
    parameters = {"rope_theta": config.rope_theta, **(config.rope_scaling or {})}
    rope = PretrainedConfig()
    rope.rope_parameters = parameters
    rope.head_dim = config.head_dim
    rope.hidden_size = config.hidden_size
    rope.num_attention_heads = config.num_attention_heads
    rope.max_position_embeddings = config.max_position_embeddings
    return rope


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Apply rotary positions to x (B,heads,N,d); computed in float32, returned in x's dtype."""
    half = x.size(-1) // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return (x * cosines + turned * sines).to(x.dtype)


class DraftAttention(nn.Module):
    """Projections of the head's attention: the input is twice as wide as a normal layer's."""

    def __init__(self, config: Eagle3Config) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        width = config.hidden_size
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        bias = config.attention_bias
        self.q_proj = nn.Linear(2 * width, queries, bias=bias)
        self.k_proj = nn.Linear(2 * width, keys, bias=bias)
        self.v_proj = nn.Linear(2 * width, keys, bias=bias)
        self.o_proj = nn.Linear(queries, width, bias=bias)
        self.rotary = Rotary(config)

    def forward(self, x: Tensor, positions: Tensor, attend: Attend, rows: Tensor | slice = EVERY) -> Tensor:
        """x (B,N,2H), positions (B,N) int64, the rows (m,) int64 that ask -> (B,m,H)."""
        asking = ((self.q_proj, x[:, rows]), (self.k_proj, x), (self.v_proj, x))
        query, key, value = (proj(part).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for proj, part in asking)
        cosines, sines = self.rotary(positions)
        mixed = attend(rotate(query, cosines[:, :, rows], sines[:, :, rows]), rotate(key, cosines, sines), value)
        out: Tensor = self.o_proj(mixed.flatten(2))
        return out


class DraftNorm(nn.RMSNorm):
    """RMSNorm in its weight's type, and the result in that of what came.

    In mixed precision these are two types. Torch does the same with them on a CPU, bit for bit, but warns; on a GPU it
    would leave the result in float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class DraftMlp(nn.Module):
    """SwiGLU feed-forward block, (B,N,H) -> (B,N,H)."""

    def __init__(self, config: Eagle3Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class DraftLayer(nn.Module):
    """The head's only transformer layer."""

    def __init__(self, config: Eagle3Config) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        self.norm_before_residual = config.norm_before_residual
        self.input_layernorm = DraftNorm(width, eps)
        self.hidden_norm = DraftNorm(width, eps)
        self.post_attention_layernorm = DraftNorm(width, eps)
        self.self_attn = DraftAttention(config)
        self.mlp = DraftMlp(config)

    def forward(
        self, embeddings: Tensor, states: Tensor, positions: Tensor, attend: Attend, rows: Tensor | slice = EVERY
    ) -> Tensor:
        normed = self.hidden_norm(states)
        residual = normed if self.norm_before_residual else states
        x = torch.cat([self.input_layernorm(embeddings), normed], dim=-1)
        x = residual[:, rows] + self.self_attn(x, positions, attend, rows)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


def check_rope(scaling: dict[str, Any]) -> None:
    """Raises InputError for a RoPE type that is not known, or one that lacks a number that it needs."""
    kind = scaling.get("rope_type", "default")
    if not isinstance(kind, str) or kind not in ROPE_TYPES:
        raise InputError(f"draft head: RoPE type {kind!r} is not supported; use one of {', '.join(ROPE_TYPES)}")
    for name in ROPE_TYPES[kind]:
        value = scaling.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise InputError(
                f"draft head: RoPE type {kind} needs {name}, a number above 0, but its config says {value!r}"
            )


class Eagle3Head(nn.Module):
    """An EAGLE-3 draft head with the canonical parameter names.

    Buffers: `d2t` int64 (Vd), offset from draft id to target id (target = d + d2t[d]); `t2d` bool (V), whether a target
    id is in the draft vocabulary. `embed_tokens` exists only in heads that bring their own embedding.
    """

    d2t: Tensor
    t2d: Tensor

    def __init__(self, config: Eagle3Config, *, own_embedding: bool = False) -> None:
        super().__init__()
        self.config = config
        width, count = config.hidden_size, len(config.feature_layers)
        features = count * config.target_hidden_size
        self.fc = nn.Linear(features, width, bias=False)
        self.layer = DraftLayer(config)
        self.norm = DraftNorm(width, config.rms_norm_eps)
        self.lm_head = nn.Linear(width, config.draft_vocab_size, bias=False)
        self.input_norm = DraftNorm(features, config.rms_norm_eps) if config.norm_before_fc else None
        self.fc_norm = None
        if config.fc_norm:
            norms = (DraftNorm(config.target_hidden_size, config.rms_norm_eps) for _ in range(count))
            self.fc_norm = nn.ModuleList(norms)
        self.embed_tokens = nn.Embedding(config.vocab_size, width) if own_embedding else None
        self.register_buffer("d2t", torch.zeros(config.draft_vocab_size, dtype=torch.int64))
        self.register_buffer("t2d", torch.arange(config.vocab_size) < config.draft_vocab_size)

    def norm_features(self, features: Tensor) -> Tensor:
        """features (B,N,F*Ht), the target's states from low to high layer -> what `fc` reads, of the same shape."""
        if self.fc_norm is not None:
            parts = features.split(self.config.target_hidden_size, dim=-1)
            features = torch.cat([norm(part) for norm, part in zip(self.fc_norm, parts, strict=True)], dim=-1)
        if self.input_norm is not None:
            features = self.input_norm(features)
        return features

    def fuse(self, features: Tensor) -> Tensor:
        """features (B,N,F*Ht) -> states (B,N,H)."""
        states: Tensor = self.fc(self.norm_features(features))
        return states

    def forward(
        self, embeddings: Tensor, states: Tensor, positions: Tensor, attend: Attend, rows: Tensor | slice = EVERY
    ) -> Tensor:
        """One draft step: the states to predict from and to feed back.

        embeddings (B,N,H) of the token *after* each state's, states (B,N,H) from `fuse` or from the previous step,
        positions (B,N) int64 of the states -> states (B,N,H), before the final norm unless `norm_output`; or (B,m,H) of
        the rows (m,) int64 alone, where the others need only be seen: then `attend` is given these rows' queries.
        """
        out: Tensor = self.layer(embeddings, states, positions, attend, rows)
        if self.config.norm_output:
            out = self.norm(out)
        return out

    def logits(self, states: Tensor) -> Tensor:
        """states (B,N,H) from `forward` -> logits (B,N,Vd) over the draft vocabulary."""
        logits: Tensor = self.lm_head(states if self.config.norm_output else self.norm(states))
        return logits
