"""Test signatures between nodes whose clocks differ, and the verdict on one's own clock. No clock runs here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.common.cluster_keys import ClusterKey, cluster_key
from node_agent.core.common.request_auth import MAX_SKEW_S, ReceiverClock, Refusal, Rejected, RequestVerifier
from node_agent.core.node.peer_clocks import (
    ALLOWED_S,
    MAX_PEERS,
    MAX_ROUND_S,
    RIGHT,
    OwnClock,
    PeerClocks,
    judge_own_clock,
)
from node_agent.core.node.request_signer import PeerName, RequestSigner, SignedRequest

KEY, T0, CONTENT = cluster_key(b"key"), 1_800_000_000.0, "POST /peer/v1/take body"
PEER = "peer:1"


def verifier(run: str = "d1") -> RequestVerifier:
    return RequestVerifier("i-peer", run, lambda *_: KEY)


def signer(clocks: PeerClocks, run: str | None = "d1", key: ClusterKey | Refusal = KEY) -> RequestSigner:
    """A node to which gossip has named the peer. run: the boot id that gossip has."""
    return RequestSigner("i-own", lambda _: key, lambda at: PeerName("i-peer", run) if at == PEER else None, clocks)


def signed(by: RequestSigner, now: float, nonce: str, *, is_retry: bool = False) -> SignedRequest:
    request = by.sign(PEER, CONTENT, now, nonce, is_retry=is_retry)
    assert isinstance(request, SignedRequest)
    return request


def send(
    by: RequestSigner, to: RequestVerifier, now: float, door_now: float, nonce: str, *, is_retry: bool = False
) -> Refusal | None:
    """Send one message as a node does; a rejection's clock is recorded."""
    request = signed(by, now, nonce, is_retry=is_retry)
    result = to.verify(request.header, CONTENT, door_now)
    if not isinstance(result, Rejected):
        return None
    if result.clock is not None:
        assert by.record_clock(PEER, result.clock, request, 0.01, now)
    return result.reason


@pytest.mark.parametrize("skew_s", [60.0, -45.0, 3600.0, -86_400.0, 1e9])
def test_a_skew_is_measured_at_the_first_refusal_and_compensated_from_then_on(skew_s: float) -> None:
    clocks, door = PeerClocks(), verifier()
    by = signer(clocks)
    assert send(by, door, T0, T0 + skew_s, "n0") is Refusal.WRONG_TIME
    for number in range(1, 4):
        now = T0 + 3600 * number
        assert send(by, door, now, now + skew_s, f"n{number}") is None
    assert clocks.ahead_s(PEER) == pytest.approx(skew_s, abs=0.1)


@pytest.mark.parametrize("skew_s", [0.0, 9.0, -9.0])
def test_small_differences_are_not_compensated(skew_s: float) -> None:
    clocks = PeerClocks()
    assert send(signer(clocks), verifier(), T0, T0 + skew_s, "n") is None
    clocks.record(PEER, ReceiverClock(T0 + skew_s, "d1"), 0.0, T0)
    assert clocks.time_at(PEER, T0) == T0


def test_a_peer_whose_clock_jumps_is_measured_again() -> None:
    clocks, door = PeerClocks(), verifier()
    for step, door_ahead_s in enumerate((60.0, -45.0, 0.0, 7200.0)):
        assert send(signer(clocks), door, T0, T0 + door_ahead_s, f"a{step}") is Refusal.WRONG_TIME
        assert send(signer(clocks), door, T0, T0 + door_ahead_s, f"b{step}") is None


def test_a_message_in_the_time_of_a_clock_that_runs_ahead_is_valid_nowhere_else_and_not_later() -> None:
    clocks, ahead = PeerClocks(), verifier()
    by = signer(clocks)
    send(by, ahead, T0, T0 + 3600, "n0")
    recording = signed(by, T0, "n1").header

    def why(door: RequestVerifier, now: float) -> Refusal | None:
        result = door.verify(recording, CONTENT, now)
        return result.reason if isinstance(result, Rejected) else None

    assert why(ahead, T0 + 3600) is None
    assert why(ahead, T0 + 3601) is Refusal.REPEATED
    assert why(ahead, T0 + 3600 + 2.1 * MAX_SKEW_S) is Refusal.WRONG_TIME
    assert why(verifier("d3"), T0 + 3600) is Refusal.OTHER_RUN, "after a restart"
    other = RequestVerifier("i-other", "d1", lambda *_: KEY)
    assert why(other, T0 + 3600) is Refusal.OTHER_RECEIVER


def test_a_member_gets_the_first_request_right_and_a_peer_of_the_tags_alone_the_second() -> None:
    assert send(signer(PeerClocks(), "d1"), verifier("d1"), T0, T0, "n0") is None
    clocks = PeerClocks()
    assert send(signer(clocks, None), verifier("d1"), T0, T0, "n0") is Refusal.OTHER_RUN
    assert send(signer(clocks, None), verifier("d1"), T0, T0, "n1") is None


def test_a_restarted_peer_at_the_same_address_is_measured_anew() -> None:
    clocks = PeerClocks()
    send(signer(clocks), verifier("d1"), T0, T0 + 3600, "n0")
    after = verifier("d2")
    assert send(signer(clocks), after, T0, T0, "n1") is Refusal.OTHER_RUN
    assert send(signer(clocks), after, T0, T0, "n2", is_retry=True) is None
    assert clocks.time_at(PEER, T0) == T0


def test_nothing_is_signed_for_a_node_that_is_not_named_or_shares_no_key() -> None:
    assert signer(PeerClocks()).sign("elsewhere:1", CONTENT, T0, "n") is Refusal.UNKNOWN_NODE
    assert signer(PeerClocks(), key=Refusal.SHUT_OUT).sign(PEER, CONTENT, T0, "n") is Refusal.SHUT_OUT


def test_a_clock_of_another_key_or_of_another_answer_is_not_recorded() -> None:
    clocks = PeerClocks()
    by = signer(clocks)
    request, other = signed(by, T0, "n"), signed(by, T0, "m")
    foreign = signed(signer(clocks, key=cluster_key(b"x")), T0, "n")
    result = verifier().verify(request.header, CONTENT, T0 + 60)
    assert isinstance(result, Rejected)
    assert result.clock is not None
    for changed, to in ((result.clock.replace("d1", "d2"), request), (result.clock, other), (result.clock, foreign)):
        assert not by.record_clock(PEER, changed, to, 0.01, T0)
    assert clocks.ahead_s(PEER) is None
    assert by.record_clock(PEER, result.clock, request, 0.01, T0)


@pytest.mark.parametrize("took_s", [MAX_ROUND_S + 0.1, -0.1, float("nan")])
def test_an_answer_that_took_long_measures_no_clock(took_s: float) -> None:
    assert not PeerClocks().record(PEER, ReceiverClock(T0 + 60, "d1"), took_s, T0)


def test_half_of_the_round_trip_is_allowed_for() -> None:
    clocks = PeerClocks()
    assert clocks.record(PEER, ReceiverClock(T0 + 60, "d1"), 2.0, T0)
    assert clocks.ahead_s(PEER) == 61.0


def test_the_number_of_measured_clocks_is_bounded() -> None:
    clocks = PeerClocks()
    for number in range(MAX_PEERS + 10):
        assert clocks.record(f"peer:{number}", ReceiverClock(T0, "d"), 0.0, T0)
    assert clocks.ahead_s("peer:9") is None
    assert clocks.ahead_s("peer:10") == 0.0


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
