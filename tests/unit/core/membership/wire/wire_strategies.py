"""Strategies that the tests of several parts of the wire format share."""

from __future__ import annotations

from hypothesis import strategies as st

from node_agent.core.node.status import Load

LIVES = st.binary(min_size=6, max_size=6)
COUNTS = st.integers(0, 2**32 - 1)
LOADS = st.builds(
    Load,
    st.integers(0, 70_000),
    st.integers(0, 70_000),
    st.floats(0, 1),
    st.floats(0, 10),
    st.floats(0, 1e6),
)
