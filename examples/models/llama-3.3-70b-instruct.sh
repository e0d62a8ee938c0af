#!/bin/sh
# Llama-3.3-70B-Instruct with the head of EAGLE-3's authors, steps in recipe.sh:
#
#   sh examples/models/llama-3.3-70b-instruct.sh fetch|inspect|tune|eval|serve [--OPTION VALUE …]
#
# Memory: 141.1 GB of weights and 328 kB of keys and values for a token, beside about 3 GB for the head, which has an
# embedding of its own; all of it on one device. The template is the tokenizer's. The hub gives the model to those who
# accepted its licence.
model=meta-llama/Llama-3.3-70B-Instruct
head=yuhuili/EAGLE3-LLaMA3.3-Instruct-70B
dtype=bfloat16
. "$(dirname "$0")/recipe.sh"
