"""Replays recorded answers under other decisions: `python examples/replay.py FOLDER`.

FOLDER was made by `ltd record`, or is `traces` in a folder of `ltd tune`. You see what static trees would have gained
per cycle, exactly as the decoder would, without a model: thousands of answers a minute.
"""

import ltd
from ltd.common.program import run_words
from ltd_rl.traces import load_traces
from ltd_rl.traces.replay import replay


def main(folder):
    generations = load_traces(folder).generations
    deepest = min(generation.depth for generation in generations)
    for depth, size in ((0, 4), (1, 8), (3, 16), (deepest, 60)):
        cycles = [replay(generation, ltd.Static(depth, size)) for generation in generations]
        tokens, count = sum(answer.gains.sum() for answer in cycles), sum(len(answer.gains) for answer in cycles)
        print(f"depth {depth}, size {size}: {tokens} tokens in {count} cycles, {tokens / count:.2f} per cycle")


run_words(main, "python examples/replay.py FOLDER")
