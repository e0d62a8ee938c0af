#!/bin/sh
# Trains the size policy with the paper's settings and the official script's option names:
#
#   sh examples/train_size.sh [GPU] [--OPTION VALUE …]
#
# You see the throughput on held-out questions rise; the policy is then in checkpoints/size/bundle. The questions are in
# data/humaneval/question.jsonl. What is given on the command line replaces what is set here. For iterative training set
# rl_depth_model_path to the bundle of train_depth.sh.
set -eu
case ${1:-} in [0-9]*) export CUDA_VISIBLE_DEVICES="$1" && shift ;; esac

base_model_path=""     # empty: SmolLM2-135M-Instruct
ea_model_path=""       # empty: the EAGLE-3 head that comes with it
rl_depth_model_path="" # empty: depths drawn at random
rl_checkpoint_path=""  # empty: from scratch

"${PYTHON:-python}" "$(dirname "$0")/../rl/train_size.py" \
    --base_model_path "$base_model_path" \
    --ea_model_path "$ea_model_path" \
    --rl_depth_model_path "$rl_depth_model_path" \
    --rl_checkpoint_path "$rl_checkpoint_path" \
    --data_dir data \
    --dataset_train humaneval \
    --save_path checkpoints/size \
    --total_timesteps 100000 \
    --n_steps 2048 \
    --batch_size 256 \
    --lr 1e-3 \
    --pi_arch 1024 256 \
    --vf_arch 1024 256 \
    "$@"
