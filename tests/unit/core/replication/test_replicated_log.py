"""Test the replicated log: which copies an event waits for, and how replicas are replaced."""

from __future__ import annotations

from node_agent.core.journal.epochs import Epoch
from node_agent.core.replication.refusal import RefusalReason
from node_agent.core.replication.replicated_log import Command, OpenReplica, Replica, ReplicaState, ReplicatedLog

ONE = Epoch(1, "i-a")


def new_log() -> ReplicatedLog:
    return ReplicatedLog("s", ONE, b"o")


def described(commands: list[Command]) -> list[str]:
    """What is to be done with whom."""
    return [
        f"open {command.replica.instance_id}" if isinstance(command, OpenReplica) else f"forget {command.instance_id}"
        for command in commands
    ]


def review(stream: ReplicatedLog, replicas: str) -> list[str]:
    return described(stream.reconcile(list(replicas), list(replicas)))


def acknowledge(stream: ReplicatedLog, replicas: str, seq: int) -> None:
    for store in replicas:
        stream.acknowledged(stream.replicas[store], seq)


def in_sync(replicas: str) -> ReplicatedLog:
    stream = new_log()
    review(stream, replicas)
    acknowledge(stream, replicas, 0)
    return stream


def test_an_event_waits_for_every_synced_copy_and_for_no_other() -> None:
    stream = new_log()
    assert review(stream, "ab") == ["open a", "open b"]
    acknowledge(stream, "a", 0)
    stream.seq = 1
    assert stream.commit_limit() == 0
    acknowledge(stream, "a", 1)
    assert stream.commit_limit() == 1, "b was never in sync"
    stream.commit(1)
    acknowledge(stream, "b", 1)
    stream.seq = 3
    acknowledge(stream, "a", 3)
    assert stream.commit_limit() == 1
    acknowledge(stream, "b", 2)
    assert stream.commit_limit() == 2
    acknowledge(stream, "b", 3)
    assert stream.commit_limit() == 3
    assert stream.unreplicated == 0


def test_a_replica_that_lags_is_replaced_and_delays_nothing() -> None:
    stream = in_sync("ab")
    stream.seq = 1
    acknowledge(stream, "a", 1)
    assert stream.commit_limit() == 0
    stream.overdue(stream.replicas["b"], 1)
    assert stream.commit_limit() == 1
    stream.commit(1)
    assert stream.replicas["b"].state is ReplicaState.LAGGING
    assert not stream.is_settled
    assert review(stream, "abc") == ["open c"]
    acknowledge(stream, "c", 1)
    assert review(stream, "abc") == ["forget b"]
    assert sorted(stream.in_sync) == ["a", "c"]
    assert stream.is_settled


def test_where_all_copies_lag_events_wait_for_one_of_them_or_a_replacement() -> None:
    for acknowledging in "ac":
        stream = all_lagging()
        assert review(stream, "abc") == ["open c"]
        assert stream.commit_limit() == 0
        acknowledge(stream, acknowledging, 1)
        assert stream.commit_limit() == 1
        stream.commit(1)
        assert (stream.unreplicated, stream.in_sync) == (0, [acknowledging])


def test_events_that_have_waited_too_long_are_sent_at_once_and_counted_until_a_replica_is_in_sync() -> None:
    stream = all_lagging()
    assert stream.stop_waiting(stream.sync_count)
    for number in (1, 2):
        stream.seq = number
        assert stream.commit_limit() == number
        stream.commit(number)
    assert stream.unreplicated == 2
    acknowledge(stream, "a", 2)
    stream.seq = 3
    assert stream.commit_limit() == 2


def test_a_wait_that_ended_meanwhile_does_not_end_the_next_one() -> None:
    stream = all_lagging()
    began = stream.sync_count
    acknowledge(stream, "a", 1)
    assert not stream.stop_waiting(began)
    stream.seq = 2
    stream.overdue(stream.replicas["a"], 2)
    assert not stream.stop_waiting(began)
    assert stream.commit_limit() < 2


def all_lagging() -> ReplicatedLog:
    """A log whose both replicas did not acknowledge its first record in time."""
    stream = in_sync("ab")
    stream.seq = 1
    for store in "ab":
        stream.overdue(stream.replicas[store], 1)
    return stream


def test_an_event_that_was_acknowledged_meanwhile_is_not_overdue() -> None:
    stream = in_sync("a")
    stream.seq = 2
    acknowledge(stream, "a", 1)
    stream.overdue(stream.replicas["a"], 1)
    assert stream.in_sync == ["a"]


def test_a_late_replica_that_has_caught_up_is_in_sync_again() -> None:
    stream = in_sync("a")
    stream.seq = 1
    stream.overdue(stream.replicas["a"], 1)
    stream.commit(stream.commit_limit())
    acknowledge(stream, "a", 1)
    assert stream.in_sync == ["a"]


def test_an_acknowledgement_of_a_replaced_copy_does_not_count_for_the_new_one() -> None:
    stream = in_sync("a")
    stream.seq = 1
    before: Replica = stream.replicas["a"]
    assert described(stream.refused("a", RefusalReason.GAP)) == ["open a"]
    stream.acknowledged(before, 1)
    assert stream.commit_limit() < 1
    acknowledge(stream, "a", 1)
    assert stream.commit_limit() == 1


def test_without_a_replica_an_event_is_sent_at_once_and_counted_if_one_was_wanted() -> None:
    for wanted, gaps in ((2, 1), (0, 0)):
        stream = new_log()
        stream.replication_factor = wanted
        assert review(stream, "") == []
        stream.seq = 1
        assert stream.commit_limit() == 1
        stream.commit(1)
        assert stream.unreplicated == gaps


def test_a_stale_epoch_fences_a_gap_resends_all_and_a_full_replica_is_replaced() -> None:
    stream = new_log()
    review(stream, "ab")
    acknowledge(stream, "a", 0)
    assert described(stream.refused("a", RefusalReason.GAP)) == ["open a"]
    assert stream.refused("b", RefusalReason.FULL) == []
    assert review(stream, "abc") == ["open c"]
    assert stream.refused("a", RefusalReason.STALE) == []
    assert stream.is_fenced
    assert review(stream, "a") == []


def test_a_replica_that_leaves_is_replaced_before_it_is_dropped() -> None:
    stream = in_sync("ab")
    assert review(stream, "bc") == ["open c"]
    assert "a" in stream.in_sync
    acknowledge(stream, "c", 0)
    assert review(stream, "bc") == ["forget a"]
