"""This node's side of every message: who it is, which number comes next, and what rides along."""

from __future__ import annotations

from dataclasses import replace

from node_agent.contract.states import NodeState
from node_agent.core.membership.broadcast_queue import BroadcastQueue, LoadQueue, retransmit_limit
from node_agent.core.membership.wire import (
    HEADER_BYTES,
    LIFE_BYTES,
    MAX_DATAGRAM,
    MAX_INCARNATION,
    SEAL_BYTES,
    Header,
    Kind,
    MessageMac,
    check_status,
    write_alive,
    write_header,
    write_intro,
    write_left,
    write_load,
)
from node_agent.core.node.status import IDLE, Load, NodeStatus


class LocalNode:
    """What this node says of itself; every new word is a higher incarnation. Raises ValueError for one too long."""

    def __init__(self, status: NodeStatus, life: bytes, rumours: BroadcastQueue) -> None:
        check_status(status)
        if len(life) != LIFE_BYTES or not any(life):
            raise ValueError(f"a life is {LIFE_BYTES} random bytes")
        self.status = status
        self.life = life
        self.load: Load = IDLE
        self.load_version = 0
        self.has_left = False
        self._rumours = rumours

    @property
    def intro(self) -> bytes:
        return write_intro(self.life, self.status)

    @property
    def alive(self) -> bytes:
        return write_alive(self.life, self.status.incarnation, self.status.state, self.status.continuation_methods)

    def say(self, state: NodeState, ways: tuple[str, ...] = ()) -> bool:
        """Have a new state, or other ways, told. Returns whether they are.

        All else that a status says holds for a whole life: rumours tell of a change in short, and whoever had believed
        a short one would not look at the full one any more.
        """
        if self.has_left or (self.status.state, self.status.continuation_methods) == (state, ways):
            return False
        self.status = replace(
            self.status, state=state, continuation_methods=ways, incarnation=self._above(self.status.incarnation)
        )
        self._rumours.tell_alive(self.life, self.status)
        return True

    def refute(self, incarnation: int) -> None:
        """Have a higher incarnation than the accused one told."""
        self.status = replace(self.status, incarnation=self._above(max(self.status.incarnation, incarnation)))
        self._rumours.tell_alive(self.life, self.status)

    @staticmethod
    def _above(incarnation: int) -> int:
        return min(incarnation + 1, MAX_INCARNATION)

    def introduce(self) -> None:
        """Have all of it told, to those who never heard of this node."""
        self._rumours.tell(self.life, self.intro)

    def leave(self) -> None:
        self.has_left = True
        self._rumours.tell(self.life, write_left(self.life, self.status.incarnation))

    def next_load(self) -> bytes:
        """The current load as the next version of it."""
        self.load_version += 1
        return write_load(self.life, self.load_version, self.load)


class MessageEncoder:
    """Numbers, addresses and seals messages. sent: how many so far."""

    def __init__(self, me: LocalNode, seal: MessageMac, rumours: BroadcastQueue, loads: LoadQueue) -> None:
        self._me = me
        self._seal = seal
        self._rumours = rumours
        self._loads = loads
        self.sent = 0

    def message(self, kind: Kind, receiver: bytes, probe: int, content: bytes) -> bytes:
        """A sealed message with nothing riding along."""
        self.sent += 1
        header = write_header(Header(kind, self._me.life, receiver, self.sent, probe))
        return self._seal.close(header + content)

    def datagram(
        self, kind: Kind, receiver: bytes, nodes: int, probe: int = 0, target: bytes = b"", first: bytes = b""
    ) -> bytes:
        """A message for a datagram, what is to be told riding along.

        nodes: how many there are, this one included; target: for ASK; first: rumours that have to be in it.
        """
        room = MAX_DATAGRAM - SEAL_BYTES - HEADER_BYTES - len(target) - len(first)
        told = self._rumours.take(room, retransmit_limit(nodes))
        room -= sum(map(len, told))
        return self.message(kind, receiver, probe, b"".join((target, first, *told, self._loads.take(room))))
