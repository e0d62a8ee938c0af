"""The CPU engine against `transformers`' own layers, and against itself: trees must give the bits of single steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_models import DTYPES, family_engine, family_model, new_cache, random_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from operator_reference import visible
from small_models import FAMILIES, VOCABULARY, small_config, with_activation
from torch import nn
from transformers import LlamaConfig, MistralConfig, PreTrainedModel

from ltd.drafts.eagle3.draft import Eagle3Draft
from ltd.drafts.eagle3.engine import HeadEngine
from ltd.engine.cpu import Engine
from ltd.engine.forward import TreeBlock, Verified
from ltd.engine.kv_cache import KVCache
from ltd.engine.packed_layers import PackedEmbedding
from ltd.loading import load
from ltd.policies import Static
from ltd.target.target import Target

Folder = Callable[[str], Path]
TAPS = (0, 3, 8)


def chain(
    engine: Engine, cache: KVCache, tokens: torch.Tensor, kept: int = 0, taps: tuple[int, ...] = TAPS, prompt: int = 0
) -> Verified:
    """Forward of tokens (B, n) behind the prefix, a part of a prompt of so many."""
    positions = cache.lengths.long()[:, None] + torch.arange(tokens.shape[1])
    return engine(tokens, TreeBlock(cache.lengths, positions, None, read_with=prompt), cache, kept, taps)


def random_tree(generator: torch.Generator, nodes: int, reach: int = 6) -> tuple[list[int], torch.Tensor]:
    """Parents (the root's is -1), no farther than `reach` before their children, and bit masks (nodes, words)."""
    parents = [-1] + [int(torch.randint(max(0, n - reach), n, (), generator=generator)) for n in range(1, nodes)]
    masks = torch.zeros(nodes, (nodes + 63) // 64, dtype=torch.int64)
    for node, parent in enumerate(parents):
        if parent >= 0:
            masks[node] = masks[parent]
        bit = 1 << (node % 64)
        masks[node, node // 64] |= bit - (1 << 64) if bit == 1 << 63 else bit
    return parents, masks


def depths(parents: list[int]) -> torch.Tensor:
    result: list[int] = []
    for parent in parents:
        result.append(0 if parent < 0 else result[parent] + 1)
    return torch.tensor(result)


def relative_error(result: torch.Tensor, expected: torch.Tensor) -> float:
    return float((result.float() - expected.float()).norm() / expected.float().norm())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_equals_transformers(family: str, dtype: torch.dtype, engine_isa: str) -> None:
    exact, plain = family_model(family, torch.float32), family_model(family, dtype)
    if dtype != torch.float32:  # the same weights, computed in float32
        exact = copy.deepcopy(plain).float()
    tokens = torch.randint(3, VOCABULARY, (1, 60), generator=torch.Generator().manual_seed(1))
    expected = exact(tokens, output_hidden_states=True)
    result = chain(family_engine(family, dtype), new_cache(plain, 1), tokens, taps=(0, 3, 7))
    assert_near_the_truth(result, expected, plain, tokens)


def assert_near_the_truth(result: Verified, exact: Any, plain: PreTrainedModel, tokens: torch.Tensor) -> None:
    """Logits and features hs[0], hs[3] and hs[7] are those of a float32 model, or as near as `transformers` comes.

    Args:
        result: of the tokens.
        exact: what `transformers` makes of them in float32.
        plain: the model in the type of the result.
        tokens: int64 (1, n).
    """
    assert result.features is not None
    if plain.dtype == torch.float32:
        assert relative_error(result.logits, exact.logits) < 1e-4
        hidden = torch.cat([exact.hidden_states[k] for k in (0, 3, 7)], dim=-1)
        assert relative_error(result.features, hidden) < 1e-4
    else:
        usual = relative_error(plain(tokens).logits, exact.logits)
        assert relative_error(result.logits, exact.logits) < 1.5 * usual + 1e-3


def assert_trees_equal_the_transformers_path(
    family: str, forward: Any, generator: torch.Generator, nodes: int, lengths: list[int]
) -> None:
    """Logits, features and caches of random trees behind random prompts are those of the layers of `transformers`."""
    model = family_model(family, torch.float32)
    targets = Target(copy.deepcopy(model), TAPS), Target(model, TAPS, forward)
    prompts = [torch.randint(3, VOCABULARY, (length,), generator=generator) for length in lengths]
    trees = [random_tree(generator, nodes) for _ in lengths]
    tokens = torch.randint(3, VOCABULARY, (len(lengths), nodes), generator=generator)
    results = []
    for target in targets:
        with target.session(len(lengths), 256) as session:
            for row, prompt in enumerate(prompts):
                session.prefill(row, prompt)
            cache = session.cache
            positions = session.lengths.long()[:, None] + torch.stack([depths(parents) for parents, _ in trees])
            block = TreeBlock(session.lengths, positions, torch.stack([masks for _, masks in trees]))
            verified = target.forward(tokens, block, cache, taps=session.taps)
            results.append((verified.logits, verified.features, cache.keys, cache.values))
    for expected, result in zip(*results, strict=True):  # these wild weights make rounding grow from layer to layer
        assert relative_error(result, expected) < 1e-3


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=6)
@given(
    seed=st.integers(0, 2**31), nodes=st.integers(1, 80), lengths=st.lists(st.integers(1, 90), min_size=1, max_size=3)
)
@torch.inference_mode()
def test_trees_of_a_batch_equal_the_transformers_path(family: str, seed: int, nodes: int, lengths: list[int]) -> None:
    engine = family_engine(family, torch.float32)
    assert_trees_equal_the_transformers_path(family, engine, torch.Generator().manual_seed(seed), nodes, lengths)


def assert_bits_of_single_steps(
    engine: Engine, cache: KVCache, generator: torch.Generator, nodes: int, length: int, reach: int = 6
) -> None:
    """A random tree behind a random chain gives every node the bits of a forward of it alone, behind its ancestors."""
    chain(engine, cache, torch.randint(3, VOCABULARY, (1, length), generator=generator))
    cache.advance([length])
    parents, masks = random_tree(generator, nodes, reach)
    tokens = torch.randint(3, VOCABULARY, (1, nodes), generator=generator)
    tree = engine(tokens, TreeBlock(cache.lengths, length + depths(parents)[None], masks[None]), cache, 0, TAPS)
    assert tree.features is not None
    keys, values = (rows[:, 0, :, length : length + nodes].clone() for rows in (cache.keys, cache.values))
    for leaf in set(range(nodes)) - set(parents):
        path = [leaf]
        while path[0] > 0:
            path.insert(0, parents[path[0]])
        cache.clear()
        cache.advance([length])
        for step, node in enumerate(path):
            single = chain(engine, cache, tokens[:, node : node + 1])
            assert single.features is not None
            cache.advance([1])
            assert torch.equal(single.logits[0, 0], tree.logits[0, node])
            assert torch.equal(single.features[0, 0], tree.features[0, node])
            assert torch.equal(cache.keys[:, 0, :, length + step], keys[:, :, node])
            assert torch.equal(cache.values[:, 0, :, length + step], values[:, :, node])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), nodes=st.integers(2, 70), length=st.integers(1, 70))
@torch.inference_mode()
def test_a_tree_gives_the_bits_of_single_steps(
    family: str, dtype: torch.dtype, engine_isa: str, threads: int, seed: int, nodes: int, length: int
) -> None:
    cache = new_cache(family_model(family, dtype), 1)
    generator = torch.Generator().manual_seed(seed)
    assert_bits_of_single_steps(family_engine(family, dtype), cache, generator, nodes, length)


@pytest.mark.parametrize(
    ("heads", "nodes", "length", "reach", "window"),
    [
        ((32, 6, 1), 61, 70, 6, 0),
        ((64, 6, 3), 61, 70, 6, 0),
        ((96, 6, 2), 61, 70, 6, 0),
        ((128, 2, 1), 9, 64, 6, 0),
        ((32, 20, 1), 9, 33, 6, 0),
        ((64, 6, 3), 70, 31, 1, 40),
        ((32, 6, 1), 40, 95, 1, 0),
    ],
)
@torch.inference_mode()
def test_heads_of_all_sizes_give_the_bits_of_single_steps(
    heads: tuple[int, int, int], nodes: int, length: int, reach: int, window: int, engine_isa: str
) -> None:
    """Also of those whose attention is computed in a processor's tiles, where keys stand in blocks of 32."""
    head_dim, query_heads, kv_heads = heads
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 8}
    attention = {"num_attention_heads": query_heads, "num_key_value_heads": kv_heads, "head_dim": head_dim}
    options = {**sizes, **attention, "initializer_range": 0.2, "max_position_embeddings": 512}
    model = random_model(MistralConfig(**options, sliding_window=window or None)).bfloat16()
    cache = new_cache(model, 1)
    generator = torch.Generator().manual_seed(head_dim)
    assert_bits_of_single_steps(Engine(model), cache, generator, nodes, length, reach)


@pytest.mark.parametrize(("window", "wild"), [(0, math.nan), (20, math.inf), (20, math.nan)])
@pytest.mark.parametrize("is_tree", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@torch.inference_mode()
def test_values_that_are_no_numbers_reach_only_what_sees_them(
    dtype: torch.dtype, is_tree: bool, window: int, wild: float, engine_isa: str, threads: int
) -> None:
    """All other rows keep their bits. Such a value stands before the tree or chain, or is a node's own."""
    nodes, length, bad, good = 40, 75, 7, 8
    engine, cache = engine_of_one_layer(dtype, window, bad)
    generator = torch.Generator().manual_seed(nodes)
    chain(engine, cache, torch.randint(10, VOCABULARY, (1, length), generator=generator), taps=())
    cache.advance([length])
    parents, masks = random_tree(generator, nodes, 2) if is_tree else (list(range(-1, nodes - 1)), None)
    positions = length + depths(parents)[None]
    block = TreeBlock(cache.lengths, positions, None if masks is None else masks[None])
    seen = visible(cache.lengths, nodes, nodes, cache.keys.shape[3], block.masks, positions, window)[0]
    tokens = torch.randint(10, VOCABULARY, (1, nodes), generator=generator)

    def rows(place: int, token: int, value: float | None) -> torch.Tensor:
        """What the layer makes of all nodes where this token, or this value in the cache, stands there."""
        kept = cache.values[0, 0, :, place].clone()
        given = tokens.clone()
        if place >= length:
            given[0, place - length] = token
        elif value is not None:
            cache.values[0, 0, :, place] = value
        features = engine(given, block, cache, 0, (1,)).features
        assert features is not None
        if place < length:
            cache.values[0, 0, :, place] = kept
        return features[0].clone()

    places = [length + node for node in (1, 9, 20, 39)] + ([length - 16, length - 1] if window else [])
    for place in places:
        clean, result = rows(place, good, None), rows(place, bad, wild)
        assert torch.equal(result[~seen[:, place]], clean[~seen[:, place]])
        assert not result[seen[:, place]].isfinite().all(dim=1).any()


def engine_of_one_layer(dtype: torch.dtype, window: int, bad: int) -> tuple[Engine, KVCache]:
    """With a token whose values are no numbers, in heads that a processor's tiles take."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 1}
    attention = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 64, "sliding_window": window or None}
    config = MistralConfig(**sizes, **attention, initializer_range=0.2, max_position_embeddings=512)
    model = random_model(config).to(dtype)
    model.get_input_embeddings().weight[bad] = math.nan
    return Engine(model), new_cache(model, 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_chunks_and_batches_change_no_bit(family: str, dtype: torch.dtype, engine_isa: str) -> None:
    engine, model = family_engine(family, dtype), family_model(family, dtype)
    tokens = torch.randint(3, VOCABULARY, (3, 90), generator=torch.Generator().manual_seed(5))
    whole = new_cache(model, 3)
    expected = chain(engine, whole, tokens)
    for sizes in ([90], [1] * 90, [13, 64, 1, 12]):
        cache, row, start = new_cache(model, 1), 2 - len(sizes) % 3, 0
        for size in sizes:
            part = chain(engine, cache, tokens[row : row + 1, start : start + size])
            assert part.features is not None and expected.features is not None
            assert torch.equal(part.logits[0], expected.logits[row, start : start + size])
            assert torch.equal(part.features[0], expected.features[row, start : start + size])
            cache.advance([size])
            start += size
        assert torch.equal(cache.keys[:, 0], whole.keys[:, row])
        assert torch.equal(cache.values[:, 0], whole.values[:, row])


ODD_SIZES = {
    "tails": {"hidden_size": 40, "intermediate_size": 51, "head_dim": 10, "num_key_value_heads": 1, "vocab_size": 97},
    "biases": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "long sums": {"intermediate_size": 4100, "num_hidden_layers": 1},
    "wide heads": {"head_dim": 128, "num_key_value_heads": 4, "num_hidden_layers": 2},
    "yarn": {
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 4.0,
            "rope_theta": 1e4,
            "original_max_position_embeddings": 64,
        }
    },
    "dynamic": {
        "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
        "max_position_embeddings": 64,
    },
}


@pytest.mark.parametrize("name", ODD_SIZES)
@torch.inference_mode()
def test_other_sizes_and_options(name: str, engine_isa: str) -> None:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.2}
    model = random_model(LlamaConfig(**{**sizes, **heads, "max_position_embeddings": 512, **ODD_SIZES[name]}))
    tokens = torch.randint(3, VOCABULARY, (1, 300), generator=torch.Generator().manual_seed(2))
    for dtype in DTYPES:
        plain = copy.deepcopy(model).to(dtype)
        expected = copy.deepcopy(plain).float()(tokens).logits
        cache = new_cache(plain, 1, 512)
        engine = Engine(copy.deepcopy(plain))
        logits = chain(engine, cache, tokens, taps=(), prompt=300).logits
        tolerance = 1e-4 if dtype == torch.float32 else 1.5 * relative_error(plain(tokens).logits, expected) + 1e-3
        assert relative_error(logits, expected) < tolerance
        if name != "dynamic":  # there the frequencies depend on the longest position in the forward
            cache.advance([299])
            assert torch.equal(chain(engine, cache, tokens[:, -1:], taps=()).logits[0, 0], logits[0, -1])


def test_no_second_copy_of_the_weights_is_kept() -> None:
    config = small_config("llama")
    config.tie_word_embeddings = True
    model = random_model(config)
    embedding = model.get_input_embeddings().weight.detach().clone()
    engine = Engine(model)
    assert all(module.weight.numel() == 0 for module in model.modules() if isinstance(module, nn.Linear))
    shared = model.get_input_embeddings()
    assert isinstance(shared, PackedEmbedding) and shared is engine.embedding
    assert shared.weight.data_ptr() == engine.weights.lm_head.data_ptr()
    assert (shared.num_embeddings, shared.embedding_dim, shared.weight.dtype) == (VOCABULARY, 32, torch.float32)
    ids = torch.tensor([[3, 95], [0, 7]])
    assert torch.equal(shared(ids), embedding[ids])


@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_load_takes_the_engine_where_it_can(tiny_target: Folder, tmp_path: Path, dtype: str, activation: str) -> None:
    folder = with_activation(tiny_target("llama"), tmp_path, activation)
    decoder = load(folder, "none", dtype=dtype, device="cpu")
    assert isinstance(decoder.target.forward, Engine) == (activation == "silu")
    assert len(decoder.generate([5, 6, 7], max_new_tokens=4).token_ids) >= 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_rounded_text_does_not_depend_on_the_tree(
    tiny_target: Folder, tiny_head: Folder, family: str, dtype: str
) -> None:
    decoder = load(tiny_target(family), tiny_head(family), dtype=dtype, device="cpu")
    assert isinstance(decoder.target.forward, Engine) and isinstance(decoder.draft, Eagle3Draft)
    assert isinstance(decoder.draft.forward, HeadEngine)
    generator = torch.Generator().manual_seed(4)
    prompts = [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in (1, 30, 77)]
    for prompt in prompts:
        plain = decoder.generate(prompt, max_new_tokens=60, policy="none").token_ids
        for policy in (Static(0, 4), Static(3, 30), Static(6, 100)):
            assert decoder.generate(prompt, max_new_tokens=60, policy=policy).token_ids == plain
    batch = decoder.generate(prompts, max_new_tokens=60, policy=Static(2, 20))
    assert batch[2].token_ids == plain
