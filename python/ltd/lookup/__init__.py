"""What the text itself proposes: where its last tokens stood before, the tokens that followed them are candidates."""

from ltd.lookup.scores import TextScores, default_text_scores, load_text_scores, save_text_scores
from ltd.lookup.source import (
    MAX_TEXT,
    MAX_TEXT_DEPTH,
    SEPARATOR,
    TEXT_FEATURES,
    TextCandidates,
    TextHistory,
    TextSource,
)

__all__ = [
    "MAX_TEXT",
    "MAX_TEXT_DEPTH",
    "SEPARATOR",
    "TEXT_FEATURES",
    "TextCandidates",
    "TextHistory",
    "TextScores",
    "TextSource",
    "default_text_scores",
    "load_text_scores",
    "save_text_scores",
]
