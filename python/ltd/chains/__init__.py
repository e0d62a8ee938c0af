"""SpecDec++'s own setting: a separate small model drafts chains, and a rule says how long they are."""

from ltd.chains.constant import Constant
from ltd.chains.decoder import ChainDecoder
from ltd.chains.heuristic import Heuristic
from ltd.chains.length import Length, LengthCall
from ltd.chains.specdecpp import SpecDecPP
from ltd.common.assets import shipped_chain

__all__ = ["ChainDecoder", "Constant", "Heuristic", "Length", "LengthCall", "SpecDecPP", "shipped_chain"]
