"""Test the timeouts of streams: they follow the rate of the engine's tokens, within bounds."""

from __future__ import annotations

import pytest

from node_agent.core.continuation.timeouts import (
    MAX_FIRST_TOKEN_S,
    TokenRate,
    first_token_timeout_s,
    inter_token_timeout_s,
)


def test_patience_follows_the_engine_within_bounds() -> None:
    assert inter_token_timeout_s(0.02) == 2.0
    assert inter_token_timeout_s(0.5) == 4.0
    assert first_token_timeout_s(0) == 30.0
    assert first_token_timeout_s(100 * 1024 * 1024) == MAX_FIRST_TOKEN_S
    pace = TokenRate()
    for _ in range(500):
        pace.observe(0.1)
    assert pace.time_per_token_s == pytest.approx(0.1)
