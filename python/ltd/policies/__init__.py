"""Policies decide, in every cycle, how deep to draft and how many candidates to verify."""

from ltd.policies.base import Policy, PolicyCall
from ltd.policies.beside_text import BesideText
from ltd.policies.budget import Budget
from ltd.policies.caddtree import CaDDTree
from ltd.policies.ddd import DDD
from ltd.policies.gammatune import GammaTune
from ltd.policies.learned.policy import Learned
from ltd.policies.lookup import Both, Lookup
from ltd.policies.smart import Smart
from ltd.policies.static import Static
from ltd.policies.svip import SVIP

__all__ = [
    "DDD",
    "SVIP",
    "BesideText",
    "Both",
    "Budget",
    "CaDDTree",
    "GammaTune",
    "Learned",
    "Lookup",
    "Policy",
    "PolicyCall",
    "Smart",
    "Static",
]
