"""Ranges of context lengths for tests of what policies see."""

from __future__ import annotations

from hypothesis import strategies as st

from ltd.policies.learned.observation import ANY_LENGTH

# Without one, and with one that lengths of 0 … 4,000 are below, within and above.
length_ranges = st.just(ANY_LENGTH) | st.lists(st.integers(0, 5000), min_size=2, max_size=2).map(sorted).map(tuple)
