#!/bin/sh
# DeepSeek-R1-Distill-Llama-8B with the head of EAGLE-3's authors, steps in recipe.sh:
#
#   sh examples/models/deepseek-r1-distill-llama-8b.sh fetch|inspect|tune|eval|serve [--OPTION VALUE …]
#
# Memory: 16.1 GB of weights and 131 kB of keys and values for a token, beside about 0.9 GB for the head. The template is
# the tokenizer's, R1's own and not Llama's. Answers think before they speak: give eval more --max-new-tokens than 128.
model=deepseek-ai/DeepSeek-R1-Distill-Llama-8B
head=yuhuili/EAGLE3-DeepSeek-R1-Distill-LLaMA-8B
dtype=bfloat16
. "$(dirname "$0")/recipe.sh"
