"""Policies decide, in every cycle, how deep to draft and how many candidates to verify."""

from ltd.policies.base import Policy, PolicyCall
from ltd.policies.learned import Learned
from ltd.policies.static import Static

__all__ = ["Learned", "Policy", "PolicyCall", "Static"]
