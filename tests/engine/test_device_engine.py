"""The forward for GPUs on the CPU's kernels and on the emulated CUDA ones, against `transformers`' own layers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from emulated import emulated_kernels
from engine_models import family_model, new_cache, random_model
from small_models import FAMILIES, VOCABULARY
from test_engine import (
    ODD_SIZES,
    assert_near_the_truth,
    assert_trees_equal_the_transformers_path,
    chain,
    relative_error,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig

from ltd.engine.device import DeviceEngine
from ltd.engine.forward import TreeBlock
from ltd.errors import InputError

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
KERNELS = ["cpu", "emulated cuda"]


@pytest.fixture(params=KERNELS)
def kernels(request) -> Iterator[None]:
    with nullcontext() if request.param == "cpu" else emulated_kernels(1):
        yield


def device_engine(family: str, dtype: torch.dtype) -> DeviceEngine:
    return DeviceEngine(copy.deepcopy(family_model(family, dtype)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_equals_transformers(family, dtype, kernels):
    plain = family_model(family, dtype)
    exact = copy.deepcopy(plain).float()
    tokens = torch.randint(3, VOCABULARY, (1, 28), generator=torch.Generator().manual_seed(1))
    expected = exact(tokens, output_hidden_states=True)
    result = chain(device_engine(family, dtype), new_cache(plain, 1), tokens, taps=(0, 3, 7), prompt=28)
    assert result.logits.dtype == result.features.dtype == dtype
    assert_near_the_truth(result, expected, plain, tokens)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("nodes", "lengths"), [(1, [26]), (11, [3, 27, 9]), (70, [25, 1])])
@torch.inference_mode()
def test_trees_of_a_batch_equal_the_transformers_path(family, nodes, lengths, kernels):
    engine = device_engine(family, torch.float32)
    assert_trees_equal_the_transformers_path(family, engine, torch.Generator().manual_seed(nodes), nodes, lengths)


@pytest.mark.parametrize("name", ODD_SIZES)
@torch.inference_mode()
def test_other_sizes_and_options(name):
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.2}
    model = random_model(LlamaConfig(**{**sizes, **heads, "max_position_embeddings": 512, **ODD_SIZES[name]}))
    tokens = torch.randint(3, VOCABULARY, (1, 100), generator=torch.Generator().manual_seed(2))
    expected = model(tokens).logits
    result = chain(DeviceEngine(copy.deepcopy(model)), new_cache(model, 1), tokens, kept=7, prompt=100)
    assert relative_error(result.logits, expected[:, -7:]) < 1e-4


@torch.inference_mode()
def test_what_one_forward_said_outlives_the_next():
    engine, model = device_engine("llama", torch.float32), family_model("llama", torch.float32)
    cache, tokens = new_cache(model, 1), torch.randint(3, VOCABULARY, (2, 1, 5))
    first = chain(engine, cache, tokens[0])
    logits, features = first.logits.clone(), first.features.clone()
    chain(engine, cache, tokens[1])
    assert torch.equal(first.logits, logits)
    assert torch.equal(first.features, features)


def test_rooms_are_made_once_and_serve_in_and_out_of_inference_mode():
    engine, model = device_engine("llama", torch.float32), family_model("llama", torch.float32)
    tokens = torch.randint(3, VOCABULARY, (1, 5))
    cache = new_cache(model, 1)
    with torch.inference_mode():
        first = chain(engine, cache, tokens).logits
    room = engine.rooms.of(5)
    places = [tensor.data_ptr() for tensor in vars(room).values()]
    with torch.no_grad():
        assert torch.equal(chain(engine, cache, tokens).logits, first)
    chain(engine, cache, torch.randint(3, VOCABULARY, (1, 9)))
    assert [tensor.data_ptr() for tensor in vars(engine.rooms.of(5)).values()] == places
    assert engine.rooms.of(8).states.data_ptr() == room.states.data_ptr()


VIEWS = ("view", "transpose", "select", "slice", "split", "t", "unsqueeze", "_unsafe_view", "detach", "alias", "expand")


class Launches(TorchDispatchMode):
    """Counts what would start a kernel on a device: all operators that are not views; those that allocate as well."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.made = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1].split(".")[0]
        result = func(*args, **(kwargs or {}))
        if name not in VIEWS:
            self.names.append(name)
            self.made += isinstance(result, Tensor) and "out" not in (kwargs or {})
        return result


@pytest.mark.parametrize("family", FAMILIES)
def test_nine_launches_a_layer(family):
    """And of a layer's results attention's is the only one that is allocated."""
    engine, model = device_engine(family, torch.float32), family_model(family, torch.float32)
    cache, tokens = new_cache(model, 1), torch.randint(3, VOCABULARY, (1, 5))
    block = TreeBlock.chain(cache.lengths, 5)
    engine(tokens, block, cache)
    with Launches() as launches:
        engine(tokens, block, cache)
    layers = len(engine.layers)
    # Beside the layers: the embedding, the last norm, the output layer.
    assert len(launches.names) == 9 * layers + 3, launches.names
    assert launches.made == layers + 1


def test_weights_are_taken_over():
    model = copy.deepcopy(family_model("qwen2", torch.float32))
    before = sum(parameter.numel() for parameter in model.parameters())
    engine = DeviceEngine(model)
    kept = sum(parameter.numel() for parameter in model.parameters())
    products = [getattr(layer, name) for layer in engine.layers for name in ("qkv", "output", "gate_up", "down")]
    assert kept + sum(product.weight.numel() for product in products) == before


def test_what_it_cannot_run_is_refused():
    model = copy.deepcopy(family_model("llama", torch.float32))
    model.config.hidden_act = "gelu"
    with pytest.raises(InputError, match=r"the device engine cannot run this llama model .*activation gelu"):
        DeviceEngine(model)
    assert not DeviceEngine.supports(copy.deepcopy(family_model("llama", torch.float32)).double())
