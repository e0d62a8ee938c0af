#!/bin/sh
# Vicuna-13B-v1.3 with the head of EAGLE-3's authors, steps in recipe.sh:
#
#   sh examples/models/vicuna-13b-v1.3.sh fetch|inspect|tune|eval|serve [--OPTION VALUE …]
#
# Memory: 26.0 GB of weights and 819 kB of keys and values for a token, beside about 1.3 GB for the head. Its tokenizer
# has no template, so that of its authors' program goes along; texts end at 2,048 tokens. The tokenizer is read with the
# packages sentencepiece and protobuf.
model=lmsys/vicuna-13b-v1.3
head=yuhuili/EAGLE3-Vicuna1.3-13B
dtype=bfloat16
template=vicuna.jinja
. "$(dirname "$0")/recipe.sh"
