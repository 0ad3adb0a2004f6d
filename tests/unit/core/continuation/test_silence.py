"""Test the silence of engines: its timeout follows the prompt, then the pace; only an overtaken stream is lost."""

from __future__ import annotations

import pytest

from node_agent.core.continuation.silence import SilenceDetector
from node_agent.core.continuation.timeouts import (
    FIRST_TOKEN_S,
    MIN_INTER_TOKEN_S,
    first_token_timeout_s,
    keepalive_interval_s,
)


def begun(seq: int = 0) -> SilenceDetector:
    silence = SilenceDetector(MIN_INTER_TOKEN_S)
    silence.begin(seq, 0)
    return silence


def test_until_the_first_token_the_timeout_follows_the_size_of_the_request() -> None:
    silence = SilenceDetector(MIN_INTER_TOKEN_S)
    assert silence.begin(0, 64 * 1024) == silence.timeout_s == first_token_timeout_s(64 * 1024) > FIRST_TOKEN_S


def test_there_is_no_pace_before_the_second_token() -> None:
    silence = begun()
    assert silence.observe(1, 10.0) is None
    assert silence.observe(2, 10.5) == 4.0


def test_the_time_before_an_engine_began_does_not_count_for_its_pace() -> None:
    silence = begun()
    silence.observe(1, 10.0)
    silence.observe(2, 10.5)
    silence.begin(2, 0)
    assert silence.observe(3, 60.0) == 4.0, "the pace so far; the pause is no part of it"


def test_the_pace_counts_each_of_the_events_between_two_looks() -> None:
    silence = begun()
    silence.observe(1, 10.0)
    assert silence.observe(5, 12.0) == 4.0, "half a second for each"


def test_looks_are_often_at_first_and_then_seldom() -> None:
    silence, looks = begun(), []
    while silence.next_look < 300:
        looks.append(silence.next_look)
        silence.observe(silence.next_look, 1.0)
    assert looks == [1, 2, 4, 8, 16, 32, 64, 128, 192, 256]


def test_the_next_engine_is_looked_at_from_its_first_event() -> None:
    assert begun(seq=41).next_look == 42


def test_a_stream_that_is_not_overtaken_is_never_lost_for_its_silence() -> None:
    silence = begun()
    assert not any(silence.on_keepalive(float(second), is_overtaken=False) for second in range(1, 3_600))


def test_a_stream_that_is_overtaken_is_lost_once_its_timeout_has_passed() -> None:
    silence = begun()
    silence.timeout_s = 2.0
    interval_s = keepalive_interval_s(MIN_INTER_TOKEN_S)
    lost = [silence.on_keepalive(10.0 + number * interval_s, is_overtaken=True) for number in range(5)]
    assert lost == [False, False, False, True, True]
    assert silence.silent_since == pytest.approx(10.0 - interval_s), "an interval had passed before the first one"


def test_a_token_ends_the_silence() -> None:
    silence = begun()
    silence.timeout_s = 2.0
    silence.on_keepalive(10.0, is_overtaken=True)
    silence.silent_since = 0.0
    assert not silence.on_keepalive(60.0, is_overtaken=True)
