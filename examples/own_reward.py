"""Trains the size policy for a reward of your own: `python examples/own_reward.py FOLDER [STEPS]`.

FOLDER is of `ltd tune` or `rl/train_size.py`: it holds `traces` and `latency.json`. You see which sizes PPO learns to
choose for the paper's reward, and for one to which time matters less: it verifies more candidates.
"""

import numpy as np
from stable_baselines3 import PPO

import ltd
from ltd.common.program import run_words
from ltd.latency import LatencyModel
from ltd.policies.learned.observation import Summary
from ltd_rl.environments.replay_env import ReplayVecEnv
from ltd_rl.environments.rewards import RatioReward, Reward
from ltd_rl.traces import load_traces
from ltd_rl.traces.outcomes import outcomes_of


class PatientReward(Reward):
    @staticmethod
    def formula(tokens, times):  # of n cycles; times are in plain tokens
        return tokens - 0.1 * times


def main(folder, steps="10000"):
    if not steps.isdecimal() or int(steps) < 1:
        raise ltd.InputError(f"STEPS is {steps!r}, but must be a whole number of at least 1")
    latency, traces = LatencyModel.load(f"{folder}/latency.json"), load_traces(f"{folder}/traces")
    outcomes = outcomes_of(traces.generations, latency, sizes=(2, 4, 8, 16, 32, 60))
    for kind in (RatioReward, PatientReward):
        reward = kind(plain_seconds=float(outcomes.plain_seconds.mean()))
        env = ReplayVecEnv(outcomes, "size", Summary(best=8, newest=8), reward, "random", count=8, seed=0)
        ppo = PPO("MlpPolicy", env, n_steps=64, batch_size=256, learning_rate=3e-3, seed=0, device="cpu")
        actions, _ = ppo.learn(int(steps)).predict(np.concatenate([env.reset() for _ in range(25)]), deterministic=True)
        print(f"{kind.__name__}: {np.array(outcomes.sizes)[actions].mean():.1f} candidates on average")


run_words(main, "python examples/own_reward.py FOLDER [STEPS]")
