"""Times the operators on a GPU beside what one would use otherwise: PyTorch's operators, and those compiled.

    python bench/gpu_operators.py [--json FILE] [--rounds N] [--no-compile] [--only NAME ...]

At W 10, D 8, V 60, bfloat16, heads of an 8B model (32 query heads on 8 of 128, 32 layers). Each way is captured in a
CUDA graph and run in turns with the others, with cold caches, between two events; the medians count. What cannot be
captured or compiled is left out with a reason. Not yet run: nothing of it works without a GPU.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import linear, relu, scaled_dot_product_attention

from console import wide_console
from forward_parts import forward_parts
from ltd import ops
from ltd.tree import DraftTree, TreeNodes
from random_weights import random_weights
from timing import Timing, circumstances, write_json

WIDTH, DEPTH, SIZE = 10, 8, 60
QUERY_HEADS, KV_HEADS, HEAD_DIM, LAYERS = 32, 8, 128, 32
DTYPE = torch.bfloat16
COMPILED = ("torch.compile", "FlexAttention")  # what compiles for minutes
FLUSH_BYTES = 256 << 20  # more than any L2 cache

Run = Callable[[], object]


@dataclass
class Contest:
    """Our operator and what else one could use, by name; all ready to run."""

    name: str
    ltd: Run
    others: dict[str, Run]


def also_compiled(run: Run) -> dict[str, Run]:
    """PyTorch's operators, and the same through torch.compile."""
    return {"PyTorch": run, "torch.compile": torch.compile(run)}


# --- the contests ---


def lengths_of(prefix: int) -> Tensor:
    return torch.tensor([prefix], dtype=torch.int32)


def drafted_tree(vocabulary: int, prefix: int) -> tuple[DraftTree, list[Tensor]]:
    """A tree with all its levels, and the logits it came from."""
    tree = DraftTree(1, WIDTH, DEPTH, SIZE, torch.device("cuda"))
    tree.begin(torch.zeros(1, dtype=torch.int64), lengths_of(prefix))
    logits = [(3 * torch.randn(1, WIDTH if level else 1, vocabulary)).to(DTYPE) for level in range(DEPTH + 1)]
    for level in logits:
        tree.expand(level, None)
    return tree, logits


def expand_contest(label: str, vocabulary: int) -> Contest:
    """One level."""
    tree, logits = drafted_tree(vocabulary, 2048)
    before = torch.zeros(WIDTH, 1)

    def expand() -> None:
        tree.levels = DEPTH
        tree.expand(logits[DEPTH], None)

    def composed() -> tuple[Tensor, Tensor]:
        best = torch.log_softmax(logits[DEPTH][0].float(), dim=-1).topk(WIDTH, dim=-1)
        chosen = (best.values + before).view(-1).topk(WIDTH)
        return chosen.values, best.indices.view(-1)[chosen.indices]

    return Contest(f"expand_beam, vocabulary {label}", expand, also_compiled(composed))


def select_contest(tree: DraftTree) -> Contest:
    """Ancestors by as many products as the tree has levels; no links, so less than ours."""
    scores, parents = tree.scores, tree.parents.long()

    def composed() -> tuple[Tensor, Tensor]:
        chosen = scores[0].topk(SIZE).indices.sort().values
        places = torch.zeros(scores.shape[1] + 1, dtype=torch.int64)
        places[chosen] = torch.arange(1, SIZE + 1)
        above = places[parents[0, chosen]]
        seen = torch.eye(SIZE + 1, dtype=torch.bool)
        for _ in range(DEPTH + 1):
            seen = seen | torch.cat((seen[:1], seen[1:] | seen[above]))
        return chosen, seen

    return Contest(f"select_tree, V {SIZE}", lambda: tree.select(SIZE), also_compiled(composed))


def attention_contest(label: str, prefix: int) -> Contest:
    """One layer's verification, masks ready for all."""
    tree, _ = drafted_tree(1024, prefix)
    nodes = tree.select(SIZE)
    count = nodes.tokens.shape[1]
    query = torch.randn(1, count, QUERY_HEADS, HEAD_DIM).to(DTYPE).transpose(1, 2)
    keys, values = (torch.randn(1, KV_HEADS, prefix + count, HEAD_DIM).to(DTYPE) for _ in range(2))
    bits = (nodes.masks[0, :, :, None] >> torch.arange(64)) & 1
    visible = bits.flatten(1)[:, :count].bool()
    seen = torch.cat((torch.ones(count, prefix, dtype=torch.bool), visible), dim=1)
    lengths, scale = lengths_of(prefix), HEAD_DIM**-0.5
    blocks = create_block_mask(lambda b, h, q, k: seen[q, k], None, None, count, prefix + count, device="cuda")
    flexible = torch.compile(flex_attention)
    return Contest(
        f"tree_attention, prefix {label}",
        lambda: ops.tree_attention(query, keys, values, lengths, count, nodes.masks, nodes.positions, scale),
        {
            "SDPA with a mask": lambda: scaled_dot_product_attention(
                query, keys, values, attn_mask=seen, scale=scale, enable_gqa=True
            ),
            "FlexAttention": lambda: flexible(query, keys, values, block_mask=blocks, scale=scale, enable_gqa=True),
        },
    )


def walk_composed(nodes: TreeNodes, tokens: Tensor) -> Tensor:
    """The path along tokens (N,): node by node, as many steps as a path can have, -1 behind its end."""
    parents = nodes.parents[0]
    node, path = torch.zeros((), dtype=torch.int64), []
    for _ in range(DEPTH + 2):
        path.append(node)
        token = tokens.gather(0, node.clamp(min=0).view(1))[0]  # indexing by a tensor of no dimension reads it
        matching = (parents == node) & (nodes.tokens[0] == token)
        node = torch.where(matching.any() & (node >= 0), matching.int().argmax(), -1)
    return torch.stack(path)


def accept_contests(label: str, vocabulary: int, nodes: TreeNodes) -> Iterator[Contest]:
    """Greedy and sampled, from the same logits; sampled without top-k and top-p."""
    logits = (3 * torch.randn(1, SIZE + 1, vocabulary)).to(DTYPE)
    links = (nodes.tokens, nodes.first_child, nodes.next_sibling)
    results = (
        torch.zeros(1, DEPTH + 2, dtype=torch.int32),
        torch.zeros(1, DEPTH + 2, dtype=torch.int64),
        torch.zeros(1, dtype=torch.int32),
    )
    noise = ops.Noise.new(1, vocabulary, [0], "cuda")  # made by the first call, kept for the others
    yield Contest(
        f"accept_greedy, vocabulary {label}",
        lambda: ops.accept_greedy(logits, *links, *results),
        also_compiled(lambda: walk_composed(nodes, logits[0].argmax(dim=-1))),
    )

    def sample_composed() -> Tensor:
        chances = torch.softmax(logits[0].float() / 1.1, dim=-1)
        return walk_composed(nodes, (chances / torch.empty_like(chances).exponential_()).argmax(dim=-1))

    yield Contest(
        f"accept_sample, vocabulary {label}",
        lambda: ops.accept_sample(logits, *links, nodes.positions, 1.1, 0, 1.0, noise, *results),
        also_compiled(sample_composed),
    )


def commit_contest() -> Contest:
    """Five rows of all layers."""
    prefix = 2048
    keys, values = (torch.randn(LAYERS, 1, KV_HEADS, prefix + 256, HEAD_DIM).to(DTYPE) for _ in range(2))
    path, gained = torch.tensor([[0, 1, 7, 20, 41]], dtype=torch.int32), torch.tensor([5], dtype=torch.int32)
    lengths, source = lengths_of(prefix), prefix + path[0].long()

    def composed() -> None:
        for cache in (keys, values):
            cache[:, :, :, prefix : prefix + 5] = cache[:, :, :, source]

    return Contest(
        "commit_path, 5 rows", lambda: ops.commit_path(keys, values, path, gained, lengths), also_compiled(composed)
    )


def policy_contest(name: str, count: int, slots: int, repeats: int, sizes: list[int]) -> Contest:
    """A policy with the paper's network."""
    operator = {"depth_action": ops.depth_action, "size_action": ops.size_action}[name]
    scores, lengths = -10 * torch.rand(1, count), lengths_of(512)
    weights = [weight.cuda() for weight in random_weights(sizes, torch.Generator("cpu"))]

    def composed() -> Tensor:
        numbers = lengths[:, None].float() / 1000
        parts = (scores.clamp(min=-100), torch.zeros(1, slots - count), numbers.expand(1, repeats))
        hidden = torch.cat((*parts, torch.full((1, repeats), DEPTH / 10)), dim=1)
        for i in range(0, len(weights), 2):
            hidden = linear(relu(hidden) if i else hidden, weights[i], weights[i + 1])
        return hidden.argmax(dim=-1)

    run = lambda: operator(scores, lengths, DEPTH, slots, repeats, weights)  # noqa: E731
    return Contest(name, run, also_compiled(composed))


def all_contests() -> Iterator[Contest]:
    """In the order of a cycle."""
    for label, vocabulary in (("32k", 32_000), ("128k", 128_256)):
        yield expand_contest(label, vocabulary)
    tree, _ = drafted_tree(32_000, 2048)
    nodes = tree.select(SIZE)
    yield select_contest(tree)
    for label, prefix in (("256", 256), ("2k", 2048), ("8k", 8192), ("32k", 32_768)):
        yield attention_contest(label, prefix)
    for label, vocabulary in (("32k", 32_000), ("128k", 128_256), ("152k", 151_936)):
        yield from accept_contests(label, vocabulary, nodes)
    yield commit_contest()
    for name, fused, composed in forward_parts(SIZE + 1, 4096, 14_336, QUERY_HEADS, KV_HEADS, HEAD_DIM, DTYPE):
        yield Contest(name, fused, also_compiled(composed))
    yield policy_contest("depth_action", WIDTH**2, 100, 14, [128, 1024, 2])
    yield policy_contest("size_action", WIDTH + DEPTH * WIDTH**2, 1210, 29, [1268, 1024, 256, 24])


# --- timing ---


def captured(run: Run) -> torch.cuda.CUDAGraph:
    """A graph of it, after it has run often enough to be compiled and tuned."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


def time_graphs(graphs: Sequence[torch.cuda.CUDAGraph], rounds: int) -> list[list[float]]:
    """Seconds of every graph in every round; in a round all of them run."""
    other = torch.zeros(FLUSH_BYTES, dtype=torch.uint8)
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times: list[list[float]] = [[] for _ in graphs]
    for _, (graph, taken) in itertools.product(range(rounds), zip(graphs, times, strict=True)):
        other.sum()  # takes the place of everything in the cache, and gives the host time to enqueue the rest
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        taken.append(start.elapsed_time(stop) / 1e3)
    return times


def measure(contest: Contest, rounds: int) -> tuple[dict[str, Timing], dict[str, str]]:
    """Timings by name, ours as "ltd", and why the missing ones are missing."""
    graphs, missing = {"ltd": captured(contest.ltd)}, {}
    for name, run in contest.others.items():
        try:
            graphs[name] = captured(run)
        except Exception as error:  # whatever the compiler or a capture may raise
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    times = time_graphs(list(graphs.values()), rounds)
    return {name: Timing.of(taken) for name, taken in zip(graphs, times, strict=True)}, missing


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Times the operators on a GPU beside what one would use otherwise.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    parser.add_argument("--rounds", type=int, default=100, help="for each line of the table (default: 100)")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile and FlexAttention")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="operators whose names begin so")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("gpu_operators.py: torch finds no GPU", file=sys.stderr)
        return 2
    torch.set_default_device("cuda")
    torch.manual_seed(0)
    table = Table(title=torch.cuda.get_device_name(), caption="microseconds: median (quartiles), run alternately")
    for column in ("operator", "ltd", "PyTorch, or SDPA", "compiled, or FlexAttention"):
        table.add_column(column, justify="left" if column == "operator" else "right")
    results = []
    with torch.inference_mode():
        for contest in all_contests():
            if options.only and not contest.name.startswith(tuple(options.only)):
                continue
            if options.no_compile:
                contest.others = {name: run for name, run in contest.others.items() if name not in COMPILED}
            timings, missing = measure(contest, options.rounds)
            table.add_row(contest.name, str(timings["ltd"]), *(str(timings.get(name, "-")) for name in contest.others))
            ours = asdict(timings.pop("ltd"))
            others = {name: asdict(timing) for name, timing in timings.items()}
            results.append({"operator": contest.name, "ltd": ours, "others": others, "missing": missing})
            for name, reason in missing.items():
                print(f"{contest.name}: no {name}: {reason}")
    wide_console().print(table)
    if options.json:
        write_json(options.json, {**circumstances(), "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
