"""Answers several prompts at once: `python examples/batch.py [TARGET HEAD]`.

You see each prompt with its answer. The batch runs in lockstep: a cycle drafts and verifies one tree per prompt, all of
the same depth and size, and a prompt that is answered leaves the batch. Each answer is the one it would have alone.
"""

import ltd
from ltd.common.program import run_words


def main(target=None, head=None):
    decoder = ltd.load(target, head)
    questions = ["Name three rivers.", "What is 7 times 8?", "Who wrote Hamlet?"]
    prompts = [decoder.encode(question) for question in questions]

    answers = decoder.generate(prompts, max_new_tokens=32, policy=ltd.Static(depth=2, size=8))
    for question, answer in zip(questions, answers, strict=True):
        print(question)
        print("  " + decoder.tokenizer.decode(answer.token_ids, skip_special_tokens=True))


run_words(main, "python examples/batch.py [TARGET HEAD]")
