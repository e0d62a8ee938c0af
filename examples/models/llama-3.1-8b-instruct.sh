#!/bin/sh
# Llama-3.1-8B-Instruct with the head of EAGLE-3's authors, steps in recipe.sh:
#
#   sh examples/models/llama-3.1-8b-instruct.sh fetch|inspect|tune|eval|serve [--OPTION VALUE …]
#
# Memory: 16.1 GB of weights and 131 kB of keys and values for a token, beside about 0.9 GB for the head. The template is
# the tokenizer's. The hub gives the model to those who accepted its licence.
model=meta-llama/Llama-3.1-8B-Instruct
head=yuhuili/EAGLE3-LLaMA3.1-Instruct-8B
dtype=bfloat16
. "$(dirname "$0")/recipe.sh"
