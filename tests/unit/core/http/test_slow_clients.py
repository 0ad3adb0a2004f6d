"""Test when a client is too slow, at sending a request and at reading what it is sent."""

from __future__ import annotations

from node_agent.core.http.slow_clients import READ_PROGRESS_BYTES, RequestArrival, UnreadOutput

STALLED_S, STALLED_BYTES = 20.0, 4_096


def is_overdue(arrival: RequestArrival, now: float, body_bytes: int, max_s: float = 600.0) -> bool:
    return arrival.is_overdue(now, body_bytes, max_s=max_s, stalled_s=STALLED_S, stalled_bytes=STALLED_BYTES)


# sending


def test_a_request_has_a_bounded_time_whatever_arrives() -> None:
    arrival = RequestArrival(100.0)
    for now in range(100, 700, 10):
        assert not is_overdue(arrival, float(now), (now - 100) * 1_000_000)
    assert not is_overdue(arrival, 700.0, 600_000_000)
    assert is_overdue(arrival, 700.1, 700_000_000)


def test_a_head_has_less_time_than_a_request() -> None:
    assert is_overdue(RequestArrival(100.0), 120.1, 0, max_s=20.0)
    assert not is_overdue(RequestArrival(100.0), 119.9, 0, max_s=20.0)


def test_a_body_that_arrives_in_time_may_be_slow() -> None:
    arrival = RequestArrival(100.0)
    for seconds in range(1, 500):
        assert not is_overdue(arrival, 100.0 + seconds, seconds * 205)


def test_a_body_that_stalls_is_overdue() -> None:
    arrival = RequestArrival(100.0)
    assert not is_overdue(arrival, 120.0, 0), "it has all of its time"
    assert is_overdue(arrival, 121.0, STALLED_BYTES - 1)


def test_each_period_needs_its_own_bytes() -> None:
    arrival = RequestArrival(100.0)
    assert not is_overdue(arrival, 121.0, 1_000_000)
    assert not is_overdue(arrival, 141.0, 1_000_000)
    assert is_overdue(arrival, 142.0, 1_000_000 + STALLED_BYTES - 1)


# reading


def test_a_client_that_reads_nothing_is_overdue() -> None:
    output = UnreadOutput(100.0, 1_000_000)
    assert not output.is_overdue(220.0, 1_000_000, 120.0)
    assert output.is_overdue(220.1, 1_000_000, 120.0)


def test_a_client_that_reads_a_little_in_time_is_not_overdue() -> None:
    output, size = UnreadOutput(0.0, 10_000_000), 10_000_000
    for now in range(15, 3_000, 15):
        size -= READ_PROGRESS_BYTES // 4
        assert not output.is_overdue(float(now), size, 60.0)


def test_what_is_added_to_the_output_is_no_progress() -> None:
    output = UnreadOutput(0.0, 100_000)
    assert not output.is_overdue(10.0, 900_000, 60.0)
    assert not output.is_overdue(20.0, 900_000 - READ_PROGRESS_BYTES + 1, 60.0)
    assert output.is_overdue(60.1, 900_000, 60.0)


def test_progress_is_counted_from_the_most_that_lay_there() -> None:
    output = UnreadOutput(0.0, 100_000)
    output.is_overdue(10.0, 900_000, 60.0)
    assert not output.is_overdue(60.0, 900_000 - READ_PROGRESS_BYTES, 60.0)
    assert not output.is_overdue(120.0, 900_000, 60.0)
    assert output.is_overdue(120.1, 900_000, 60.0)
