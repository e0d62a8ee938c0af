"""Drafts propose tokens for the target; they know nothing of it but its embedding and its hidden states."""

from ltd.drafts.base import Draft, DraftSession, Origin

__all__ = ["Draft", "DraftSession", "Origin"]
