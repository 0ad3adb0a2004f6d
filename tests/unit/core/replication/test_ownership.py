"""Test ownership: owners, replicas and a client over a network that loses, repeats and reorders, as a state machine.

The real ReplicatedLog and ReplicaStore, and no other decision; only sockets and clocks are played.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from node_agent.core.journal.epochs import Epoch, EpochRange, EventId, event_id_suffix, parse_event_id, was_sent_by
from node_agent.core.replication.refusal import RefusalReason, ReplicaRefused
from node_agent.core.replication.replica_store import ReplicaStore, newest
from node_agent.core.replication.replicated_log import Command, DropReplica, OpenReplica, Replica, ReplicatedLog
from tests.generated import examples

NOW = 1000.0
NODES = ("n0", "n1", "n2", "n3")
STREAM = "s"


@dataclass
class Message:
    """From an owner to a replica, with its content when it was sent. replica: the owner's view of it then."""

    owner: ReplicatedLog
    replica_id: str
    replica: Replica | None
    kind: str
    first: int
    lines: list[bytes]


@dataclass
class Reply:
    owner: ReplicatedLog
    replica_id: str
    replica: Replica | None
    seq: int
    refused: RefusalReason | None


@dataclass
class Client:
    """What it has received, the id of the last event, and its owner.

    holders: the replicas in sync when the last event arrived.
    """

    received: list[bytes] = field(default_factory=list)
    owner: ReplicatedLog | None = None
    holders: set[str] = field(default_factory=set)
    epochs: list[Epoch] = field(default_factory=list)
    last: EventId = field(default_factory=lambda: EventId(STREAM, 0))


def line(number: int, epoch: Epoch) -> bytes:
    """Every owner's engine generates different records, so that a seam between two of them shows."""
    return b"%d by %d of %b\n" % (number, epoch.number, epoch.owner.encode())


def node_of(owner: ReplicatedLog) -> str:
    return owner.epoch.owner.partition("-")[0]


class Ownership(RuleBasedStateMachine):
    """Nodes crash with their stores, links are cut and heal, and the client reconnects at any node."""

    def __init__(self) -> None:
        super().__init__()
        self.stores = {name: ReplicaStore() for name in NODES}
        self.takeovers = 0
        self.replays: set[Epoch] = set()
        self.cut: set[frozenset[str]] = set()
        self.messages: list[Message | Reply] = []
        self.client = Client()
        first = ReplicatedLog(STREAM, Epoch(1, "n0"), b"first")
        self.runs: dict[bytes, list[EpochRange]] = {b"first": [EpochRange(0, first.epoch)]}
        self.owners = [first]
        self.client.owner = first
        self.review(first)

    # the network

    def reaches(self, a: str, b: str) -> bool:
        return a == b or frozenset((a, b)) not in self.cut

    def send(self, owner: ReplicatedLog, commands: list[Command]) -> None:
        lines = bytes(owner.lines).splitlines(keepends=True)
        for command in commands:
            match command:
                case OpenReplica(replica):
                    self.messages.append(Message(owner, replica.instance_id, replica, "open", 1, lines))
                case DropReplica(replica_id):
                    self.messages.append(Message(owner, replica_id, None, "forget", 0, []))

    def write(self, owner: ReplicatedLog, line: bytes) -> None:
        owner.lines += line
        first = owner.seq + 1
        owner.seq = first
        for name, replica in owner.replicas.items():
            self.messages.append(Message(owner, name, replica, "append", first, [line]))

    @precondition(lambda self: self.messages)
    @rule(data=st.data(), repeat=st.booleans())
    def arrive(self, data: st.DataObject, repeat: bool) -> None:
        at = data.draw(st.integers(0, len(self.messages) - 1))
        message = self.messages[at] if repeat else self.messages.pop(at)
        if not self.reaches(node_of(message.owner), message.replica_id):
            return
        if isinstance(message, Reply):
            if message.refused is None and message.replica is not None:
                message.owner.acknowledged(message.replica, message.seq)
            elif message.refused is not None:
                self.send(message.owner, message.owner.refused(message.replica_id, message.refused))
            return
        self.messages.append(self._answer(message))

    def _answer(self, message: Message) -> Reply:
        store, owner = self.stores[message.replica_id], message.owner
        try:
            if message.kind == "open":
                seq = store.open(STREAM, owner.epoch, owner.header, len(message.lines), b"".join(message.lines), NOW)
            elif message.kind == "append":
                seq = store.append(STREAM, owner.epoch, message.first, b"".join(message.lines), NOW)
            else:
                store.drop(STREAM, owner.epoch)
                seq = -1
        except ReplicaRefused as refused:
            return Reply(owner, message.replica_id, message.replica, 0, refused.reason)
        return Reply(owner, message.replica_id, message.replica, seq, None)

    @precondition(lambda self: self.messages)
    @rule(data=st.data())
    def lose_a_message(self, data: st.DataObject) -> None:
        self.messages.pop(data.draw(st.integers(0, len(self.messages) - 1)))

    @rule(a=st.sampled_from(NODES), b=st.sampled_from(NODES))
    def cut_or_heal(self, a: str, b: str) -> None:
        if a != b:
            self.cut ^= {frozenset((a, b))}

    @rule(name=st.sampled_from(NODES))
    def crash(self, name: str) -> None:
        """All that a node kept and owned is gone; it comes back empty."""
        self.stores[name] = ReplicaStore()
        self.client.holders.discard(name)
        dead = [owner for owner in self.owners if node_of(owner) == name]
        self.owners = [owner for owner in self.owners if owner not in dead]
        self.messages = [m for m in self.messages if m.replica_id != name and m.owner not in dead]
        for owner in self.owners:
            owner.lost(name)
        if self.client.owner in dead:
            self.client.owner = None

    # owners

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def a_replica_is_slow(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from(self.owners))
        if owner.replicas:
            owner.overdue(owner.replicas[data.draw(st.sampled_from(sorted(owner.replicas)))], owner.seq)

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def an_event_has_waited_too_long(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from(self.owners))
        if owner.waits_for_any:
            assert owner.stop_waiting(owner.sync_count)

    def review(self, owner: ReplicatedLog) -> None:
        others = [name for name in NODES if name != node_of(owner)]
        self.send(owner, owner.reconcile(others, others))

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def look_after_copies(self, data: st.DataObject) -> None:
        self.review(data.draw(st.sampled_from(self.owners)))

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def generate(self, data: st.DataObject) -> None:
        """An owner's engine generates the next record, once the last was committed."""
        owner = data.draw(st.sampled_from(self.owners))
        if owner.seq == owner.committed and owner.epoch not in self.replays and not owner.is_fenced:
            self.write(owner, line(owner.seq + 1, owner.epoch))

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from(self.owners))
        is_replay = owner.epoch in self.replays
        waits = owner.replicas and not owner.in_sync if is_replay else owner.commit_limit() < owner.seq
        if owner.is_fenced or (owner.seq == owner.committed and not is_replay) or waits:
            return
        gaps = owner.unreplicated
        owner.commit(owner.seq)
        self.replays.discard(owner.epoch)
        if owner is self.client.owner:
            lines = bytes(owner.lines).splitlines(keepends=True)
            assert lines[: len(self.client.received)] == self.client.received, "a seam"
            assert len(lines) == len(self.client.received) + 1 or is_replay
            self.client.received = lines
            self.client.epochs.append(owner.epoch)
            self.client.last = self._id(owner, owner.seq)
            self.client.holders = set(owner.in_sync)
            assert gaps < owner.unreplicated or not owner.seq or is_replay or self.client.holders, (
                "delivered without a copy, and not counted"
            )

    # the client

    @rule(name=st.sampled_from(NODES), queried=st.sets(st.sampled_from(NODES)))
    def resume_at(self, name: str, queried: set[str]) -> None:
        """The client reconnects at another node, which queries the replicas that it reaches."""
        self.client.owner = None
        reached = [other for other in sorted(queried | {name}) if self.reaches(name, other)]
        self.takeovers += 1
        label = f"{name}-{self.takeovers}"
        taken = [(other, self.stores[other].take_over(STREAM, label, NOW)) for other in reached]
        found = {other: journal for other, journal in taken if journal is not None}
        if not found:
            return
        journal = newest(list(found.values()))
        if journal.seq < len(self.client.received):
            assert not self.client.holders & set(found), "a replica in sync had less than the client"
            return
        runs = self.runs[journal.header]
        if not was_sent_by(self.client.last, runs):
            assert not self.client.holders & set(found), "a replica in sync had another owner's records"
            return
        epoch = Epoch(max(one.next_number for one in found.values()), label)
        opening = str(epoch).encode()
        self.runs[opening] = [*runs, EpochRange(journal.seq, epoch)]
        owner = ReplicatedLog(STREAM, epoch, opening, lines=bytearray(journal.lines), seq=journal.seq)
        owner.committed = journal.seq
        self.owners.append(owner)
        self.client.owner = owner
        self.replays.add(epoch)  # the replayed events wait for a replica, as every record does
        self.review(owner)

    def _id(self, owner: ReplicatedLog, seq: int) -> EventId:
        suffix = event_id_suffix(self.runs[owner.header], seq).decode()
        return parse_event_id(f"{STREAM}/{seq}{suffix}")

    @invariant()
    def what_the_client_has_is_gapless_and_without_repeats(self) -> None:
        numbers = [int(one.split()[0]) for one in self.client.received]
        assert numbers == list(range(1, len(numbers) + 1))

    @invariant()
    def no_older_owner_delivers_after_a_newer_one(self) -> None:
        assert self.client.epochs == sorted(self.client.epochs)


def test_lines_that_a_cut_off_owner_wrote_are_not_in_the_clients_journal() -> None:
    """n0 is cut off with n1 and continues; n2 continues from n3's shorter one and loses it; n1 must not serve it."""
    ours, cut_off = Epoch(1, "n0"), [b"1\n", b"2\n", b"3\n"]
    runs = [EpochRange(0, ours)]
    store = ReplicaStore()
    store.open(STREAM, ours, b"", 3, b"".join(cut_off), 0.0)
    event_id = parse_event_id("s/3/2.n2")
    taken = store.take_over(STREAM, "n1", 0.0)
    assert taken is not None
    assert taken.seq >= event_id.seq
    assert not was_sent_by(event_id, runs)
    assert was_sent_by(parse_event_id("s/3"), runs)
    assert was_sent_by(event_id, [*runs, EpochRange(1, Epoch(2, "n2"))])


TestOwnership = Ownership.TestCase
TestOwnership.settings = settings(max_examples=examples(400), stateful_step_count=50, deadline=None)
