"""The pairs of model and head that `examples/models/` has recipes for, as published, and tiny ones of the same kind.

A tiny one keeps what a published one is made of: the family, how many query heads share a key and value head, whether
heads are together as wide as the state, RoPE and its scaling, the head's files, its names of tensors, what its config
says and leaves out, its vocabulary and width beside the model's.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from small_models import VOCABULARY, small_tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen3Config

from ltd.drafts.eagle3.head import Eagle3Config, Eagle3Head

LAYERS, HEAD_DIM, WORDS = 8, 16, 24
FEATURES = (2, LAYERS // 2, LAYERS - 3)
LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """A model and its head.

    Attributes:
        family: the class of its config.
        sizes: hidden size, intermediate size, layers, query heads, key and value heads, dimension of a head, words.
        rope: its rotary positions.
        options: what else its config says.
        angelslim: whether the head is in AngelSlim's layout, and else in that of EAGLE-3's authors.
        reduced: whether the head has a vocabulary of its own.
        width: of the head, over that of the model.
        layers_said: what the config of the head says of itself; it has one layer whatever that is.
    """

    family: type[PretrainedConfig]
    sizes: tuple[int, int, int, int, int, int, int]
    rope: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    angelslim: bool = False
    reduced: bool = True
    width: float = 1.0
    layers_said: int = 1

    def config(self, layers: int) -> PretrainedConfig:
        """The published config, but for the number of layers."""
        hidden, intermediate, _, heads, kv_heads, head_dim, words = self.sizes
        return self.family(
            hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=kv_heads, head_dim=head_dim, vocab_size=words, rope_parameters=dict(self.rope),
            tie_word_embeddings=False, **self.options,
        )  # fmt: skip

    def parameters(self) -> int:
        """How many the published model has: all layers are alike."""
        with torch.device("meta"):
            one, two = (
                sum(each.numel() for each in AutoModelForCausalLM.from_config(self.config(layers)).parameters())
                for layers in (1, 2)
            )
        return one + (self.sizes[2] - 1) * (two - one)

    def tiny_config(self) -> PretrainedConfig:
        """A small config of the same kind."""
        hidden, _, _, heads, kv_heads, head_dim, _ = self.sizes
        shared = math.gcd(heads, kv_heads)
        few, few_kv = 2 * heads // shared, 2 * kv_heads // shared
        width = hidden * few * HEAD_DIM // (heads * head_dim)
        longest = {"original_max_position_embeddings": 32} if "factor" in self.rope else {}
        return self.family(
            hidden_size=width, intermediate_size=width * 3 // 2, num_hidden_layers=LAYERS, num_attention_heads=few,
            num_key_value_heads=few_kv, head_dim=HEAD_DIM, vocab_size=VOCABULARY,
            rope_parameters={**self.rope, **longest}, tie_word_embeddings=False, max_position_embeddings=512,
            initializer_range=0.3, **{**self.options, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2},
        )  # fmt: skip

    def write(self, model: Path, head: Path) -> None:
        """A tiny random model with its tokenizer, and a head for it as its publisher writes heads."""
        torch.manual_seed(0)
        config = self.tiny_config()
        AutoModelForCausalLM.from_config(config).save_pretrained(model)
        small_tokenizer().save_pretrained(model)
        width = int(config.hidden_size * self.width)
        made = Eagle3Head(self.head_config(config, width), own_embedding=width != config.hidden_size)
        for weight in made.parameters():
            torch.nn.init.normal_(weight, std=0.3)
        words = made.config.draft_vocab_size
        ids = torch.randperm(VOCABULARY)[:words].sort().values
        made.d2t.copy_(ids - torch.arange(words))
        made.t2d.copy_(torch.zeros(VOCABULARY, dtype=torch.bool).index_fill(0, ids, True))
        write_head(self, made, head)

    def head_config(self, config: PretrainedConfig, width: int) -> Eagle3Config:
        """That of a head for the tiny model."""
        heads = config.num_attention_heads if self.width == 1 else width // HEAD_DIM
        return Eagle3Config(
            hidden_size=width, intermediate_size=2 * width, num_attention_heads=heads,
            num_key_value_heads=config.num_key_value_heads, head_dim=HEAD_DIM, vocab_size=VOCABULARY,
            draft_vocab_size=WORDS if self.reduced else VOCABULARY, target_hidden_size=config.hidden_size,
            feature_layers=FEATURES,
        )  # fmt: skip


def write_head(pair: Pair, head: Eagle3Head, folder: Path) -> None:
    """Writes a head in the layout of the pair's."""
    config, without = head.config, () if pair.reduced else ("d2t", "t2d")
    values: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": pair.layers_said,
        "hidden_size": config.hidden_size, "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_attention_heads, "num_key_value_heads": config.num_key_value_heads,
        "vocab_size": config.vocab_size, "draft_vocab_size": config.draft_vocab_size, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
    }  # fmt: skip
    if config.hidden_size != config.target_hidden_size:
        values["target_hidden_size"] = config.target_hidden_size
    tensors: dict[str, Tensor] = {
        name.replace("layer.", "midlayer.", 1) if name.startswith("layer.") else name: tensor.clone()
        for name, tensor in head.state_dict().items()
        if name not in without
    }
    folder.mkdir(parents=True)
    if pair.angelslim:
        ids = [index - 1 for index in FEATURES]
        values |= {"architectures": ["Eagle3LlamaForCausalLM"], "model_type": "qwen3", "rope_theta": 1e6,
                   "head_dim": HEAD_DIM, "rms_norm_eps": 1e-6,
                   "eagle_config": {"eagle_aux_hidden_state_layer_ids": ids}}  # fmt: skip
        save_file(tensors, folder / "model.safetensors")
    else:
        torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(values))


LLAMA_8B = (4096, 14336, 32, 32, 8, 128, 128256)
QWEN: dict[str, Any] = {"rms_norm_eps": 1e-6, "attention_bias": False}
LLAMA: dict[str, Any] = {"rms_norm_eps": 1e-5}
QWEN_ROPE = {"rope_type": "default", "rope_theta": 1000000.0}
PAIRS = {
    "llama-3.1-8b-instruct": Pair(LlamaConfig, LLAMA_8B, LLAMA3_ROPE, LLAMA),
    "vicuna-13b-v1.3": Pair(
        LlamaConfig, (5120, 13824, 40, 40, 40, 128, 32000), {"rope_type": "default", "rope_theta": 10000.0},
        {"rms_norm_eps": 1e-6}, reduced=False, layers_said=40,
    ),
    "deepseek-r1-distill-llama-8b": Pair(LlamaConfig, LLAMA_8B, LLAMA3_ROPE, LLAMA),
    "qwen3-14b": Pair(Qwen3Config, (5120, 17408, 40, 40, 8, 128, 151936), QWEN_ROPE, QWEN, angelslim=True),
    "qwen3-32b": Pair(Qwen3Config, (5120, 25600, 64, 64, 8, 128, 151936), QWEN_ROPE, QWEN, angelslim=True),
    "llama-3.3-70b-instruct": Pair(
        LlamaConfig, (8192, 28672, 80, 64, 8, 128, 128256), LLAMA3_ROPE, LLAMA, width=0.75
    ),
}  # fmt: skip
"""By the name of their recipe. Heads that were not seen are as `Pair` says, from what others wrote about them."""
