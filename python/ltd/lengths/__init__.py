"""How many tokens of a chain to draft before the target checks them."""

from ltd.lengths.base import Length, LengthCall

__all__ = ["Length", "LengthCall"]
