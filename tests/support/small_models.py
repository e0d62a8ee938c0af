"""Tiny models of every family, with a tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
VOCABULARY = 96
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def small_tokenizer() -> PreTrainedTokenizerFast:
    """One token per printable character, an end token and a start token."""
    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "\n", " "] + [chr(code) for code in range(33, 33 + 91)]
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<|endoftext|>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=TEMPLATE,
    )


def small_config(family: str) -> LlamaConfig | MistralConfig | Qwen2Config | Qwen3Config:
    """Eight small layers; weights wide enough that the next token is not a coin toss."""
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "initializer_range": 0.4,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    if family == "mistral":
        return MistralConfig(**sizes, sliding_window=24)
    if family == "qwen2":
        return Qwen2Config(**sizes, use_sliding_window=True, sliding_window=24, max_window_layers=4)
    return {"llama": LlamaConfig, "qwen3": Qwen3Config}[family](**sizes)


def with_activation(folder: Path, place: Path, activation: str) -> Path:
    """A copy of a model's folder with another activation: the CPU engine runs silu alone."""
    made = Path(shutil.copytree(folder, place / activation))
    config = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(json.dumps({**config, "hidden_act": activation}))
    return made
