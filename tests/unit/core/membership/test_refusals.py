"""Refused contents: spread to all and to newcomers, bounded, expiring, and accepted from members only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.membership import LocalRefusalAdded
from node_agent.core.membership.refusals import MAX_DURATION_S, MAX_REBROADCAST, Refusals
from node_agent.core.membership.wire.updates import Refusal, read_updates, write_refusal
from sim.host import Host
from tests.scenarios.fleets import stable_fleet

CONTENT = b"c" * 16


def refuses(host: Host) -> bool:
    return host.membership.stats["refusals"] == 1


@pytest.mark.parametrize("count", [3, 40])
def test_a_refusal_spreads_to_all_nodes_within_seconds_and_expires(count: int) -> None:
    fleet = stable_fleet(count)
    hosts = fleet.running()
    hosts[0].handle(LocalRefusalAdded(hosts[0].clock, CONTENT, 60.0))
    fleet.pass_time(3)
    assert all(map(refuses, hosts))
    fleet.pass_time(70)
    assert not any(map(refuses, hosts))


def test_a_newcomer_gets_the_refusal_too() -> None:
    fleet = stable_fleet(5)
    host = fleet.running()[0]
    host.handle(LocalRefusalAdded(host.clock, CONTENT, 600.0))
    fleet.pass_time(60)
    (newcomer,) = fleet.boot()
    fleet.pass_time(30)
    assert refuses(newcomer)


def test_a_known_refusal_is_no_change_and_a_renewed_one_is() -> None:
    held = Refusals()
    assert held.add(CONTENT, 60.0, 0.0)
    assert not held.add(CONTENT, 59.0, 1.0)
    assert held.add(CONTENT, 60.0, 30.0)
    assert [left for _, left in held.sample(31.0, 0.0)] == [59.0]
    assert held.sample(95.0, 0.0) == []
    assert not held.add(CONTENT, 0.0, 100.0)


UPDATES = st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.floats(-1e9, 1e9), st.floats(0, 1e6)))


@given(UPDATES, st.floats(0, 0.999))
def test_the_table_is_bounded_whatever_peers_send(updates: list[tuple[bytes, float, float]], draw: float) -> None:
    held, now = Refusals(capacity=4), 0.0
    for content, left_s, later in updates:
        now += later
        held.add(content, left_s, now)
        assert len(held) <= 4
        assert all(0 < left <= MAX_DURATION_S + 1e-6 for _, left in held.sample(now, draw))


def test_few_refusals_are_rebroadcast_at_a_time() -> None:
    held = Refusals()
    for number in range(40):
        held.add(number.to_bytes(16), 60.0, 0.0)
    assert len(held.sample(1.0, 0.99)) == MAX_REBROADCAST


def test_a_refusal_round_trips_and_a_short_one_is_an_error() -> None:
    written = write_refusal(CONTENT, 600.4)
    assert list(read_updates(written, 0)) == [Refusal(CONTENT, 600)]
    assert list(read_updates(write_refusal(CONTENT, 1e9), 0)) == [Refusal(CONTENT, 0xFFFF)]
    short = written[:1] + (3).to_bytes(2) + b"abc"
    with pytest.raises(ValueError, match="update 7"):
        list(read_updates(short, 0))
