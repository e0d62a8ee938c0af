"""Times the target's forward on the CPU: the engine against `transformers` with packed linear layers, in turns.

    python bench/engine.py [--target FOLDER] [--dtype bfloat16] [--prefix 500] [--threads 2] [--repeats 15]

The floor of a forward is reading its weights once, at the speed at which this machine reads as much memory.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch

from ltd.engine import Engine
from ltd.forward import TreeBlock
from ltd.models import load_model, resolve_dtype
from ltd.ops import build_info
from ltd.packing import pack_linears
from ltd.target import Target

SIZES = (1, 8, 16, 32, 64, 128, 240)
CPU = torch.device("cpu")


def milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def weight_bytes(engine: Engine) -> int:
    """What a forward of one token reads."""
    w = engine.weights
    return sum(part.numel() * part.element_size() for part in (w.qkv, w.output, w.gate_up, w.down, w.lm_head))


def forward_of(target: Target, count: int, prefix: int) -> Callable[[], object]:
    """A forward of `count` tokens in a chain behind the prefix; the cache does not grow."""
    tokens = torch.randint(3, 1000, (1, count), generator=torch.Generator().manual_seed(count))
    block = TreeBlock(target.lengths, prefix + torch.arange(count)[None], None)
    cache = target.cache
    assert cache is not None
    return lambda: target._forward(cache, tokens, block, logits_to_keep=0)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default=None, help="a model folder or hub name; default: the default target")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--prefix", type=int, default=500)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    model = load_model(options.target, resolve_dtype(options.dtype, CPU), CPU).model
    plain = copy.deepcopy(model)
    pack_linears(plain)
    engine = Engine(model)
    targets = {"engine": Target(model, (), engine), "transformers": Target(plain)}
    floor_memory = torch.ones(weight_bytes(engine) // 8, dtype=torch.int64)
    floor = min(milliseconds(floor_memory.sum) for _ in range(options.repeats))
    print(f"{options.dtype}, {torch.get_num_threads()} threads, prefix {options.prefix}, {build_info()['cpu_kernels']}")
    print(
        f"floor: {weight_bytes(engine) / 1e6:.0f} MB in {floor:.1f} ms ({weight_bytes(engine) / floor / 1e6:.1f} GB/s)"
    )
    print("tokens   engine ms (min)   transformers ms (min)   speedup   x one token   weights GB/s   floor / engine")
    with targets["engine"].session(1, options.prefix + 256), targets["transformers"].session(1, options.prefix + 256):
        prompt = torch.randint(3, 1000, (options.prefix,))
        for target in targets.values():
            target.prefill(0, prompt)
        first = 0.0
        for count in SIZES:
            calls = [forward_of(target, count, options.prefix) for target in targets.values()]
            times = [[milliseconds(call) for call in calls] for _ in range(options.repeats)]
            ours, theirs = zip(*times, strict=True)
            median = statistics.median(ours)
            first = first or median
            print(
                f"{count:6d} {median:11.2f} ({min(ours):.2f}) {statistics.median(theirs):17.2f} ({min(theirs):.2f})"
                f"{statistics.median(theirs) / median:10.2f}{median / first:14.2f}"
                f"{weight_bytes(engine) / median / 1e6:15.1f}{floor / median:17.2f}"
            )


if __name__ == "__main__":
    main()
