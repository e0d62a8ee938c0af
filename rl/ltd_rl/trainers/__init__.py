"""Trainers of policies: the exact one, and PPO as in the paper."""
