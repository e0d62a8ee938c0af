"""Made-up scores of the lookup."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from ltd.lookup.scores import AGREEMENTS, MATCHES, RATES, TextScores

NO_KNOTS = np.zeros(0, np.float32)


def even_scores(chance: float) -> TextScores:
    """The same chance whatever the evidence is, and no head."""
    return TextScores(np.full((MATCHES, AGREEMENTS, RATES), chance, np.float32), NO_KNOTS, NO_KNOTS)


def knots(draw: st.DrawFn, count: int) -> np.ndarray:
    """float32 (count,), ascending."""
    places = draw(st.lists(st.integers(-800, 20), min_size=count, max_size=count, unique=True))
    return np.sort(np.array(places, np.float32)) / np.float32(64)


@st.composite
def text_scores(draw: st.DrawFn) -> TextScores:
    """Chances of a few values, with many ties, or of any; up to five knots."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (MATCHES, AGREEMENTS, RATES)
    if draw(st.booleans()):
        chances = random.choice([0.25, 0.5, 0.9, 0.999], shape).astype(np.float32)
    else:
        chances = random.uniform(0.001, 0.999, shape).astype(np.float32)
    count = draw(st.integers(0, 5))
    return TextScores(chances, knots(draw, count), knots(draw, count))
