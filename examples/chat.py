"""Goes on in a chat, where only what is new is read: `python examples/chat.py [TARGET HEAD]`.

You see each question with its answer, and how many tokens of the prompt the decoder knew from the turn before.
"""

import ltd
from ltd.common.program import run_words


def main(target=None, head=None):
    decoder, messages = ltd.load(target, head), []
    for question in ("Name three rivers.", "Which is the longest?"):
        messages.append({"role": "user", "content": question})
        answer = decoder.generate(decoder.encode(messages), max_new_tokens=32)
        reply = decoder.tokenizer.decode(answer.token_ids, skip_special_tokens=True)
        messages.append({"role": "assistant", "content": reply})

        print(question)
        print("  " + reply)
        statistics = answer.statistics
        print(f"  known: {statistics.reused_tokens} of {statistics.prompt_tokens} tokens of the prompt")


run_words(main, "python examples/chat.py [TARGET HEAD]")
