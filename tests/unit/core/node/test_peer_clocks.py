"""Test signatures between nodes whose clocks differ, and the verdict on one's own clock. No clock runs here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.common.request_auth import (
    CLOCK_ERRORS,
    MAX_SKEW_S,
    WRONG_AUDIENCE,
    WRONG_TIME,
    RequestVerifier,
    nonce_of,
    read_clock,
    sign,
    sign_clock,
)
from node_agent.core.node.peer_clocks import (
    ALLOWED_S,
    MAX_PEERS,
    MAX_ROUND_S,
    RIGHT,
    OwnClock,
    PeerClocks,
    judge_own_clock,
)

KEY, T0 = b"key", 1_800_000_000.0
WHAT = ("POST", "/peer/v1/take", b"body")


def send(clocks: PeerClocks, verifier: RequestVerifier, now: float, door_now: float, nonce: str) -> str | None:
    """Send one message as a node does; a rejection's clock is recorded."""
    stamp = clocks.sign("peer:1", *WHAT, now, nonce)
    why = verifier.rejection_reason(stamp, *WHAT, door_now)
    if why in CLOCK_ERRORS:
        assert clocks.record("peer:1", verifier.signed_clock(stamp, door_now), nonce, 0.01, now)
    return why


@pytest.mark.parametrize("skew_s", [60.0, -45.0, 3600.0, -86_400.0, 1e9])
def test_a_skew_is_measured_at_the_first_refusal_and_compensated_from_then_on(skew_s: float) -> None:
    clocks, verifier = PeerClocks(KEY), RequestVerifier(KEY, audience="d1")
    assert send(clocks, verifier, T0, T0 + skew_s, "n0") == WRONG_TIME
    for number in range(1, 4):
        now = T0 + 3600 * number
        assert send(clocks, verifier, now, now + skew_s, f"n{number}") is None
    assert clocks.ahead_s("peer:1") == pytest.approx(skew_s, abs=0.1)


@pytest.mark.parametrize("skew_s", [0.0, 9.0, -9.0])
def test_small_differences_are_not_compensated(skew_s: float) -> None:
    clocks, verifier = PeerClocks(KEY), RequestVerifier(KEY, audience="d1")
    assert send(clocks, verifier, T0, T0 + skew_s, "n") is None
    clocks.record("peer:1", sign_clock(KEY, "d1", T0 + skew_s, "n"), "n", 0.0, T0)
    assert clocks.sign("peer:1", *WHAT, T0, "m").startswith("v1 "), "any door of the fleet takes it"


def test_a_peer_whose_clock_jumps_is_measured_again() -> None:
    clocks, verifier = PeerClocks(KEY), RequestVerifier(KEY, audience="d1")
    for step, door_ahead_s in enumerate((60.0, -45.0, 0.0, 7200.0)):
        assert send(clocks, verifier, T0, T0 + door_ahead_s, f"a{step}") == WRONG_TIME
        assert send(clocks, verifier, T0, T0 + door_ahead_s, f"b{step}") is None


def test_a_replayed_time_is_refused_by_every_peer() -> None:
    """A message that is signed in the time of a node an hour ahead is in the future for all others."""
    clocks, ahead, right = PeerClocks(KEY), RequestVerifier(KEY, audience="d1"), RequestVerifier(KEY, audience="d2")
    send(clocks, ahead, T0, T0 + 3600, "n0")
    recording = clocks.sign("peer:1", *WHAT, T0, "n1")
    assert ahead.rejection_reason(recording, *WHAT, T0 + 3600) is None
    assert ahead.rejection_reason(recording, *WHAT, T0 + 3601) == "seen before"
    assert ahead.rejection_reason(recording, *WHAT, T0 + 3600 + 2.1 * MAX_SKEW_S) == WRONG_TIME
    assert right.rejection_reason(recording, *WHAT, T0 + 3600) == WRONG_AUDIENCE
    assert RequestVerifier(KEY, audience="d3").rejection_reason(recording, *WHAT, T0 + 3600) == WRONG_AUDIENCE, (
        "after a restart"
    )


def test_a_restarted_peer_at_the_same_address_is_measured_anew() -> None:
    clocks = PeerClocks(KEY)
    send(clocks, RequestVerifier(KEY, audience="d1"), T0, T0 + 3600, "n0")
    after = RequestVerifier(KEY, audience="d2")
    assert send(clocks, after, T0, T0, "n1") == WRONG_AUDIENCE
    assert send(clocks, after, T0, T0, "n2") is None
    assert not clocks.is_off("peer:1")


@pytest.mark.parametrize(
    "line",
    [
        sign_clock(b"another key", "d1", T0 + 60, "n"),
        sign_clock(KEY, "d1", T0 + 60, "an older nonce"),
        sign_clock(KEY, "d1", T0 + 60, "n").replace("d1", "d2"),
        sign_clock(KEY, "d1", T0 + 60, "n").replace("v1 ", "v1 1"),
        "", "v1", "v1 x d1 y", "v1 ٣ d1 y", "v1 " + "9" * 5000 + " d1 y", "v2 1 d1 y", "v1 1 d1 y z", "v1 1  y", "\xff",
    ],
)  # fmt: skip
def test_only_the_newest_answer_of_the_same_peer_moves_its_clock(line: str) -> None:
    clocks = PeerClocks(KEY)
    assert not clocks.record("peer:1", line, "n", 0.01, T0)
    assert clocks.ahead_s("peer:1") is None


@given(st.text(max_size=80))
def test_an_invalid_header_is_a_refusal_or_absent_and_raises_nothing(text: str) -> None:
    assert RequestVerifier(KEY).rejection_reason(text, *WHAT, T0) == "no signature" or " " in text
    assert read_clock(KEY, text, "n") is None


@pytest.mark.parametrize("took_s", [MAX_ROUND_S + 0.1, -0.1, float("nan")])
def test_an_answer_that_took_long_measures_no_clock(took_s: float) -> None:
    assert not PeerClocks(KEY).record("peer:1", sign_clock(KEY, "d1", T0 + 60, "n"), "n", took_s, T0)


def test_half_of_the_round_trip_is_allowed_for() -> None:
    clocks = PeerClocks(KEY)
    assert clocks.record("peer:1", sign_clock(KEY, "d1", T0 + 60, "n"), "n", 2.0, T0)
    assert clocks.ahead_s("peer:1") == 61.0


def test_the_number_of_measured_clocks_is_bounded() -> None:
    clocks = PeerClocks(KEY)
    for number in range(MAX_PEERS + 10):
        assert clocks.record(f"peer:{number}", sign_clock(KEY, "d", T0, "n"), "n", 0.0, T0)
    assert clocks.ahead_s("peer:9") is None
    assert clocks.ahead_s("peer:10") == 0.0


def test_stamps_of_both_kinds_have_their_nonce() -> None:
    assert nonce_of(sign(KEY, *WHAT, T0, "n")) == nonce_of(sign(KEY, *WHAT, T0, "n", "d1")) == "n"


# whose clock is off


@pytest.mark.parametrize(
    ("ahead_s", "wall_ahead_s", "off_s", "is_off"),
    [
        ([], 0.0, 0.0, False),
        ([60.0], 0.0, -60.0, False),  # one peer alone: either of the two clocks may be right
        ([60.0, 60.5], 0.0, -60.0, True),
        ([-45.0, -45.5, 0.0], 0.0, 45.0, True),
        ([0.0, 60.0], 0.0, 0.0, False),  # as the right ones see the skewed one
        ([0.0, 0.2, 60.0, 60.2], 0.0, -0.2, False),  # two halves of a fleet: nobody is accused
        ([60.0, -60.0], 0.0, 60.0, False),  # they do not agree with each other
        ([60.0, -60.0, 300.0], 0.0, -60.0, False),
        ([20.0, 21.0], 0.0, -20.0, False),
        ([0.0, 0.1], 90.0, 90.0, True),  # its wall clock jumped, after its start
        ([-90.0, -90.1], -90.0, 0.0, False),  # and here it was set right
    ],
)
def test_a_clock_is_off_where_several_peers_agree_on_another(
    ahead_s: list[float], wall_ahead_s: float, off_s: float, is_off: bool
) -> None:
    own = judge_own_clock(ahead_s, wall_ahead_s, RIGHT)
    assert own.is_off is is_off
    assert own.off_s == pytest.approx(off_s, abs=1.0)


def test_a_clock_near_the_bound_does_not_flap() -> None:
    off = judge_own_clock([31.0, 31.0], 0.0, RIGHT)
    assert off.is_off
    assert judge_own_clock([29.0, 29.0], 0.0, off).is_off
    assert not judge_own_clock([19.0, 19.0], 0.0, off).is_off
    assert not judge_own_clock([29.0, 29.0], 0.0, RIGHT).is_off


@given(st.lists(st.floats(-1e6, 1e6), max_size=12), st.floats(-1e6, 1e6))
def test_peers_that_agree_within_the_tolerance_never_fault_a_right_clock(
    ahead_s: list[float], wall_ahead_s: float
) -> None:
    own = judge_own_clock(ahead_s, wall_ahead_s, RIGHT)
    assert isinstance(own, OwnClock)
    if own.is_off:
        assert 2 * own.agreeing > own.measured >= 2
    if all(abs(one) <= ALLOWED_S for one in ahead_s) and abs(wall_ahead_s) <= ALLOWED_S:
        assert not own.is_off
