"""Test the waits between attempts."""

from __future__ import annotations

import pytest

from node_agent.core.common.backoff import Backoff


def test_waits_grow_stay_in_bounds_and_end() -> None:
    backoff = Backoff(first_s=1.0, max_s=8.0, max_attempts=6)
    assert [backoff.wait_s(n, 0.999) for n in (1, 2, 3)] == pytest.approx([1, 2, 4], rel=0.01)
    assert backoff.wait_s(5, 0.0) == 4.0
    assert backoff.wait_s(6, 0.5) is None
    assert Backoff(1.0, 8.0).wait_s(10_000, 0.5) == 6.0
