"""Test packed loads: their precision, and figures out of their range."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.membership.wire.loads import load_of, read_loads, write_load
from node_agent.core.node.status import Load
from tests.unit.core.membership.wire.wire_strategies import COUNTS, LIVES, LOADS


@given(LIVES, COUNTS, LOADS)
def test_a_load_is_read_as_precisely_as_its_format_allows(boot_id: bytes, version: int, load: Load) -> None:
    packed = write_load(boot_id, version, load)
    (read,) = read_loads(packed)
    assert read[:2] == (boot_id, version)
    back = load_of(read)
    assert back.running == min(load.running, 65_535)
    assert back.waiting == min(load.waiting, 65_535)
    assert back.kv_use == pytest.approx(load.kv_use, abs=0.002)
    assert back.time_per_token_s == pytest.approx(min(load.time_per_token_s, 6.5535), abs=5.1e-5)
    assert back.prefill_tokens_s == pytest.approx(min(load.prefill_tokens_s, 655_350.0), abs=5.1)
    assert write_load(boot_id, version, back) == packed  # passed on, it never drifts


@given(st.integers() | st.floats(), st.integers(), st.floats(), st.floats(), st.floats())
def test_a_load_of_any_figures_is_written(running: int, waiting: int, kv_use: float, pace: float, rate: float) -> None:
    (read,) = read_loads(write_load(b"sixsix", 1, Load(running, waiting, kv_use, pace, rate)))
    load = load_of(read)
    assert load.in_flight >= 0
    assert 0.0 <= load.kv_use <= 1.0
