"""Serve a node's page over a fleet of any size, without its agents: for its tests, its pictures and its measurement.

Routes, server, snapshots and the membership table are the real ones; the nodes are entries of that table, which the
caller changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace

from local.lone_node import add_peer, lone_node
from node_agent.adapters.http_server import HttpServer, bind
from node_agent.adapters.package_files import read_instance_prices, read_page
from node_agent.contract.errors import RequestRejected
from node_agent.contract.states import NodeState
from node_agent.core.node.status import Liveness, Load, NodeStatus, Pool
from node_agent.core.openai import routes
from node_agent.ports import ServerRequest
from node_agent.runtime.client_api.client_keys import ClientKeys
from node_agent.runtime.client_api.stream_registry import StreamRegistry
from node_agent.runtime.common.responses import answer_error
from node_agent.runtime.ui.page import Page
from node_agent.runtime.ui.snapshots import Snapshots
from node_agent.testing.fake_keys import MemoryKeyStore

ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
TYPES = ("g5.xlarge", "g6.xlarge", "g6e.2xlarge")
_FEW = 9
"""Of so many nodes all have the first type."""

_MAX_STREAMS = 100


def status_of(number: int, state: NodeState = NodeState.READY) -> NodeStatus:
    """Return the status of a node: numbers are spread over zones and types."""
    name = f"i-0{number:08x}{(0xA3F10C2 + number * 0x9E3779B1) % 2**32:08x}"
    pool = Pool(ZONES[number % len(ZONES)], TYPES[number // len(ZONES) % len(TYPES)] if number >= _FEW else TYPES[0])
    address = f"10.71.{number // 250}.{number % 250 + 1}"
    return NodeStatus(name, f"{address}:8001", f"{address}:8000", state, pool, "qwen2.5-7b", 1)


class Stage:
    """The page of node 0, and its peers.

    nodes: how many there are. keys: a document of client keys, None where no key is needed. host: a loopback address.
    `url`: of the page.
    """

    def __init__(self, nodes: int, keys: bytes | None, host: str) -> None:
        self.node = lone_node(status_of(0), [status_of(number) for number in range(1, nodes)], time.time)
        client_keys = ClientKeys(self.node, None if keys is None else MemoryKeyStore(keys, keys), lambda: 0.5)
        streams = StreamRegistry(self.node.metrics, _MAX_STREAMS)
        prices = read_instance_prices()
        self.snapshots = Snapshots(self.node, streams, prices, "synkti", "http")
        self.page = Page(read_page(), self.snapshots, client_keys, is_on=True)
        self.url = ""
        self._keys = client_keys
        self._host = host
        self._server = HttpServer(self)
        self._sending: asyncio.Task[None] | None = None

    async def __call__(self, request: ServerRequest) -> None:
        """Answer the page's routes as the client API does: exact paths, the key's scope, errors in OpenAI's form."""
        path = routes.raw_path(request.target)
        handler = self.page.handlers.get(path)
        if handler is None:
            answer_error(request, 404, "unknown_route", "There is no such route.")
            return
        try:
            if (scope := routes.required_scope(path)) is not None:
                self._keys.identify(request.headers, request.target, scope)
            await handler(request)
        except RequestRejected as rejected:
            answer_error(request, rejected.status, rejected.code, str(rejected))

    async def start(self) -> None:
        """Listen, and send snapshots."""
        listener = bind(self._host, 0, "page")
        self.url = f"http://{self._host}:{listener.getsockname()[1]}{routes.PAGE}"
        await self._server.start(listener)
        self._sending = asyncio.create_task(self.page.run())

    def stop(self) -> None:
        """Close all connections at once, as the end of a node does."""
        if self._sending is not None:
            self._sending.cancel()
        self._server.abort()

    # what happens to nodes

    def name(self, number: int) -> str:
        """Return the instance id of a node."""
        return status_of(number).instance_id

    def set_state(self, number: int, state: NodeState, deadline: int = 0) -> None:
        """Set a node's state, as its gossip would. deadline: unix seconds, 0 for none."""
        if number == 0:
            self.node.set_state(state, deadline or None)
            return
        member = self.node.members.members[self.name(number)]
        incarnation = member.status.incarnation + 1
        status = replace(member.status, state=state, deadline=deadline, incarnation=incarnation)
        self.node.members._table.update(member, status)

    def set_liveness(self, number: int, liveness: Liveness) -> None:
        """Set a node's liveness in node 0's view."""
        member = self.node.members.members[self.name(number)]
        self.node.members._table.set_liveness(member, liveness, time.monotonic())

    def set_load(self, number: int, load: Load) -> None:
        """Set a node's load."""
        if number == 0:
            self.node.set_load(load)
        else:
            self.node.members.members[self.name(number)].load = load

    def set_loads(self, step: int = 0) -> None:
        """Give every node another load. step: the same for the same loads."""
        for number in range(len(self.node.members.members) + 1):
            running = (number * 7 + step * (1 + number % 3)) % 23
            waiting = max(0, (number * 5 + step) % 17 - 13)
            self.set_load(number, Load(running, waiting, running / 32, 0.018 + number % 5 / 400, 4_000.0))

    def add(self, number: int, state: NodeState = NodeState.STARTING) -> None:
        """Add a node."""
        add_peer(self.node, status_of(number, state))


@contextlib.asynccontextmanager
async def page_stage(nodes: int, keys: bytes | None = None, host: str = "") -> AsyncIterator[Stage]:
    """Serve the page of a fleet of so many nodes, on a loopback address of this process by default."""
    found = Stage(nodes, keys, host or f"127.{180 + os.getpid() % 70}.{os.getpid() // 70 % 250}.1")
    found.set_loads()
    await found.start()
    try:
        yield found
    finally:
        found.stop()
