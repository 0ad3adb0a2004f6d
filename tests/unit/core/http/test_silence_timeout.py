"""Test when the other side of an exchange has been silent for too long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.http.silence_timeout import GRACE_S, SilenceTimeout


@pytest.mark.parametrize(
    ("accept_s", "keepalive_s", "sends_keepalives", "before", "after"),
    [
        (None, None, False, 60.0, 60.0),
        (2.0, None, False, 2.0, 60.0),
        (2.0, 5.0, True, 2.0, 5.0),
        (None, 5.0, False, 60.0, 60.0),
        (None, 5.0, True, 5.0, 5.0),
        (None, 90.0, True, 60.0, 60.0),
        (None, None, True, 60.0, 60.0),
    ],
)
def test_the_timeout_before_and_after_the_first_bytes(
    accept_s: float | None, keepalive_s: float | None, sends_keepalives: bool, before: float, after: float
) -> None:
    timeout = SilenceTimeout(60.0, accept_s, keepalive_s, sends_keepalives)
    assert timeout.allowed_s() == before
    timeout.on_first_bytes()
    assert timeout.allowed_s() == after


def test_the_first_bytes_may_change_the_timeout() -> None:
    assert not SilenceTimeout(60.0).on_first_bytes()
    assert SilenceTimeout(60.0, accept_timeout_s=2.0).on_first_bytes()
    assert SilenceTimeout(60.0, keepalive_timeout_s=5.0, sends_keepalives=True).on_first_bytes()


def test_a_check_that_is_early_waits_for_the_rest() -> None:
    timeout = SilenceTimeout(10.0)
    assert timeout.next_check_s(104.0, 100.0, is_paused=False) == 6.0
    assert timeout.next_check_s(110.0 - 1e-9, 100.0, is_paused=False) == 0.001, "never a busy loop"


def test_an_elapsed_timeout_is_checked_a_second_time() -> None:
    timeout = SilenceTimeout(10.0)
    assert timeout.next_check_s(110.0, 100.0, is_paused=False) == GRACE_S
    assert timeout.next_check_s(110.25, 100.0, is_paused=False) is None


def test_the_second_check_of_a_short_timeout_comes_soon() -> None:
    assert SilenceTimeout(0.2).next_check_s(100.3, 100.0, is_paused=False) == 0.05


def test_bytes_between_the_two_checks_begin_a_new_silence() -> None:
    timeout = SilenceTimeout(10.0)
    timeout.next_check_s(110.0, 100.0, is_paused=False)
    assert timeout.next_check_s(110.5, 110.25, is_paused=False) == 9.75
    assert timeout.next_check_s(120.25, 110.25, is_paused=False) == GRACE_S, "it too is checked a second time"
    assert timeout.next_check_s(120.5, 110.25, is_paused=False) is None


def test_a_pause_is_no_silence() -> None:
    timeout = SilenceTimeout(10.0)
    for now in (110.0, 120.0, 500.0):
        assert timeout.next_check_s(now, 100.0, is_paused=True) == 10.0
    assert timeout.next_check_s(500.0, 499.0, is_paused=False) == 9.0


@given(
    st.floats(0.01, 100.0),
    st.lists(st.floats(0.0, 200.0), max_size=20).map(sorted),
)
def test_a_silence_counts_not_before_its_timeout_and_not_long_after(read_s: float, reads: list[float]) -> None:
    timeout, now, silent_since = SilenceTimeout(read_s), 0.0, 0.0
    wait_s: float | None = read_s
    while wait_s is not None:
        now += wait_s
        silent_since = max([0.0, *(at for at in reads if at <= now)])
        wait_s = timeout.next_check_s(now, silent_since, is_paused=False)
        assert wait_s is None or wait_s > 0
    assert now - silent_since >= read_s
    assert now - silent_since <= read_s + GRACE_S + 0.002
