#!/bin/sh
# Qwen3-14B with the head of AngelSlim, steps in recipe.sh:
#
#   sh examples/models/qwen3-14b.sh fetch|inspect|tune|eval|serve [--OPTION VALUE …]
#
# Memory: 29.5 GB of weights and 164 kB of keys and values for a token, beside about 1.2 GB for the head. The template is
# the tokenizer's, with thinking. The head's config says a RoPE base of 1,000,000, but such heads were trained with
# 10,000; compare both with eval.
model=Qwen/Qwen3-14B
head=AngelSlim/Qwen3-14B_eagle3
dtype=bfloat16
rope_theta=10000
. "$(dirname "$0")/recipe.sh"
