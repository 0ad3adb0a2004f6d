"""Streams of nodes that are lost, as a model: every order of writes and events, late and repeated, and of restarts.

Nodes write through the same decisions as a real one (`core/replication/owned_streams`), each write late by itself and
some of them never; EC2's events go through the Lambda's decisions. What holds:

* a stream's record never moves back;
* a stream that its newest owner ended, and wrote so, is never orphaned, and never open again in that epoch;
* after a node has ended, and its events have arrived, no stream that it had recorded is open by its record; the same
  after an agent alone was restarted, and has written;
* a node that serves keeps its streams: no event of an earlier boot orphans one;
* the record of a newer incarnation is never replaced by an older one's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lambdas.adapters.memory import MemoryStreams
from lambdas.stream_events import handle_streams
from node_agent.contract.aws_events import Ec2Event, SpotInterruption, StateChange
from node_agent.contract.open_streams import OpenStreams
from node_agent.contract.ownership import Ownership
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import StreamStatus
from node_agent.core.journal.epochs import Epoch
from node_agent.core.replication.owned_streams import OwnedStreams
from node_agent.core.replication.replicated_log import CloseReason, ReplicatedLog
from tests.generated import examples

STREAMS = [f"{number:024x}" for number in range(3)]
NODES = ["i-00000001", "i-00000002"]
ENDS = [CloseReason.FINISHED, CloseReason.ABANDONED, CloseReason.MOVED]
BOOT_S = 100.0
"""From the end of an instance to its agent's next start; more than the tolerance for clocks that differ."""


@dataclass
class Node:
    """One incarnation of an agent on an instance.

    logs: the streams that it owns; halted: its agent is gone; read: it has read the record of the one before.
    """

    instance_id: str
    incarnation: int
    streams: OwnedStreams
    logs: dict[str, ReplicatedLog] = field(default_factory=dict)
    draining: bool = False
    halted: bool = False
    read: bool = False


class Streams(RuleBasedStateMachine):
    """Two instances that own three streams in turns, a table, and EventBridge."""

    @initialize()
    def begin(self) -> None:
        self.now = 1_000_000.0
        self.table = MemoryStreams()
        self.epochs: dict[str, Epoch] = {}
        self.ends: dict[str, StreamStatus] = {}
        """How a stream ended in its newest epoch, once that is in the table."""
        self.seen: dict[str, tuple[int, str, int]] = {}
        self.incarnations: dict[str, int] = {}
        self.events: list[Ec2Event] = []
        self.nodes: dict[str, Node] = {}
        for name in NODES:
            self._boot(name)

    def _boot(self, name: str) -> None:
        incarnation = round(self.now * 1000)
        self.nodes[name] = Node(name, incarnation, OwnedStreams(name, incarnation))

    def _log(self, name: str) -> tuple[Node, ReplicatedLog] | None:
        for node in self.nodes.values():
            if name in node.logs:
                return node, node.logs[name]
        return None

    # what happens to streams

    @rule(stream=st.sampled_from(STREAMS), node=st.sampled_from(NODES))
    def take_over(self, stream: str, node: str) -> None:
        """A client begins a stream, or comes back: its older owner is fenced, or dead, and the epoch grows."""
        owner = self.nodes[node]
        if owner.halted or owner.draining:
            return
        held = self._log(stream)
        if held is not None:
            held[1].is_fenced = True
            held[0].streams.closed(held[0].logs.pop(stream), CloseReason.MOVED, self.now)
        number = self.epochs[stream].number + 1 if stream in self.epochs else 1
        epoch = Epoch(number, node if number == 1 else f"{node}+{number:08x}")
        self.epochs[stream] = epoch
        self.ends.pop(stream, None)
        log = owner.logs[stream] = ReplicatedLog(stream, epoch, b"h")
        owner.streams.opened(log, self.now)

    @rule(stream=st.sampled_from(STREAMS), reason=st.sampled_from(ENDS))
    def end(self, stream: str, reason: CloseReason) -> None:
        held = self._log(stream)
        if held is not None:
            held[0].streams.closed(held[0].logs.pop(stream), reason, self.now)

    @rule(node=st.sampled_from(NODES), terminated=st.booleans())
    def drain(self, node: str, terminated: bool) -> None:
        """A node drains, and its streams end one by one. terminated: EC2 reports already that it shuts down."""
        owner = self.nodes[node]
        if owner.halted:
            return
        owner.draining = True
        owner.streams.set_state(NodeState.DRAINING, self.now + 120)
        if terminated:
            self._send(StateChange("e", node, self.now, "shutting-down"))

    # what is written

    @rule(node=st.sampled_from(NODES), parts=st.integers(0, 3))
    def write(self, node: str, parts: int) -> None:
        """A node writes; parts: how much of its round succeeds before it fails."""
        owner = self.nodes[node]
        if owner.halted:
            return
        owner.streams.attempt(self.now)
        previous = self.table.open.get(node)
        if not owner.read:
            owner.streams.orphan(previous, self.now)
            owner.read = True
        due = owner.streams.due(self.now, lambda _: None)
        if parts >= 1:
            self._advance(owner, due.ended)
        if parts >= 2 and due.record is not None:
            self._put(due.record)
            owner.streams.record_written(due.record, self.now)
        if parts >= 3:
            self._advance(owner, due.opened)
        if parts >= 1 and previous is not None and previous.incarnation < owner.incarnation:
            self._assert_left(previous)

    def _assert_left(self, record: OpenStreams) -> None:
        """Assert that no stream of a record is open in that epoch, unless the record has expired."""
        for each in record.streams if record.expires_at > self.now else ():
            assert self.table.owned[each.stream].progress > (each.number, each.owner, StreamStatus.OPEN.rank)

    def _advance(self, owner: Node, changes: tuple[Ownership, ...]) -> None:
        self.table.advance(changes)
        owner.streams.changes_written(changes)
        for change in changes:
            is_newest = self.epochs.get(change.stream) == Epoch(change.number, change.owner)
            if is_newest and change.status in (StreamStatus.CLOSED, StreamStatus.HANDED_OFF):
                self.ends[change.stream] = change.status

    def _put(self, record: OpenStreams) -> None:
        """Write as the agent's adapter: an older incarnation is refused, a Lambda's marks stay."""
        held = self.table.open.get(record.instance_id)
        if held is not None and held.incarnation > record.incarnation:
            return
        ended_at = held.ended_at if held is not None and held.incarnation == record.incarnation else None
        self.table.open[record.instance_id] = OpenStreams(**{**record.__dict__, "ended_at": ended_at})

    # what EC2 does

    @rule(node=st.sampled_from(NODES))
    def warn(self, node: str) -> None:
        self._send(SpotInterruption("e", node, self.now, "terminate"))

    @rule(node=st.sampled_from(NODES))
    def kill(self, node: str) -> None:
        """The instance ends at once; its events arrive some time."""
        if not self.nodes[node].halted:
            self.nodes[node].halted = True
            self.nodes[node].logs.clear()
            for state in ("shutting-down", "terminated"):
                self._send(StateChange("e", node, self.now, state))

    @rule(node=st.sampled_from(NODES))
    def crash(self, node: str) -> None:
        """The agent ends alone: systemd starts it again, and EC2 sends nothing."""
        if not self.nodes[node].halted:
            self.now += 1.0
            self._boot(node)

    @precondition(lambda self: any(node.halted for node in self.nodes.values()))
    @rule()
    def run_again(self) -> None:
        """A stopped instance runs again."""
        self.now += BOOT_S
        for name, node in list(self.nodes.items()):
            if node.halted:
                self._send(StateChange("e", name, self.now, "running"))
                self._boot(name)

    def _send(self, event: Ec2Event) -> None:
        self.events.append(event)

    @precondition(lambda self: self.events)
    @rule(data=st.data(), keep=st.booleans())
    def deliver(self, data: Any, keep: bool) -> None:
        """EventBridge delivers any event that was sent, and maybe again later."""
        number = data.draw(st.integers(0, len(self.events) - 1))
        event = self.events[number] if keep else self.events.pop(number)
        handle_streams(event, self.table, self.now)

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def deliver_all(self) -> None:
        """All events arrive: what a node that ended had recorded is open no more."""
        for event in self.events:
            handle_streams(event, self.table, self.now)
        for name, node in self.nodes.items():
            record = self.table.open.get(name)
            ended = any(
                isinstance(each, StateChange)
                and (each.instance_id, each.state) == (name, "terminated")
                and each.at * 1000 >= node.incarnation
                for each in self.events
            )
            if node.halted and record is not None and ended:
                self._assert_left(record)

    # what holds

    @invariant()
    def nothing_moves_back(self) -> None:
        for stream, held in getattr(self, "table", MemoryStreams()).owned.items():
            assert held.progress >= self.seen.get(stream, held.progress)
            self.seen[stream] = held.progress
        for name, record in getattr(self, "table", MemoryStreams()).open.items():
            assert record.incarnation >= self.incarnations.get(name, 0)
            self.incarnations[name] = record.incarnation

    @invariant()
    def what_ended_stays_ended(self) -> None:
        for stream, status in getattr(self, "ends", {}).items():
            assert self.table.owned[stream].status.rank >= status.rank

    @invariant()
    def a_running_node_keeps_its_streams(self) -> None:
        for node in getattr(self, "nodes", {}).values():
            for stream, log in () if node.draining else node.logs.items():
                held = self.table.owned.get(stream)
                if held is not None and (held.number, held.owner) == (log.epoch.number, log.epoch.owner):
                    assert held.status is StreamStatus.OPEN, held


TestStreams = Streams.TestCase
TestStreams.settings = settings(max_examples=examples(200), stateful_step_count=40)
