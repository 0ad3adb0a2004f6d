"""When a peer may be connected to again."""

from __future__ import annotations

import pytest

from node_agent.core.replication import reconnects
from node_agent.core.replication.reconnects import RECONNECT_BACKOFF, STEADY_S, ReconnectBackoff


def test_a_peer_that_accepts_and_closes_is_reconnected_ever_less_often() -> None:
    peers, now, tries = ReconnectBackoff(), 0.0, 0
    while now < 60.0:
        if peers.may_connect("i-1", now):
            tries += 1
            peers.ended("i-1", now, worked_s=0.0, chance=0.5)
        now += 0.01
    assert tries < 15
    assert RECONNECT_BACKOFF.max_s < 60.0, "and never given up"


@pytest.mark.parametrize(("worked_s", "waits"), [(0.0, True), (STEADY_S / 2, True), (STEADY_S, False)])
def test_only_a_connection_that_worked_for_some_time_is_reopened_at_once(worked_s: float, waits: bool) -> None:
    peers = ReconnectBackoff()
    peers.ended("i-1", 10.0, worked_s=worked_s, chance=0.0)
    assert peers.may_connect("i-1", 10.0) is not waits


def test_a_connection_that_worked_resets_the_delays_of_its_peer_alone() -> None:
    peers = ReconnectBackoff()
    for _ in range(10):
        peers.ended("i-1", 0.0, worked_s=0.0, chance=0.999)
    assert peers.may_connect("i-2", 0.0)
    assert not peers.may_connect("i-1", RECONNECT_BACKOFF.max_s / 2)
    peers.ended("i-1", 0.0, worked_s=60.0, chance=0.0)
    peers.ended("i-1", 0.0, worked_s=0.0, chance=0.0)
    assert peers.may_connect("i-1", RECONNECT_BACKOFF.first_s)


def test_the_number_of_tracked_peers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnects, "_MAX_PEERS", 10)
    peers = ReconnectBackoff()
    for number in range(1_000):
        peers.ended(f"i-{number}", float(number * 60), worked_s=0.0, chance=0.5)
    assert len(peers._failures) <= 11
