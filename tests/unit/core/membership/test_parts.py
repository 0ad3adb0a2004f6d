"""Membership's parts, each by its own rules: suspicion, health, lived time, replay window, rumours."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.states import NodeState
from node_agent.core.membership.active_clock import MAX_LATE_S, ActiveClock
from node_agent.core.membership.broadcast_queue import (
    LOAD_TRANSMITS,
    MAX_LOADS_PER_UPDATE,
    BroadcastQueue,
    LoadQueue,
    retransmit_limit,
)
from node_agent.core.membership.local_health import MAX_SCORE, LocalHealth
from node_agent.core.membership.outbound import LocalNode
from node_agent.core.membership.replay_window import WIDTH, ReplayWindow
from node_agent.core.membership.suspicion import (
    MAX_SUSPECTORS,
    Suspicion,
    max_timeout_s,
    min_timeout_s,
    target_confirmations,
    timeout_s,
)
from node_agent.core.membership.timers import NEVER, Timers
from node_agent.core.membership.wire.loads import read_loads, write_load
from node_agent.core.membership.wire.updates import Alive, Loads, read_updates
from node_agent.core.node.status import IDLE
from sim.fleet import status_of


def boot_id(number: int) -> bytes:
    return number.to_bytes(6, "big")


# suspicion


@pytest.mark.parametrize(
    ("confirmations", "wanted", "seconds"),
    [(0, 3, 6.0), (1, 3, 4.0), (2, 3, 2.83), (3, 3, 2.0), (9, 3, 2.0), (0, 0, 2.0)],
)
def test_each_confirmation_shortens_a_suspicion_the_first_one_most(
    confirmations: int, wanted: int, seconds: float
) -> None:
    assert timeout_s(confirmations, wanted, 2.0, 6.0) == pytest.approx(seconds, abs=0.01)


def test_a_suspicion_lasts_longer_in_a_larger_fleet_but_only_by_the_logarithm() -> None:
    assert min_timeout_s(1) < min_timeout_s(10) < min_timeout_s(1_000) < 2 * min_timeout_s(10)
    assert max_timeout_s(10) == 3 * min_timeout_s(10)
    assert [target_confirmations(nodes) for nodes in (1, 2, 3, 4, 5, 1000)] == [0, 0, 1, 2, 3, 3]


def test_accusers_count_once_and_up_to_a_limit() -> None:
    suspicion = Suspicion(frozenset((boot_id(1),)), began=10.0, nodes=1000)
    longest = suspicion.ends_at
    assert not suspicion.confirm(frozenset((boot_id(1),)))
    assert suspicion.confirm(frozenset((boot_id(2),)))
    assert suspicion.ends_at < longest
    assert suspicion.confirm(frozenset(map(boot_id, range(3, 9))))
    assert len(suspicion.suspectors) == MAX_SUSPECTORS
    assert suspicion.ends_at == 10.0 + min_timeout_s(1000)
    assert not suspicion.confirm(frozenset((boot_id(77),)))


# health and time


def test_the_health_score_has_bounds_and_timeouts_grow_with_it() -> None:
    health = LocalHealth()
    health.decrease()
    assert (health.score, health.timeout_multiplier) == (0, 1.0)
    for _ in range(50):
        health.increase()
    assert health.score == MAX_SCORE
    assert health.timeout_multiplier == 1.0 + MAX_SCORE


def test_time_during_which_the_process_stood_still_does_not_count() -> None:
    time = ActiveClock(100.0)
    assert time.advance(101.0, due=1.0) == 0.0
    assert time.now == 1.0
    assert time.advance(3701.0, due=2.0) == pytest.approx(3600.0 - 1.0 - MAX_LATE_S)  # an hour, of which 1 s was due
    assert time.now == 2.0 + MAX_LATE_S
    assert time.advance(50.0, due=3.0) == 0.0  # the clock was set back
    assert time.now == 2.0 + MAX_LATE_S
    assert time.to_external(4.0) == pytest.approx(50.0 + 4.0 - 2.0 - MAX_LATE_S)
    assert time.advance(50.5, due=3.0) == 0.0
    assert time.now == pytest.approx(3.0 + MAX_LATE_S - 0.5 + 0.5 - 0.5)


@given(st.lists(st.floats(-1e4, 1e4), max_size=40))
def test_lived_time_never_goes_back_and_never_leaps(steps: list[float]) -> None:
    time, at = ActiveClock(0.0), 0.0
    for step in steps:
        at += step
        before = time.now
        time.advance(at, due=before + 0.25)
        assert before <= time.now <= before + 0.25 + MAX_LATE_S + 1e-9


def test_timers_fire_in_order_and_timers_set_by_them_wait() -> None:
    timers = Timers()
    done: list[str] = []

    def first() -> None:
        done.append("first")
        timers.schedule(1.5, done.append, "later")

    assert timers.next_due == NEVER
    timers.schedule(2.0, done.append, "second")
    timers.schedule(1.0, first)
    assert timers.next_due == 1.0
    timers.fire(2.0)
    assert done == ["first", "second"]
    timers.fire(2.0)
    assert done == ["first", "second", "later"]
    assert len(timers) == 0


# who may speak


@given(st.lists(st.integers(1, 900), max_size=200))
def test_a_sequence_number_is_accepted_once_and_an_old_one_never(numbers: list[int]) -> None:
    window, admitted, highest = ReplayWindow(), set(), 0
    for number in numbers:
        fresh = window.accept(number)
        assert fresh == (number not in admitted and number > highest - WIDTH)
        highest = max(highest, number)
        if fresh:
            admitted.add(number)


def test_numbers_up_to_the_one_that_verified_a_sender_are_used_up() -> None:
    window = ReplayWindow(seen_up_to=500)
    assert not window.accept(500)
    assert not window.accept(499)
    assert window.accept(501)
    assert not window.accept(501)


# rumours


def test_an_update_is_sent_a_limited_number_of_times_and_the_fresher_first() -> None:
    updates = BroadcastQueue()
    updates.add(boot_id(1), b"old")
    assert updates.next_batch(100, limit=3) == [b"old"]
    updates.add(boot_id(2), b"new")
    assert updates.next_batch(3, limit=3) == [b"new"]  # room for one
    assert sorted(updates.next_batch(100, limit=3)) == [b"new", b"old"]
    assert sorted(updates.next_batch(100, limit=3)) == [b"new", b"old"]
    assert updates.next_batch(100, limit=3) == []
    assert len(updates) == 0


def test_a_newer_update_of_the_same_subject_replaces_the_older_and_begins_anew() -> None:
    updates = BroadcastQueue()
    updates.add(boot_id(1), b"a")
    updates.next_batch(9, limit=2)
    updates.add(boot_id(1), b"b")
    assert len(updates) == 1
    assert [updates.next_batch(9, limit=2) for _ in range(3)] == [[b"b"], [b"b"], []]


def test_an_update_that_does_not_fit_waits_for_more_room() -> None:
    updates = BroadcastQueue()
    updates.add(boot_id(1), b"a long one")
    updates.add(boot_id(2), b"short")
    assert updates.next_batch(6, limit=2) == [b"short"]
    assert updates.next_batch(10, limit=2) == [b"a long one"]


def test_updates_are_bounded_and_the_most_sent_are_dropped_first() -> None:
    updates = BroadcastQueue(capacity=3)
    updates.add(boot_id(1), b"1")
    updates.next_batch(9, limit=5)
    for number in (2, 3, 4):
        updates.add(boot_id(number), b"%d" % number)
    assert len(updates) == 3
    assert sorted(updates.next_batch(9, limit=5)) == [b"2", b"3", b"4"]
    for number in range(5, 50):
        updates.add(boot_id(number), b"x")
    assert len(updates) == 3


def test_a_change_of_a_node_with_a_pending_introduction_is_sent_as_one() -> None:
    updates, status = BroadcastQueue(), status_of(1, 5)
    me = LocalNode(status, boot_id(1), updates)
    me.broadcast_intro()
    updates.add_alive(boot_id(1), replace(status, incarnation=6, state=NodeState.DRAINING))
    (sent,) = read_updates(b"".join(updates.next_batch(999, limit=1)), 0)
    assert type(sent).__name__ == "Intro"
    updates.add_alive(boot_id(1), replace(status, incarnation=7))
    (sent,) = read_updates(b"".join(updates.next_batch(999, limit=1)), 0)
    assert type(sent).__name__ == "Alive"


def test_the_number_of_sends_grows_with_the_logarithm() -> None:
    assert [retransmit_limit(nodes) for nodes in (1, 10, 100, 1_000, 10_000)] == [4, 7, 10, 13, 16]
    assert all(nodes * math.exp(-retransmit_limit(nodes)) < 0.02 for nodes in (10, 100, 1_000, 10_000))


def test_loads_are_bounded_and_sent_a_few_times_the_oldest_first() -> None:
    news = LoadQueue(capacity=20)
    for number in range(30):
        news.add(boot_id(number), write_load(boot_id(number), 1, IDLE))
    assert len(news) == 20
    taken = next_loads(news)
    assert taken == [boot_id(number) for number in range(10, 10 + MAX_LOADS_PER_UPDATE)]
    rounds = 1
    while len(news):
        assert next_loads(news)
        rounds += 1
    assert rounds == math.ceil(20 * LOAD_TRANSMITS / MAX_LOADS_PER_UPDATE)
    assert news.next_batch(1000) == b""
    news.add(boot_id(1), write_load(boot_id(1), 1, IDLE))
    assert news.next_batch(10) == b""


def next_loads(news: LoadQueue) -> list[bytes]:
    (loads,) = read_updates(news.next_batch(1000), 0)
    assert isinstance(loads, Loads)
    return [read[0] for read in read_loads(loads.packed)]


def test_a_node_that_has_left_changes_no_state_any_more() -> None:
    updates = BroadcastQueue()
    me = LocalNode(status_of(1, 5), boot_id(1), updates)
    assert not me.set_state(NodeState.READY)
    assert me.set_state(NodeState.DRAINING)
    assert me.status.incarnation == 6
    assert me.set_state(NodeState.READY)
    me.leave()
    assert not me.set_state(NodeState.DRAINING)
    assert me.status.incarnation == 7


def test_another_deadline_is_another_incarnation_and_stays_through_a_refutation() -> None:
    me = LocalNode(status_of(1, 5), boot_id(1), BroadcastQueue())
    assert me.set_state(NodeState.DRAINING, deadline=1_000)
    assert not me.set_state(NodeState.DRAINING, deadline=1_000)
    assert me.set_state(NodeState.DRAINING, deadline=900)
    me.refute(7)
    assert (me.status.deadline, me.status.incarnation) == (900, 8)
    assert list(read_updates(me.alive, 0)) == [Alive(boot_id(1), 8, NodeState.DRAINING, (), 900)]


@pytest.mark.parametrize("bad", [b"", bytes(6), b"seven77"])
def test_a_boot_id_is_six_bytes_and_not_zero(bad: bytes) -> None:
    with pytest.raises(ValueError, match="boot id"):
        LocalNode(status_of(1, 1), bad, BroadcastQueue())
