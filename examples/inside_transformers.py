"""Drafts inside `generate` of transformers: `python examples/inside_transformers.py [TARGET HEAD]`.

You see an answer under transformers' own settings, here a repetition penalty, and that it is the one of transformers
alone. TARGET must be a folder or hub name that transformers loads, and HEAD fit it.
"""

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

import ltd
from ltd.target.locate import locate

target = locate(sys.argv[1] if len(sys.argv) > 1 else None)  # what `ltd.load` takes, as transformers takes it
head = sys.argv[2] if len(sys.argv) > 2 else None  # None is the head for SmolLM2-135M-Instruct
tokenizer, model = AutoTokenizer.from_pretrained(target), AutoModelForCausalLM.from_pretrained(target, dtype="float32")
inputs = tokenizer("The capital of France is", return_tensors="pt")
settings = {**inputs, "max_new_tokens": 32, "do_sample": False, "repetition_penalty": 1.2}

custom = ltd.CustomGenerate(head)
drafted = model.generate(**settings, custom_generate=custom)
print(tokenizer.decode(drafted[0], skip_special_tokens=True))
print(f"{custom.last_statistics.acceptance_length:.2f} tokens per cycle", file=sys.stderr)
assert drafted.equal(model.generate(**settings))
