"""Drafts inside `generate` of transformers: `python examples/inside_transformers.py [TARGET HEAD]`.

You see an answer under transformers' own settings, here a repetition penalty, and that it is the one of transformers
alone. TARGET must be a folder or hub name that transformers loads, and HEAD fit it.
"""

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

import ltd
from ltd.common.program import run_words
from ltd.target.locate import locate


def main(target=None, head=None):  # None is SmolLM2-135M-Instruct, and the head for it
    place = locate(target)  # what `ltd.load` takes, as transformers takes it
    tokenizer = AutoTokenizer.from_pretrained(place)
    model = AutoModelForCausalLM.from_pretrained(place, dtype="float32")
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    settings = {**inputs, "max_new_tokens": 32, "do_sample": False, "repetition_penalty": 1.2}

    custom = ltd.CustomGenerate(head)
    drafted = model.generate(**settings, custom_generate=custom)
    print(tokenizer.decode(drafted[0], skip_special_tokens=True))
    print(f"{custom.last_statistics.acceptance_length:.2f} tokens per cycle", file=sys.stderr)
    assert drafted.equal(model.generate(**settings))


run_words(main, "python examples/inside_transformers.py [TARGET HEAD]")
