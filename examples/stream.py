"""Shows an answer while it is written: `python examples/stream.py [TARGET HEAD]`.

You see the text grow cycle by cycle. A cycle gains several tokens, and a character, such as an emoji, may take several
of them; `TextStream` gives out text as soon as it is certain, and the pieces are together what `decode` makes of all.
"""

import ltd
from ltd.common.program import run_words


def main(target=None, head=None):
    decoder = ltd.load(target, head)
    prompt = decoder.encode("Write a poem about the sea, with emoji.")

    stream = ltd.TextStream(decoder.tokenizer)
    for tokens in decoder.stream(prompt, max_new_tokens=64):
        print(stream.push(tokens), end="", flush=True)
    print(stream.finish())


run_words(main, "python examples/stream.py [TARGET HEAD]")
