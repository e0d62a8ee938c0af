"""Attention of the CUDA kernels is row-exact: a token's result has the same bits wherever its ancestors lie.

One token of a text is computed plainly, behind all others, as a node of random trees, behind any part of its ancestors,
and in a chain, always with as many rows. Its values are such that the result nearly cancels: sums that are rounded in
another order then differ in 16 bits too.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from emulated import emulated_kernels
from engine_models import new_cache, random_model
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_reference import attention, pack
from small_models import VOCABULARY
from torch import Tensor
from transformers import LlamaConfig

from ltd import ops
from ltd.engine.device import DeviceEngine
from ltd.engine.device_layers import Product
from ltd.engine.forward import TreeBlock

ORDERS = itertools.count(1)
SPARE = 300  # rows of a cache that hold nothing

# Head sizes and types of the tensor cores' kernel, and of the other one: more elements than a block writes, odd ones.
SIZES = [
    *((head_dim, dtype) for head_dim in (64, 80, 128, 256) for dtype in (torch.bfloat16, torch.float16)),
    *((head_dim, torch.float32) for head_dim in (7, 64, 136)),
    (24, torch.bfloat16),
]


@dataclass
class Text:
    """The last token's query (kv_heads * group, head_dim), and all keys and values (kv_heads, tokens, head_dim)."""

    query: Tensor
    keys: Tensor
    values: Tensor
    window: int
    generator: torch.Generator

    @classmethod
    def new(
        cls, tokens: int, kv_heads: int, group: int, head_dim: int, dtype: torch.dtype, window: int, seed: int
    ) -> Text:
        generator = torch.Generator().manual_seed(seed)
        query = torch.randn(kv_heads * group, head_dim, generator=generator).to(dtype)
        keys, values = (torch.randn(kv_heads, tokens, head_dim, generator=generator).to(dtype) for _ in range(2))
        seen = torch.ones(1, 1, tokens, dtype=torch.bool)
        if window:
            seen[..., : max(0, tokens - window)] = False
        means = attention(query[None, :, None], keys[None], values[None], seen, head_dim**-0.5)[0, 0]
        centred = (values.double() - means[::group, None]).to(dtype)
        return cls(query, keys, centred, window, generator)

    @property
    def last(self) -> int:
        return self.keys.shape[1] - 1

    def noise(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator).to(self.keys.dtype)

    def attend(
        self, path: list[int], width: int, ancestors: list[set[int]] | None, others: list[int], extra_rows: int = 0
    ) -> Tensor:
        """The last token's result, as node path[-1] of a tree of so many nodes.

        Args:
            path: nodes that hold the last tokens of the text; the prefix holds those before.
            ancestors: what each node sees, or None for a chain.
            others: prefixes' lengths of other sequences in the batch.
            extra_rows: rows that attention's work is cut for beyond the longest.
        """
        lengths = [self.last + 1 - len(path), *others]
        kv_heads, _, head_dim = self.keys.shape
        capacity = max(lengths) + width + SPARE
        query = self.noise(len(lengths), len(self.query), width, head_dim)
        keys, values = (torch.full((len(lengths), kv_heads, capacity, head_dim), math.nan).to(query) for _ in range(2))
        for cache, known in ((keys, self.keys), (values, self.values)):
            for b, length in enumerate(lengths):
                cache[b, :, : length + width] = self.noise(kv_heads, length + width, head_dim)
            places = [*range(lengths[0]), *(lengths[0] + node for node in path)]
            cache[0][:, places] = known
        query[0, :, path[-1]] = self.query
        sets = [set(range(node + 1)) for node in range(width)] if ancestors is None else ancestors
        depths = torch.tensor([len(each) - 1 for each in sets])
        given_lengths = torch.tensor(lengths, dtype=torch.int32)
        with emulated_kernels(next(ORDERS)):
            output = ops.tree_attention(
                query,
                keys,
                values,
                given_lengths,
                width,
                None if ancestors is None else pack(sets, -(-width // 64)).expand(len(lengths), -1, -1).contiguous(),
                given_lengths.long()[:, None] + depths,
                head_dim**-0.5,
                self.window,
                max(lengths) + width + extra_rows,
            )
        return bits(output[0, path[-1]])

    def plain(self, width: int, others: list[int]) -> Tensor:
        """The last token as the root behind all others; what fills the room sees rubbish."""
        return self.attend([0], width, [{0}, *({0, node} for node in range(1, width))], others)

    def in_tree(self, width: int, depth: int, others: list[int], extra_rows: int = 0) -> Tensor:
        """The last token at any place of a random tree, `depth` nodes below the root."""
        order = torch.randperm(width - 1, generator=self.generator)[:depth] + 1
        path = [0, *sorted(order.tolist())]
        above = dict(itertools.pairwise(reversed(path)))
        ancestors: list[set[int]] = [{0}]
        for node in range(1, width):
            any_node = int(torch.randint(node, (), generator=self.generator))
            ancestors.append(ancestors[above.get(node, any_node)] | {node})
        return self.attend(path, width, ancestors, others, extra_rows)

    def in_chain(self, width: int, place: int, others: list[int]) -> Tensor:
        """The last token at some place of a chain."""
        return self.attend(list(range(place + 1)), width, None, others)


def bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


@settings(max_examples=20)
@given(
    size=st.sampled_from(SIZES),
    heads=st.sampled_from([(1, 1), (1, 4), (2, 2), (1, 9)]),
    width=st.integers(1, 16),
    border=st.sampled_from([0, 16, 32, 64, 128, 256, 512]),  # of steps, tiles and splits
    offset=st.integers(-6, 17),
    window=st.sampled_from([0, 0, 20, 150]),
    neighbour=st.none() | st.integers(0, 300),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_a_token_has_the_same_bits_in_every_tree(size, heads, width, border, offset, window, neighbour, seed, data):
    text = Text.new(max(0, border + offset) + 1, *heads, *size, window, seed)
    others = [] if neighbour is None else [neighbour]
    expected = text.plain(width, others)
    deepest = min(width - 1, text.last)
    for extra_rows in (0, SPARE):
        depth = data.draw(st.integers(0, deepest))
        assert torch.equal(text.in_tree(width, depth, others, extra_rows), expected)
    others = [] if neighbour is None else [data.draw(st.integers(0, 300))]
    assert torch.equal(text.in_tree(width, deepest, others), expected)
    assert torch.equal(text.in_chain(width, data.draw(st.integers(0, deepest)), others), expected)


@pytest.mark.parametrize(
    ("head_dim", "dtype", "heads", "width", "last"),
    [
        (64, torch.bfloat16, (1, 2), 6, 4099),  # chunks of keys become longer
        (64, torch.bfloat16, (1, 2), 6, 8705),
        (64, torch.float32, (1, 2), 6, 4225),
        (128, torch.bfloat16, (1, 2), 110, 147),  # the tree fits into shared memory behind some prefixes only
        (128, torch.float16, (1, 2), 130, 290),
        (64, torch.bfloat16, (5, 1), 14, 1030),  # so many blocks that chunks are longer
        (64, torch.bfloat16, (9, 1), 14, 260),  # and that nothing is split
        (64, torch.float32, (1, 3), 20, 260),
    ],
)
def test_long_texts_and_many_rows(head_dim, dtype, heads, width, last):
    text = Text.new(last + 1, *heads, head_dim, dtype, 0, seed=last)
    expected = text.plain(width, [])
    for depth in (3, min(12, width - 1)):
        assert torch.equal(text.in_tree(width, depth, [], SPARE if depth == 3 else 0), expected)
    assert torch.equal(text.in_chain(width, 4, []), expected)


@pytest.mark.parametrize("width", [5, 300])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_what_a_sibling_holds_reaches_no_other(dtype, width):
    """Not even where it is infinite: in a tree what a row does not see is multiplied by 0 nowhere."""
    generator = torch.Generator().manual_seed(width)
    query, keys, values = (torch.randn(1, 1, width + 30, 64, generator=generator).to(dtype) for _ in range(3))
    ancestors = [{0}, *({0, node} for node in range(1, width))]
    keys[0, 0, 30 + 2], values[0, 0, 30 + 2] = math.nan, math.inf
    values[0, 0, 30 + 3] = math.nan
    lengths = torch.tensor([30], dtype=torch.int32)
    with emulated_kernels(next(ORDERS)):
        output = ops.tree_attention(
            query[:, :, :width],
            keys,
            values,
            lengths,
            width,
            pack(ancestors, -(-width // 64))[None],
            torch.zeros(1, width).long(),
            0.125,
        )
    wrong = output[0, :, 0].isnan().any(dim=1).nonzero().flatten().tolist()
    assert wrong == [2, 3]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@torch.inference_mode()
def test_a_forward_gives_a_node_the_bits_of_plain_decoding(dtype, monkeypatch):
    """All layers; the matrix products, which are the library's, are computed row by row here."""

    def row_by_row(product: Product, x: Tensor, result: Tensor) -> None:
        for row, target in zip(x, result, strict=True):
            torch.mm(row[None], product.weight, out=target[None])

    monkeypatch.setattr(Product, "__call__", row_by_row)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, **heads}
    model = random_model(LlamaConfig(**sizes, initializer_range=0.2, max_position_embeddings=512)).to(dtype)
    engine, cache = DeviceEngine(model), new_cache(model, 1)
    generator = torch.Generator().manual_seed(7)
    prompt = torch.randint(3, VOCABULARY, (1, 61), generator=generator)
    tree = torch.randint(3, VOCABULARY, (1, 9), generator=generator)
    parents = [-1, 0, 0, 1, 3, 2, 4, 6, 6]
    ancestors = [{0}]
    for node in range(1, 9):
        ancestors.append(ancestors[parents[node]] | {node})
    masks = pack(ancestors, 1)[None]
    depths = torch.tensor([len(seen) - 1 for seen in ancestors])
    taps = (1, 3)
    with emulated_kernels(next(ORDERS)):
        engine(prompt, TreeBlock.chain(cache.lengths, 61), cache)
        cache.advance([61])
        verified = engine(tree, TreeBlock(cache.lengths, 61 + depths[None], masks), cache, 0, taps)
        assert verified.features is not None
        found = verified.features[0].clone()
        for node in (0, 1, 3, 4, 6, 7):  # a path, token by token, in forwards of as many rows
            tokens = torch.cat([tree[:, node : node + 1], tree[:, :8]], dim=1)
            block = TreeBlock(cache.lengths, cache.lengths.long() + depths[None], masks)
            single = engine(tokens, block, cache, 0, taps)
            assert single.features is not None
            assert torch.equal(bits(single.features[0, 0]), bits(found[node]))
            cache.advance([1])
