"""How many tokens of a chain to draft before the target checks them."""

from ltd.lengths.base import Length, LengthCall
from ltd.lengths.constant import Constant
from ltd.lengths.heuristic import Heuristic
from ltd.lengths.specdecpp import SpecDecPP

__all__ = ["Constant", "Heuristic", "Length", "LengthCall", "SpecDecPP"]
