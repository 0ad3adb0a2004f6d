"""How a viewer is paced: it never has more than one snapshot to read, and is dropped when it reads none."""

from __future__ import annotations

from node_agent.core.snapshot.viewers import MAX_SKIPPED, ViewerPace, ViewerStep


def test_a_viewer_that_reads_receives_each_snapshot() -> None:
    pace = ViewerPace()
    assert {pace.next_step(is_congested=False) for _ in range(100)} == {ViewerStep.SEND}


def test_one_that_lags_misses_some_and_one_that_does_not_read_is_dropped() -> None:
    pace = ViewerPace()
    assert [pace.next_step(is_congested=True) for _ in range(MAX_SKIPPED)] == [ViewerStep.SKIP] * MAX_SKIPPED
    assert pace.next_step(is_congested=False) is ViewerStep.SEND, "it has caught up"
    assert [pace.next_step(is_congested=True) for _ in range(MAX_SKIPPED)] == [ViewerStep.SKIP] * MAX_SKIPPED
    assert pace.next_step(is_congested=True) is ViewerStep.DROP
