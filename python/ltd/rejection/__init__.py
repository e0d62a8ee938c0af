"""Another way to sample with trees, to compare with: recursive rejection without replacement."""

from ltd.rejection.decoder import RejectionDecoder

__all__ = ["RejectionDecoder"]
