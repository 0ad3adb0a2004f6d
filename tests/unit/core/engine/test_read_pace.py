"""Test the pace of a response that pauses, and since when it is silent."""

from __future__ import annotations

import pytest

from node_agent.core.engine.read_pace import ReadPace


@pytest.mark.parametrize(("reads", "expected"), [(0, None), (3, None), (4, 1.0), (7, 0.5)])
def test_a_pace_needs_a_few_reads(reads: int, expected: float | None) -> None:
    assert ReadPace().time_per_read_s(reads, 10.0, 13.0) == expected


def test_pauses_are_no_part_of_the_pace() -> None:
    pace = ReadPace()
    for at in (11.0, 113.0):
        pace.pause(at)
        pace.pause(at + 1.0)  # a second time changes nothing
        assert pace.is_paused
        pace.resume(at + 100.0, first_read_at=10.0)
        pace.resume(at + 150.0, first_read_at=10.0)
        assert not pace.is_paused
    assert pace.time_per_read_s(5, 10.0, 214.0) == 1.0


def test_a_pause_counts_from_the_first_read_on() -> None:
    pace = ReadPace()
    pace.pause(0.0)
    pace.resume(100.0, first_read_at=90.0)
    assert pace.time_per_read_s(5, 90.0, 104.0) == 1.0
    waits = ReadPace()
    waits.pause(0.0)
    waits.resume(100.0, first_read_at=0.0)
    assert waits.time_per_read_s(5, 101.0, 105.0) == 1.0


def test_reads_that_were_under_way_at_a_pause_make_no_negative_pace() -> None:
    pace = ReadPace()
    pace.pause(10.0)
    pace.resume(100.0, first_read_at=10.0)
    assert pace.time_per_read_s(5, 10.0, 11.0) == 0.0


def test_a_response_is_silent_from_its_last_read_or_its_resumption() -> None:
    pace = ReadPace()
    assert pace.silent_from(5.0) == 5.0
    pace.pause(6.0)
    pace.resume(60.0, first_read_at=1.0)
    assert (pace.silent_from(5.0), pace.silent_from(61.0)) == (60.0, 61.0)
    assert pace.silent_from(0.0) == 0.0, "never sent"
