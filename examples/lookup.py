"""Looks tokens up in the text so far, a draft for every model: `python examples/lookup.py [TARGET]`.

You see the answer, then whether plain decoding says the same, how many tokens a cycle gained on average, and whose
candidates were accepted. Neither a head nor training is needed.
"""

import ltd
from ltd.common.program import run_words

SENTENCE = "The quick brown fox jumps over the lazy dog, and the lazy dog looks at the quick brown fox."


def main(target=None):
    decoder = ltd.load(target, "lookup")
    prompt = decoder.encode(f"Write this sentence three times, word for word: {SENTENCE}")

    answer = decoder.generate(prompt, max_new_tokens=80)
    plain = decoder.generate(prompt, max_new_tokens=80, policy="none")
    print(decoder.tokenizer.decode(answer.token_ids, skip_special_tokens=True))
    print("the same:", answer.token_ids == plain.token_ids)
    print(f"tokens per cycle: {answer.statistics.acceptance_length:.2f}, accepted: {answer.statistics.sources}")


run_words(main, "python examples/lookup.py [TARGET]")
