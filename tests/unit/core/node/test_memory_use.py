"""Test when a full collection runs."""

from __future__ import annotations

from node_agent.core.node.memory_use import AT_MOST_EVERY_S, MemoryUse

MIB = 1024 * 1024


def test_memory_is_collected_after_growth_by_a_part_and_sooner_on_an_idle_node() -> None:
    use = MemoryUse(after_bytes=100 * MIB, collected_at=0.0)
    later = AT_MOST_EVERY_S
    assert use.reason(200 * MIB, busy=3, now=later - 0.1) is None
    assert use.reason(200 * MIB, busy=3, now=later) == "grown by 100 MiB"
    assert use.reason(120 * MIB, busy=3, now=later) is None
    assert use.reason(120 * MIB, busy=0, now=later) == "idle, and grown by 20 MiB"
    assert use.reason(102 * MIB, busy=0, now=later) is None


def test_memory_in_use_is_not_collected_again_and_again() -> None:
    use = MemoryUse(after_bytes=100 * MIB, collected_at=0.0)
    use.collected(900 * MIB, busy=1, now=10.0)
    assert use.reason(1000 * MIB, busy=1, now=100.0) is None
    assert use.reason(1200 * MIB, busy=1, now=100.0) is not None


def test_memory_that_requests_freed_after_a_collection_is_returned_once_the_node_is_idle() -> None:
    """A collection among open streams frees little; nothing grows afterwards, and their memory would stay."""
    use = MemoryUse(after_bytes=50 * MIB, collected_at=0.0)
    use.collected(100 * MIB, busy=40, now=10.0)
    assert use.reason(100 * MIB, busy=1, now=20.0) is None
    assert use.reason(100 * MIB, busy=0, now=10.0 + AT_MOST_EVERY_S) == "idle, and not at the last time"
    use.collected(60 * MIB, busy=0, now=20.0)
    assert use.reason(60 * MIB, busy=0, now=100.0) is None
