"""Helpers for scenarios of clients: finds the entry node of a stream, and runs a gateway in front of a fleet."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import synkti_client
from cli.gateway import Gateway
from node_agent.adapters.http_server import HttpServer, bind
from tests.scenarios.local_fleet import LocalFleet, LocalNode, eventually


def urls(fleet: LocalFleet) -> list[str]:
    return [node.url for node in fleet.nodes]


async def entry_of_the_stream(fleet: LocalFleet) -> LocalNode:
    """Return the node that holds the only client's connection, once more than 20 events were generated."""
    found: list[LocalNode] = []

    async def streaming() -> bool:
        found[:] = [n for n in fleet.nodes if any(s.machine.seq > 20 for s in n.agent.parts.clients.streams)]
        return bool(found)

    await eventually("a stream is in progress", streaming)
    return found[0]


@contextlib.asynccontextmanager
async def gateway(nodes: list[str], tls: synkti_client.Tls | None = None) -> AsyncIterator[str]:
    """Run a gateway to these nodes for the block, and yield its base URL."""
    listener = bind("127.0.0.1", 0, "gateway")
    transport = synkti_client.async_transport(nodes, tls=tls)
    server = HttpServer(Gateway(transport))
    await server.start(listener)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        await server.close(1.0)
        await transport.aclose()
