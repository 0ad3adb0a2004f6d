"""The peer API answers the node that the connection belongs to, and no other one that signs over it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from node_agent.core.common.cluster_keys import cluster_key
from node_agent.core.common.request_auth import AUTH_HEADER, RequestVerifier, receiver_name, request_content, sign
from node_agent.runtime.common.metrics import Metrics
from node_agent.runtime.peer_api.server import PeerApi

KEY, NOW = cluster_key(b"cluster key"), 1_000.0
TARGET = "/peer/v1/unknown"


class Request:
    """A signed request of the node i-a, over a connection of a node; has the status of its answer."""

    method, body, address, path, target = "GET", b"", "10.0.0.2", TARGET, TARGET

    def __init__(self, peer: str) -> None:
        self.peer = peer
        content = request_content(self.method, TARGET, (), b"")
        stamp = sign(KEY, content, NOW, "i-a", receiver_name("i-b", "run"), "nonce")
        self.headers = {AUTH_HEADER.encode(): stamp.encode()}
        self.status = 0

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None

    def respond(self, status: int, *_: Any, **__: Any) -> None:
        self.status = status


@pytest.mark.parametrize(("peer", "status"), [("i-a", 404), ("", 404), ("i-c", 401)])
def test_a_request_that_another_node_signed_than_the_connections_is_refused(peer: str, status: int) -> None:
    node: Any = SimpleNamespace(min_silence_s=1.0, wall_clock=lambda: NOW, metrics=Metrics())
    unused: Any = None
    verifier = RequestVerifier("i-b", "run", lambda *_: KEY)
    api = PeerApi(node, unused, unused, verifier, unused, unused, unused)
    request: Any = Request(peer)
    asyncio.run(api(request))
    assert request.status == status
