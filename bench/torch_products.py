"""How fast PyTorch multiplies large matrices.

    python bench/torch_products.py [--dtypes float32,bfloat16] [--sides 1024,2048,3072] [--threads 2] [--repeats 15]

Prints, as JSON, the floating-point operations per second of its best product in each type. A process of its own, since
PyTorch's libraries ask the environment but once which instructions they may use.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence

import torch

from timing import time_in_turns

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def best_rate(products: dict[int, Callable[[], object]], repeats: int) -> float:
    """Operations per second of the best of some products of square matrices, by the length of their sides."""
    taken = time_in_turns(list(products.values()), range(repeats))
    return max(2 * side**3 / min(times) for side, times in zip(products, taken, strict=True))


def torch_rate(dtype: torch.dtype, repeats: int, sides: Sequence[int]) -> float:
    """Operations per second of PyTorch's best product of matrices with these sides in this process."""
    squares = {side: torch.randn(side, side).to(dtype) for side in sides}
    return best_rate({side: lambda m=matrix: torch.mm(m, m) for side, matrix in squares.items()}, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--sides", default="1024,2048,3072")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sides = [int(side) for side in options.sides.split(",")]
    names = options.dtypes.split(",")
    print(json.dumps({name: torch_rate(TYPES[name], options.repeats, sides) for name in names}))


if __name__ == "__main__":
    main()
