"""Shows an answer while it is written: `python examples/stream.py [TARGET HEAD]`.

You see the text grow cycle by cycle. A cycle gains several tokens, and a character, such as an emoji, may take several
of them; `TextStream` gives out text as soon as it is certain, and the pieces are together what `decode` makes of all.
"""

import sys

import ltd

decoder = ltd.load(*sys.argv[1:3])
prompt = decoder.encode("Write a poem about the sea, with emoji.")

stream = ltd.TextStream(decoder.tokenizer)
for tokens in decoder.stream(prompt, max_new_tokens=64):
    print(stream.push(tokens), end="", flush=True)
print(stream.finish())
