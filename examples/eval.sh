#!/bin/sh
# The paper's evaluation with the official script's option names:
#
#   sh examples/eval.sh DEPTH_POLICY SIZE_POLICY [--OPTION VALUE …]
#
# You see speedup and acceptance length of plain decoding, of EAGLE-3's static tree and of the two policies together, on
# the questions in data/TASK/question.jsonl. A policy is the bundle of train_depth.sh or train_size.sh, or a zip that an
# official script wrote.
set -eu

depth_policy=$1
size_policy=$2
shift 2

"${PYTHON:-python}" "$(dirname "$0")/../rl/evaluate.py" \
    --data_dir data \
    --bench-name alpaca,mt_bench,qa,gsm8k \
    --save_path results \
    --depth 8 \
    --total-token 60 \
    --temperature 0 \
    --use_dyn_depth \
    --depth_model "$depth_policy" \
    --use_dyn_token \
    --token_model "$size_policy" \
    "$@"
