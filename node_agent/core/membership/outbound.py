"""This node's side of every message: its status, the next number, and the updates that are piggybacked."""

from __future__ import annotations

from dataclasses import replace

from node_agent.contract.states import NodeState
from node_agent.core.membership.broadcast_queue import BroadcastQueue, LoadQueue, UsageQueue, retransmit_limit
from node_agent.core.membership.member_table import MemberTable
from node_agent.core.membership.message_keys import MessageKeys
from node_agent.core.membership.wire.loads import write_load
from node_agent.core.membership.wire.messages import (
    BOOT_ID_BYTES,
    HEADER_BYTES,
    MAC_BYTES,
    MAX_DATAGRAM,
    Header,
    MessageKind,
    MessageMacs,
    write_header,
)
from node_agent.core.membership.wire.statuses import MAX_INCARNATION, check_status
from node_agent.core.membership.wire.updates import (
    Intro,
    write_alive,
    write_intro,
    write_key_usage_update,
    write_left,
)
from node_agent.core.node.status import IDLE, Load, NodeStatus


class LocalNode:
    """This node's status; every change raises its incarnation. Raises ValueError for a text that is too long."""

    def __init__(self, status: NodeStatus, boot_id: bytes, broadcasts: BroadcastQueue) -> None:
        check_status(status)
        if len(boot_id) != BOOT_ID_BYTES or not any(boot_id):
            raise ValueError(f"a boot id is {BOOT_ID_BYTES} random bytes, not all zero")
        self.status = status
        self.boot_id = boot_id
        self.load: Load = IDLE
        self.load_version = 0
        self.usage_version = 0
        self.has_left = False
        self._broadcasts = broadcasts

    @property
    def intro(self) -> bytes:
        """This node's introduction, encoded as an update."""
        return write_intro(self.boot_id, self.status)

    @property
    def alive(self) -> bytes:
        """This node's Alive update, encoded: short, for nodes that have its introduction."""
        status = self.status
        return write_alive(self.boot_id, status.incarnation, status.state, status.continuation_methods, status.deadline)

    def set_state(self, state: NodeState, continuation_methods: tuple[str, ...] = (), deadline: int = 0) -> bool:
        """Set the state, the continuation methods and the deadline, and broadcast them in a new incarnation.

        All else of a status is fixed for a boot id: an Alive update carries no more, and a node that has applied it
        would not look at an introduction of the same incarnation.

        Returns:
            Whether they changed: never after this node has left.
        """
        status = self.status
        same = (status.state, status.continuation_methods, status.deadline) == (state, continuation_methods, deadline)
        if self.has_left or same:
            return False
        self.status = replace(
            self.status,
            state=state,
            continuation_methods=continuation_methods,
            deadline=deadline,
            incarnation=self._next_incarnation(self.status.incarnation),
        )
        self._broadcasts.add_alive(self.boot_id, self.status)
        return True

    def refute(self, incarnation: int) -> None:
        """Broadcast a higher incarnation than the accused one."""
        self.status = replace(
            self.status, incarnation=self._next_incarnation(max(self.status.incarnation, incarnation))
        )
        self._broadcasts.add_alive(self.boot_id, self.status)

    @staticmethod
    def _next_incarnation(incarnation: int) -> int:
        return min(incarnation + 1, MAX_INCARNATION)

    def broadcast_intro(self) -> None:
        """Broadcast the introduction, for nodes that do not know this one."""
        self._broadcasts.add(self.boot_id, self.intro)

    def leave(self) -> None:
        """Broadcast that this node left; from then on `set_state` changes nothing."""
        self.has_left = True
        self._broadcasts.add(self.boot_id, write_left(self.boot_id, self.status.incarnation))

    def write_next_load(self) -> bytes:
        """Write the current load under its next version."""
        self.load_version += 1
        return write_load(self.boot_id, self.load_version, self.load)

    def write_next_usage(self, packed: bytes) -> bytes:
        """Write a report of keys' usage under its next version. packed: as `wire.key_usage` writes it."""
        self.usage_version += 1
        return write_key_usage_update(self.boot_id, self.usage_version, packed)


class MessageEncoder:
    """Numbers, addresses and authenticates messages. sent: how many so far."""

    def __init__(
        self,
        local: LocalNode,
        table: MemberTable,
        keys: MessageKeys,
        macs: MessageMacs,
        broadcasts: BroadcastQueue,
        loads: LoadQueue,
        usages: UsageQueue,
    ) -> None:
        self._local = local
        self._table = table
        self._keys = keys
        self._macs = macs
        self._broadcasts = broadcasts
        self._loads = loads
        self._usages = usages
        self.sent = 0

    def encode(self, kind: MessageKind, receiver: bytes, probe: int, content: bytes) -> bytes:
        """Return an authenticated message without piggybacked updates.

        A JOIN, and any message to a node that is no member, is authenticated as if the receiver lacked this one.
        """
        member = self._table.by_boot_id.get(receiver) if kind is not MessageKind.JOIN else None
        return self._encode(kind, receiver, probe, content, member.status if member is not None else None)

    def _encode(
        self, kind: MessageKind, receiver: bytes, probe: int, content: bytes, status: NodeStatus | None
    ) -> bytes:
        self.sent += 1
        header = write_header(Header(kind, self._local.boot_id, receiver, self.sent, probe))
        return self._macs.append(self._keys.to(status), header + content)

    def encode_answer_to_join(self, join: Header, nodes: int, first: bytes, intro: Intro) -> bytes:
        """Return the ACK of a JOIN, in which the sender has introduced itself.

        It is authenticated with the pair's key where the sender has this node's introduction, as its message shows.
        """
        room = MAX_DATAGRAM - MAC_BYTES - HEADER_BYTES - len(first)
        content = first + self._next_updates(room, nodes)
        knows_this_node = join.receiver == self._local.boot_id
        return self._encode(
            MessageKind.ACK, join.sender, join.probe, content, intro.status if knows_this_node else None
        )

    def _next_updates(self, room: int, nodes: int) -> bytes:
        sent = self._broadcasts.next_batch(room, retransmit_limit(nodes))
        room -= sum(map(len, sent))
        loads = self._loads.next_batch(room)
        usages = self._usages.next_batch(room - len(loads)) if len(self._usages) else b""
        return b"".join((*sent, loads, usages))

    def encode_datagram(
        self, kind: MessageKind, receiver: bytes, nodes: int, probe: int = 0, target: bytes = b"", first: bytes = b""
    ) -> bytes:
        """Return a message for a datagram, with piggybacked updates.

        nodes: how many there are, this one included; target: for PING_REQ; first: updates that have to be in it.
        """
        room = MAX_DATAGRAM - MAC_BYTES - HEADER_BYTES - len(target) - len(first)
        return self.encode(kind, receiver, probe, b"".join((target, first, self._next_updates(room, nodes))))
