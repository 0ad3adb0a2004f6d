"""A replicated stream of one node, and replicas that acknowledge on command."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from node_agent.core.common.address import Address
from node_agent.core.journal.epochs import Epoch
from node_agent.core.replication import protocol
from node_agent.core.replication.replica_store import ReplicaStore
from node_agent.core.replication.replicated_log import (
    ReplicatedLog,
)
from node_agent.ports import LinkListener, ReplicaLink
from node_agent.runtime.replication.manager import ReplicationManager
from node_agent.runtime.replication.replicated_stream import ReplicatedStream
from node_agent.testing.fake_requests import MemoryRequest
from tests.unit.runtime.a_node import make_node


@dataclass
class Link:
    """A replica that acknowledges on command."""

    owner: LinkListener
    sent: list[tuple[int, bytes]] = field(default_factory=list)
    receipts: list[Any] = field(default_factory=list)
    is_late: bool = False

    def send(self, message: bytes, receipt: object = None) -> None:
        ((kind, _, number, body),) = protocol._messages(message)
        self.sent.append((kind, body))
        self.last = kind, number
        self.receipts.append(receipt)

    def acknowledge(self) -> None:
        receipts, self.receipts = self.receipts, []
        self.owner.acknowledged(receipts)

    def lag(self) -> None:
        self.is_late = True
        self.owner.overdue(self.receipts)

    def close(self) -> None:
        """Nothing to close."""


@dataclass
class Stage:
    """A stream of a node with so many peers. links: to its replicas, by the host of their address."""

    peers: int = 2
    wanted: int = 2
    links: dict[str, Link] = field(default_factory=dict)
    client: MemoryRequest = field(default_factory=MemoryRequest)
    fenced: int = 0

    def connect(self, address: Address, owner: LinkListener) -> ReplicaLink:
        self.links[address.host] = Link(owner)
        return self.links[address.host]

    def begin(self) -> ReplicatedStream:
        node = make_node(self.peers)
        self.own = ReplicaStore()
        self.manager = ReplicationManager(node, self, self.own, self.wanted)
        stream = self.manager.open_stream(ReplicatedLog("s", Epoch(1, "i-0"), b"opening"), None)
        stream.deliver = self.client.write
        stream.on_fenced = self._fence
        return stream

    def _fence(self) -> None:
        self.fenced += 1

    def acknowledge(self) -> None:
        for link in self.links.values():
            link.acknowledge()


def write(stream: ReplicatedStream, *events: bytes) -> None:
    for event in events:
        stream.log.lines += event + b"\n"
        stream.write(stream.log.seq + 1, event)


def run_scenario(scenario: Callable[[Stage, ReplicatedStream], Any], peers: int = 2, wanted: int = 2) -> None:
    async def run() -> None:
        played = Stage(peers, wanted)
        running = scenario(played, played.begin())
        if running is not None:
            await running

    asyncio.run(run())
