"""Times every operator at the default sizes, alternating with the composed PyTorch equivalent.

    python bench/operators.py [--json FILE] [--threads N] [--dtype bfloat16|float16|float32] [--seconds S]

The sizes: beam width W 10, depth D 8, V 60 candidates verified, draft vocabulary 8,192, vocabulary 49,152, a prefix of
512, 9 query heads on 3 key/value heads of 64, 30 layers. Drafting, selection and greedy acceptance stand beside the
official way of doing it (`bench/official_tree.py`). A cycle has D + 1 expansions; a forward one attention per layer.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor
from torch.nn.functional import linear, relu, scaled_dot_product_attention
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from forward_parts import forward_parts
from ltd import ops
from ltd.common.threads import set_threads
from ltd.policies.learned.observation import Summary
from ltd.tree import DraftTree, TreeNodes
from official_tree import OfficialNodes, OfficialTree, accept_official, path_table
from random_weights import random_weights
from timing import Case, circumstances, measure, print_table, write_json

WIDTH, DEPTH, SIZE = 10, 8, 60
DRAFT_VOCABULARY, VOCABULARY = 8192, 49152
PREFIX, QUERY_HEADS, KV_HEADS, HEAD_DIM, LAYERS = 512, 9, 3, 64, 30
CAPACITY = PREFIX + 512
LENGTHS = torch.tensor([PREFIX], dtype=torch.int32)
ROOT = torch.zeros(1, dtype=torch.int64)


# --- drafting and selection ---


def draft_logits(dtype: torch.dtype) -> list[Tensor]:
    """Logits of all levels, peaked about as much as a draft head's."""
    return [(3 * torch.randn(1, WIDTH if level else 1, DRAFT_VOCABULARY)).to(dtype) for level in range(DEPTH + 1)]


def tree_cases(dtype: torch.dtype) -> Iterator[Case]:
    """expand_beam and select_tree, and both as a cycle has them."""
    logits = draft_logits(dtype)
    d2t = torch.zeros(DRAFT_VOCABULARY, dtype=torch.int64)
    tree = DraftTree(1, WIDTH, DEPTH, SIZE, torch.device("cpu"))

    def draft() -> None:
        tree.begin(ROOT, LENGTHS)
        for level in logits:
            tree.expand(level, d2t)

    def draft_officially() -> OfficialTree:
        official = OfficialTree(WIDTH)
        for level in logits:
            official.expand(level[0].float(), d2t)
        return official

    def expand_last() -> None:
        tree.levels = DEPTH
        tree.expand(logits[DEPTH], d2t)

    draft()
    official = draft_officially()
    scores = torch.zeros(WIDTH, 1)

    def expand_composed() -> None:
        best = torch.log_softmax(logits[DEPTH][0].float(), dim=-1).topk(WIDTH, dim=-1)
        chosen = (best.values + scores).view(-1).topk(WIDTH).indices
        best.indices.view(-1)[chosen]

    both = (lambda: (draft(), tree.select(SIZE)), lambda: draft_officially().select(SIZE, 0))
    yield Case("expand_beam, one level", expand_last, "log_softmax, topk, topk", expand_composed)
    yield Case("expand_beam, all 9 levels", draft, "official tree, drafting", draft_officially)
    yield merge_case(tree)
    yield Case("select_tree", lambda: tree.select(SIZE), "official tree, selection", lambda: official.select(SIZE, 0))
    yield Case("drafting and selection", both[0], "official tree, all", both[1])


def merge_case(tree: DraftTree) -> Case:
    """merge_text of the draft's 16 best candidates and a chain of as many below them, beside dictionaries."""
    count, half = tree.candidates, 16
    best = tree.scores[0, :count].sort(descending=True, stable=True).indices[:half].tolist()
    places = {-1: -1} | {candidate: place for place, candidate in enumerate(best)}
    above = [places[int(tree.parents[0, candidate])] for candidate in best] + list(range(half - 1, 2 * half - 1))
    said = tree.tokens[0, best].tolist() + [VOCABULARY + place for place in range(half)]
    text = torch.tensor([said]), torch.tensor([above], dtype=torch.int32), torch.full((1, 2 * half), -20.0)
    drafted = tree.tokens[:, :count], tree.scores[:, :count], tree.parents[:, :count]
    columns = [torch.cat([column, column[:, : 2 * half]], dim=1) for column in drafted]
    columns.append(torch.zeros(1, count + 2 * half, dtype=torch.int8))
    counts, appended = torch.tensor([2 * half], dtype=torch.int32), torch.zeros(1, dtype=torch.int32)

    def in_dictionaries() -> None:
        known: dict[tuple[int, int], int] = {}
        for column, key in enumerate(zip(tree.parents[0].tolist(), tree.tokens[0].tolist(), strict=True)):
            known.setdefault(key, column)
        found, end = {-1: -1}, count
        for place, (token, parent) in enumerate(zip(said, above, strict=True)):
            found[place] = known.get((found[parent], token), end)
            end += found[place] == end

    run = lambda: ops.merge_text(*text, counts, count, ROOT, *columns, appended)  # noqa: E731
    return Case("merge_text, 32 of the text", run, "Python dictionaries", in_dictionaries)


# --- attention ---


def attention_case(name: str, nodes: int, dtype: torch.dtype, masks: Tensor | None) -> Case:
    """tree_attention of one layer, another one at every run as in a forward, and PyTorch's with a ready mask."""
    query = torch.randn(1, nodes, QUERY_HEADS, HEAD_DIM).to(dtype).transpose(1, 2)
    caches = [torch.randn(LAYERS, 1, KV_HEADS, CAPACITY, HEAD_DIM).to(dtype) for _ in range(2)]
    layers = [list(cache) for cache in caches]
    visible = [[layer[:, :, : PREFIX + nodes] for layer in cache] for cache in layers]
    positions = PREFIX + torch.arange(nodes)[None]
    chain = torch.ones(nodes, nodes, dtype=torch.bool).tril()
    tree = chain if masks is None else ((masks[0, :, :, None] >> torch.arange(64)) & 1).flatten(1)[:, :nodes].bool()
    seen = torch.cat((torch.ones(nodes, PREFIX, dtype=torch.bool), tree), dim=1)[None, None]
    bias = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, -math.inf)
    layer, scale = [0], HEAD_DIM**-0.5

    def run() -> None:
        layer[0] = (layer[0] + 1) % LAYERS
        keys, values = layers[0][layer[0]], layers[1][layer[0]]
        ops.tree_attention(query, keys, values, LENGTHS, nodes, masks, positions, scale)

    def run_composed() -> None:
        keys, values = visible[0][layer[0]], visible[1][layer[0]]
        scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=scale, enable_gqa=True)

    return Case(name, run, "scaled_dot_product_attention", run_composed)


def attention_cases(dtype: torch.dtype, nodes: TreeNodes) -> Iterator[Case]:
    """Verification, drafting, plain decoding and prefill."""
    count = nodes.tokens.shape[1]
    yield attention_case(f"tree_attention, verify {count}, a layer", count, dtype, nodes.masks)
    yield attention_case(f"tree_attention, draft {WIDTH}, a layer", WIDTH, dtype, nodes.masks[:, :WIDTH])
    yield attention_case("tree_attention, decode 1, a layer", 1, dtype, None)
    yield attention_case("tree_attention, prefill 512, a layer", 512, dtype, None)


# --- acceptance ---


def agreeing_logits(nodes: TreeNodes, dtype: torch.dtype, accepted: int = 3) -> Tensor:
    """Logits of the target under which `accepted` drafted tokens are right."""
    logits = torch.randn(1, nodes.tokens.shape[1], VOCABULARY)
    node = 0
    for _ in range(accepted):
        child = int(nodes.first_child[0, node])
        if child < 0:
            break
        logits[0, node, nodes.tokens[0, child]] = 30.0
        node = child
    return logits.to(dtype)


def acceptance_cases(dtype: torch.dtype, nodes: TreeNodes) -> Iterator[Case]:
    """accept_greedy beside the official way; accept_sample beside the warpers of transformers on as many rows."""
    logits = agreeing_logits(nodes, dtype)
    parents = nodes.parents[0].tolist()
    depths = nodes.positions[0] - PREFIX
    table = path_table(parents, depths.tolist())
    official = OfficialNodes(nodes.tokens[0], parents, torch.empty(0), depths, table)
    path, tokens = torch.zeros(1, DEPTH + 2, dtype=torch.int32), torch.zeros(1, DEPTH + 2, dtype=torch.int64)
    results = (path, tokens, torch.zeros(1, dtype=torch.int32))
    links = (nodes.tokens, nodes.first_child, nodes.next_sibling)
    greedy = lambda: ops.accept_greedy(logits, *links, *results)  # noqa: E731
    greedy()
    rows = logits[0, path[0, : int(results[2])].long()].float()
    yield Case("accept_greedy", greedy, "official paths", lambda: accept_official(logits[0], official))

    noise = ops.Noise.new(1, VOCABULARY, [0], "cpu")  # made by the first call, kept for the others
    for name, top_k, top_p in (("T 1", 0, 1.0), ("T 1, top-k 50", 50, 1.0), ("T 1, top-p 0.9", 0, 0.9)):
        warpers = [TemperatureLogitsWarper(1.1)]
        warpers += [TopKLogitsWarper(top_k)] if top_k else []
        warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []

        def sample(top_k: int = top_k, top_p: float = top_p) -> None:
            ops.accept_sample(logits, *links, nodes.positions, 1.1, top_k, top_p, noise, *results)

        def sample_composed(warpers: list = warpers) -> None:
            warped = rows
            for warper in warpers:
                warped = warper(None, warped)
            torch.multinomial(torch.softmax(warped, dim=-1), 1)

        yield Case(f"accept_sample, {name}", sample, "transformers' warpers, multinomial", sample_composed)


def commit_case(dtype: torch.dtype) -> Case:
    """commit_path of five tokens."""
    keys, values = (torch.randn(LAYERS, 1, KV_HEADS, CAPACITY, HEAD_DIM).to(dtype) for _ in range(2))
    path, gained = torch.tensor([[0, 1, 7, 20, 41]], dtype=torch.int32), torch.tensor([5], dtype=torch.int32)
    source = PREFIX + path[0].long()

    def composed() -> None:
        for cache in (keys, values):
            cache[:, :, :, PREFIX : PREFIX + 5] = cache[:, :, :, source]

    return Case(
        "commit_path, 5 rows", lambda: ops.commit_path(keys, values, path, gained, LENGTHS), "indexing", composed
    )


# --- policies ---


def largest_output(hidden: Tensor, weights: list[Tensor]) -> Tensor:
    """The network's action for observations (B, inputs)."""
    for i in range(0, len(weights), 2):
        hidden = linear(relu(hidden) if i else hidden, weights[i], weights[i + 1])
    return hidden.argmax(dim=-1)


def policy_case(name: str, count: int, slots: int, repeats: int, sizes: list[int]) -> Case:
    """A policy with the paper's network."""
    operator = {"depth_action": ops.depth_action, "size_action": ops.size_action}[name]
    scores = -10 * torch.rand(1, count)
    weights = random_weights(sizes, torch.default_generator)

    def composed() -> None:
        hidden = torch.zeros(1, slots + 2 * repeats)
        hidden[:, :count] = scores.clamp(min=-100)
        hidden[:, slots : slots + repeats] = PREFIX / 1000
        hidden[:, slots + repeats :] = DEPTH / 10
        largest_output(hidden, weights)

    return Case(name, lambda: operator(scores, LENGTHS, DEPTH, slots, repeats, weights), "linear layers", composed)


def summary_case() -> Case:
    """Two small networks that read our own observation, states of the default head included."""
    layout = Summary(best=24, newest=8, states=576)
    count = WIDTH + DEPTH * WIDTH**2
    scores, newest_from, actions = -10 * torch.rand(1, count), count - WIDTH**2, torch.zeros(1, 2, dtype=torch.int32)
    states = torch.randn(1, 1, layout.states)
    networks = [random_weights([layout.width, 64, 64, outputs], torch.default_generator) for outputs in (2, 24)]
    flat = torch.cat([weight.flatten() for weights in networks for weight in weights])

    def fused() -> None:
        ops.summary_decision(
            scores,
            count,
            newest_from,
            LENGTHS,
            DEPTH,
            layout.best,
            layout.newest,
            states,
            None,
            flat,
            [64, 64, 2],
            [64, 64, 24],
            False,
            actions,
        )

    def composed() -> None:
        observation = layout.build(scores, newest_from, LENGTHS, DEPTH, states[:, 0])
        for weights in networks:
            largest_output(observation, weights)

    return Case("summary_decision", fused, "linear layers", composed)


# --- the table ---


def all_cases(dtype: torch.dtype) -> list[Case]:
    """In the order of a cycle."""
    tree = DraftTree(1, WIDTH, DEPTH, SIZE, torch.device("cpu"))
    tree.begin(ROOT, LENGTHS)
    for level in draft_logits(dtype):
        tree.expand(level, None)
    nodes = tree.select(SIZE)
    parts = forward_parts(SIZE + 1, 576, 1536, QUERY_HEADS, KV_HEADS, HEAD_DIM, dtype)
    return [
        *tree_cases(dtype),
        *attention_cases(dtype, nodes),
        *acceptance_cases(dtype, nodes),
        commit_case(dtype),
        *(Case(name, fused, "transformers' modules", composed) for name, fused, composed in parts),
        policy_case("depth_action", 100, 100, 14, [128, 1024, 2]),
        policy_case("size_action", WIDTH + DEPTH * WIDTH**2, 1210, 29, [1268, 1024, 256, 24]),
        summary_case(),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Times every operator at the default sizes.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: torch's")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each line of the table (default: 1)")
    options = parser.parse_args()
    set_threads(options.threads)
    torch.manual_seed(0)
    cases = all_cases(getattr(torch, options.dtype))
    with torch.inference_mode():
        results = [measure(case, options.seconds) for case in track(cases, description="timing", transient=True)]
    build = ops.build_info()
    print_table(results, f"{options.dtype}, {options.threads} threads, {build['cpu_kernels']} kernels, W 10, D 8, V 60")
    if options.json:
        content = {"dtype": options.dtype, **circumstances(), "results": [result.to_dict() for result in results]}
        write_json(options.json, content)


if __name__ == "__main__":
    main()
