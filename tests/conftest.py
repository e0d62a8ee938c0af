"""What all tests share: tiny models of every family, with a tokenizer and a head; instruction sets; threads."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from ltd import _C
from ltd_rl.record import RecordConfig, record
from ltd_rl.traces import load_traces
from op_cases import ISAS
from recordings import DEPTH, NEW_TOKENS, QUESTIONS, Recorded, load_bigrams

os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Before any test runs, so that none sees or changes what the user's own cache holds, such as tuned policies.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="ltd-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_setupnodes(specs: list[object]) -> None:
    """Workers share the cores: each has its part where a test asks for no number of threads, and none spins."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // len(specs))))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


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


@pytest.fixture(scope="session")
def tiny_target(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """tiny_target(family) → the folder of a random float32 model of that family, with its tokenizer."""
    made: dict[str, Path] = {}

    def folder(family: str = "llama") -> Path:
        if family not in made:
            torch.manual_seed(FAMILIES.index(family))
            made[family] = tmp_path_factory.mktemp(family)
            AutoModelForCausalLM.from_config(small_config(family)).save_pretrained(made[family])
            small_tokenizer().save_pretrained(made[family])
        return made[family]

    return folder


@pytest.fixture(scope="session")
def tiny_head(tiny_target: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """tiny_head(family) → the folder of a random head for tiny_target(family), with a reduced vocabulary of 64."""
    from ltd.drafts.checkpoint import save_head
    from ltd.drafts.head import Eagle3Config, Eagle3Head

    made: dict[str, Path] = {}

    def folder(family: str = "llama") -> Path:
        if family not in made:
            torch.manual_seed(100 + FAMILIES.index(family))
            head = Eagle3Head(Eagle3Config.for_target(small_config(family), draft_vocab_size=64))
            chosen = torch.randperm(VOCABULARY)[:64].sort().values
            head.d2t.copy_(chosen - torch.arange(64))
            head.t2d.fill_(False)
            head.t2d[chosen] = True
            made[family] = tmp_path_factory.mktemp(f"{family}-head")
            save_head(head, made[family])
        return made[family]

    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with two tasks, one of them with two turns."""
    folder = tmp_path_factory.mktemp("data")
    for task, conversations in QUESTIONS.items():
        (folder / task).mkdir()
        lines = [json.dumps({"question_id": 7 + number, "turns": turns}) for number, turns in enumerate(conversations)]
        (folder / task / "question.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def recorded(
    data: Path,
    tiny_target: Callable[[str], Path],
    tiny_head: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Recorded]:
    """recorded(family) → the traces of a tiny model."""
    made: dict[str, Recorded] = {}

    def get(family: str = "llama") -> Recorded:
        if family not in made:
            config = RecordConfig(
                data_dir=data,
                out=tmp_path_factory.mktemp("traces"),
                tasks=tuple(QUESTIONS),
                max_new_tokens=NEW_TOKENS,
                target=str(tiny_target(family)),
                draft=str(tiny_head(family)),
                dtype="float32",
                depth=DEPTH,
                rows=7,
                shard_questions=1,
            )
            record(config, load_bigrams)
            decoder = load_bigrams(config.target, config.draft, dtype="float32")
            made[family] = Recorded(decoder, load_traces(config.out), config)
        return made[family]

    return get


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set of this machine, one after the other."""
    _C.use_cpu_isa(request.param)
    yield request.param
    _C.use_cpu_isa(ISAS[-1])


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
