"""Generates one answer, and says how fast: `python examples/generate.py [TARGET HEAD]`.

You see the answer of SmolLM2-135M-Instruct, or of the model in the folder TARGET with the EAGLE-3 head in HEAD, how
many tokens it gained per cycle, and how fast it would come without drafting: the same text.
"""

import sys

import ltd
from ltd.common.program import run_words


def main(target=None, head=None):
    decoder = ltd.load(target, head)
    prompt = decoder.encode("Why is the sky blue?")

    answer = decoder.generate(prompt, max_new_tokens=64)
    print(decoder.tokenizer.decode(answer.token_ids, skip_special_tokens=True))
    print(
        f"{answer.statistics.acceptance_length:.2f} tokens per cycle, "
        f"{answer.statistics.tokens_per_second:.1f} tokens per second",
        file=sys.stderr,
    )

    plain = decoder.generate(prompt, max_new_tokens=64, policy="none")
    print(f"{plain.statistics.tokens_per_second:.1f} without drafting", file=sys.stderr)
    assert plain.token_ids == answer.token_ids


run_words(main, "python examples/generate.py [TARGET HEAD]")
