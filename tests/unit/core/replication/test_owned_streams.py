"""What a node writes about its streams: at most every 15 s, at changes of its state, and never for a token."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.open_streams import MAX_STREAMS, OpenStream, OpenStreams
from node_agent.contract.ownership import Ownership
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import CHECKPOINT_LIFE_S, StreamStatus
from node_agent.core.journal.epochs import Epoch
from node_agent.core.replication.owned_streams import (
    ENDED_WITHIN_S,
    MAX_CHANGES,
    RENEW_EVERY_S,
    WRITE_EVERY_S,
    OwnedStreams,
    Round,
)
from node_agent.core.replication.replica_store import EndReason, ReplicaStore
from node_agent.core.replication.replicated_log import CloseReason, Replica, ReplicaState, ReplicatedLog

NODE = "i-0"
ADDRESSES = {"i-1": "10.0.0.1:8001", "i-2": "10.0.0.2:8001"}


def log_of(number: int = 0, epoch: int = 1, **fields: object) -> ReplicatedLog:
    owner = NODE if epoch == 1 else f"{NODE}+{epoch:08x}"
    log = ReplicatedLog(f"{number:024x}", Epoch(epoch, owner), b"h")
    log.replicas = {name: Replica(name, ReplicaState.IN_SYNC) for name in ("i-1", "i-9")}
    for name, value in fields.items():
        setattr(log, name, value)
    return log


@dataclass
class Writer:
    """A node that writes whenever it is due, on a clock of its own."""

    streams: OwnedStreams = field(default_factory=lambda: OwnedStreams(NODE, 7))
    now: float = 1000.0
    rounds: list[tuple[float, Round]] = field(default_factory=list)

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while (due := self.now + self.streams.wait_s(self.now)) <= until:
            self.now = due
            self.write()
        self.now = until

    def write(self) -> Round:
        self.streams.attempt(self.now)
        due = self.streams.due(self.now, ADDRESSES.get)
        if due != Round((), None, ()):
            self.rounds.append((self.now, due))
        self.streams.changes_written(due.ended)
        if due.record is not None:
            self.streams.record_written(due.record, self.now)
        self.streams.changes_written(due.opened)
        return due


def test_the_record_has_each_stream_with_its_epoch_its_last_event_and_its_replicas() -> None:
    writer = Writer()
    writer.streams.opened(log_of(seq=5), 990.0)
    record = writer.write().record
    assert record is not None
    assert record.streams == (OpenStream(f"{0:024x}", 1, NODE, 5, 990.0, ("i-1", "i-9")),)
    assert record.addresses == {"i-1": "10.0.0.1:8001"}, "an unknown peer has none"
    assert record.expires_at == 1000 + CHECKPOINT_LIFE_S


def test_a_stream_that_ends_before_the_next_write_is_never_written() -> None:
    writer = Writer()
    writer.pass_time(1)
    log = log_of()
    writer.streams.opened(log, writer.now)
    writer.streams.closed(log, CloseReason.FINISHED, writer.now)
    writer.pass_time(60)
    assert writer.rounds == []


def test_an_idle_node_writes_nothing_and_a_record_in_use_is_renewed() -> None:
    writer = Writer()
    writer.pass_time(10_000)
    assert writer.rounds == []
    writer.streams.opened(log_of(), writer.now)
    writer.pass_time(2 * RENEW_EVERY_S + 2 * WRITE_EVERY_S)
    records = [due.record for _, due in writer.rounds]
    assert len(records) == 3
    assert all(record is not None for record in records)
    for (at, _), (_, due) in zip(writer.rounds[1:], writer.rounds, strict=False):
        assert due.record is not None
        assert at < due.record.expires_at, "the older record had not expired"


def test_a_state_change_is_written_at_once_with_the_deadline() -> None:
    writer = Writer()
    writer.streams.opened(log_of(), writer.now)
    writer.pass_time(1)
    writer.streams.set_state(NodeState.DRAINING, 1121.0)
    assert writer.streams.wait_s(writer.now) == 0
    record = writer.write().record
    assert record is not None
    assert record.deadline == 1121.0


def test_deadlines_that_are_no_instants_are_left_out() -> None:
    writer = Writer()
    writer.streams.opened(log_of(), writer.now)
    for odd in (float("nan"), float("inf"), -1.0, 0.0, 1e300):
        writer.streams.set_state(NodeState.DRAINING, odd)
        record = writer.streams.due(writer.now, ADDRESSES.get).record
        assert record is not None
        assert record.deadline is None


def changes(due: Round) -> list[tuple[int, StreamStatus]]:
    return [(change.number, change.status) for change in (*due.ended, *due.opened)]


def test_a_stream_that_was_taken_over_is_open_then_closed() -> None:
    writer = Writer()
    log = log_of(epoch=2)
    writer.streams.opened(log, writer.now)
    due = writer.write()
    assert changes(due) == [(2, StreamStatus.OPEN)]
    assert due.opened[0].replicas == {"i-1": "10.0.0.1:8001"}
    assert due.record is not None
    writer.streams.closed(log, CloseReason.FINISHED, writer.now + 1)
    due = writer.write()
    assert changes(due) == [(2, StreamStatus.CLOSED)]
    assert changes(writer.write()) == []


def test_an_open_stream_that_was_taken_over_is_renewed_before_it_expires() -> None:
    writer = Writer()
    writer.streams.opened(log_of(epoch=2), writer.now)
    writer.pass_time(3 * RENEW_EVERY_S)
    written = [(at, due.opened[0].expires_at) for at, due in writer.rounds if due.opened]
    assert len(written) > 2
    assert all(later < expires_at for (_, expires_at), (later, _) in itertools.pairwise(written))


def test_a_draining_node_writes_what_became_of_each_stream() -> None:
    """EC2 may report that the instance shuts down while its node still drains: a Lambda orphans its streams then."""
    writer = Writer()
    finished, moved, fenced = log_of(1), log_of(2), log_of(3)
    for log in (finished, moved, fenced):
        writer.streams.opened(log, writer.now)
    writer.streams.set_state(NodeState.DRAINING, None)
    writer.write()
    fenced.is_fenced = True
    writer.streams.closed(finished, CloseReason.FINISHED, writer.now)
    writer.streams.closed(moved, CloseReason.MOVED, writer.now)
    writer.streams.closed(fenced, CloseReason.MOVED, writer.now)
    due = writer.write()
    assert changes(due) == [(1, StreamStatus.CLOSED), (1, StreamStatus.HANDED_OFF)]
    assert due.record is not None
    assert due.record.streams == ()


def test_a_stream_without_replicas_by_request_and_one_of_a_foreign_form_are_not_recorded() -> None:
    streams = OwnedStreams(NODE, 7)
    streams.opened(log_of(replication_factor=0), 1.0)
    streams.opened(ReplicatedLog("s", Epoch(1, NODE), b"h"), 1.0)
    assert len(streams) == 0


def test_an_older_connection_of_a_stream_does_not_end_the_newer_one() -> None:
    streams = OwnedStreams(NODE, 7)
    older, newer = log_of(epoch=1), log_of(epoch=2)
    streams.opened(older, 1.0)
    streams.opened(newer, 2.0)
    streams.closed(older, CloseReason.MOVED, 3.0)
    assert len(streams) == 1


def test_more_streams_than_fit_are_counted_and_the_oldest_are_recorded() -> None:
    writer = Writer()
    for number in range(MAX_STREAMS + 3):
        writer.streams.opened(log_of(number), 1.0)
    record = writer.write().record
    assert record is not None
    assert record.left_out == 3
    assert record.streams[0].stream == f"{0:024x}"


def test_changes_that_cannot_be_written_are_bounded() -> None:
    streams = OwnedStreams(NODE, 7)
    for number in range(MAX_CHANGES + 5):
        streams.opened(log_of(number, epoch=2), 1.0)
    assert streams.dropped == 5
    assert len(streams.due(1.0, ADDRESSES.get).opened) == MAX_CHANGES


PREVIOUS = OpenStreams(NODE, 6, (OpenStream("a" * 24, 1, NODE, 5, 9.0, ("i-1",)),), 5000, ADDRESSES)


def test_the_streams_of_an_older_incarnation_are_orphaned_and_of_no_other() -> None:
    for previous, count in (
        (PREVIOUS, 1),
        (replace(PREVIOUS, incarnation=7), 0),
        (replace(PREVIOUS, incarnation=8), 0),
        (replace(PREVIOUS, expires_at=999), 0),
        (None, 0),
    ):
        streams = OwnedStreams(NODE, 7)
        streams.orphan(previous, 1000.0)
        due = streams.due(1000.0, ADDRESSES.get)
        assert len(due.ended) == count
        for orphan in due.ended:
            assert (orphan.status, orphan.seq) == (StreamStatus.ORPHANED, 5)
            assert orphan.replicas == {"i-1": "10.0.0.1:8001"}


def test_a_replica_closes_what_a_lost_owner_had_ended_since_its_last_record() -> None:
    store, now = ReplicaStore(), 1000.0
    ends = {1: EndReason.FINISHED, 2: EndReason.ABANDONED, 3: None, 4: EndReason.FINISHED, 5: EndReason.FINISHED}
    for number, reason in ends.items():
        epoch = Epoch(1, "i-2" if number == 5 else "i-1")
        at = now - ENDED_WITHIN_S - 1 if number == 4 else now - 1
        store.open(f"{number:024x}", epoch, b"h", 1, b"x\n", at)
        if reason is not None:
            store.end(f"{number:024x}", epoch, reason)
    streams = OwnedStreams(NODE, 7)
    streams.owner_lost("i-1", store.ended(), now)
    closed = streams.due(now, ADDRESSES.get).ended
    assert {int(each.stream, 16): each.status for each in closed} == dict.fromkeys((1, 2), StreamStatus.CLOSED)


steps = st.lists(
    st.tuples(
        st.sampled_from(["open", "take", "finish", "move", "token", "state", "wait", "fail"]),
        st.integers(0, 3),
        st.floats(0, 20),
    ),
    max_size=60,
)


@given(steps)
def test_writes_are_paced_and_nothing_that_was_written_moves_back(actions: list[tuple[str, int, float]]) -> None:
    """Over any history: at most a round every 15 s or a state change, forward only, and all is written in the end."""
    writer = Writer()
    held: dict[int, ReplicatedLog] = {}
    written: dict[str, Ownership] = {}
    epochs = dict.fromkeys(range(4), 0)
    state_changes = 0
    for action, number, seconds in actions:
        log = held.get(number)
        match action:
            case "open" | "take" if log is None:
                epochs[number] += 1
                held[number] = log_of(number, epochs[number])
                writer.streams.opened(held[number], writer.now)
            case "finish" | "move" if log is not None:
                reason = CloseReason.FINISHED if action == "finish" else CloseReason.MOVED
                writer.streams.closed(held.pop(number), reason, writer.now)
            case "token" if log is not None:
                wait_s = writer.streams.wait_s(writer.now)
                log.seq += 1
                assert writer.streams.wait_s(writer.now) == wait_s
            case "state":
                writer.streams.set_state(NodeState.AT_RISK, None)
                state_changes += 1
            case "fail":
                writer.streams.attempt(writer.now)  # and nothing is reported as written
            case _:
                writer.pass_time(seconds)
    writer.pass_time(2 * WRITE_EVERY_S)
    assert len(writer.rounds) <= (writer.now - 1000.0) / WRITE_EVERY_S + 1 + state_changes
    for _, due in writer.rounds:
        for change in (*due.ended, *due.opened):
            assert change.stream not in written or written[change.stream].progress <= change.progress
            written[change.stream] = change
    due = writer.streams.due(writer.now, ADDRESSES.get)
    assert due == Round((), None, ())
    records = [due.record for _, due in writer.rounds if due.record is not None]
    open_now = {log.stream: log.seq for log in held.values()}
    assert {each.stream: each.seq for each in records[-1].streams} == open_now if records else not open_now
