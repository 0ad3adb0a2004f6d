"""The admin listener: its routes, and that they are not at the client API."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from node_agent.adapters.http_server import HttpServer, bind
from node_agent.contract.errors import RequestRejected
from node_agent.contract.states import NodeState
from node_agent.core.access.caller import Caller, Scope
from node_agent.core.openai import routes
from node_agent.runtime.admin_api.server import AdminApi
from node_agent.runtime.common.metrics import Metrics


def admin_api() -> AdminApi:
    node: Any = SimpleNamespace(metrics=Metrics(), state=NodeState.STARTING, instance_id="i-1")
    draining: Any = SimpleNamespace(record=None)
    return AdminApi(node, draining, identify, lambda: "on", lambda: b'vllm:num_requests_running{engine="0"} 2\n')


def identify(headers: Mapping[bytes, bytes], target: str, scope: Scope) -> Caller:
    """Accept one key, which has one scope, as `ClientKeys.identify` would."""
    if headers.get(b"authorization") != b"Bearer right":
        raise RequestRejected(401, "invalid_api_key", "no key")
    if scope is not Scope.METRICS:
        raise RequestRejected(403, "scope_missing", "another scope")
    return Caller("k", "k", frozenset({Scope.METRICS}))


def answer_to(request: bytes) -> tuple[int, bytes]:
    async def run() -> bytes:
        server, listener = HttpServer(admin_api()), bind("127.0.0.1", 0, "admin listener")
        await server.start(listener)
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(request + b"connection: close\r\n\r\n")
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        await server.close(0.1)
        return answer

    head, _, body = asyncio.run(run()).partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body


def get(path: str, more: str = "host: 127.0.0.1:8003\r\n") -> bytes:
    return f"GET {path} HTTP/1.1\r\n{more}".encode()


def test_each_route_has_a_handler_and_each_handler_a_route() -> None:
    assert set(admin_api().handlers) == set(routes.ADMIN_ROUTES)


@pytest.mark.parametrize("path", sorted(set(routes.ADMIN_ROUTES) - {"/healthz", "/readyz"}))
def test_its_routes_are_none_of_the_client_api(path: str) -> None:
    assert routes.allowed_methods(path) == (), "404, and no engine answers with its own"


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        ("/metrics", b"Bearer right", 200),
        ("/metrics", b"Bearer wrong", 401),
        ("/v1/synkti/drains", b"Bearer right", 403),
        ("/healthz", b"", 200),
    ],
)
def test_a_caller_from_another_machine_needs_a_key_with_the_routes_scope(path: str, key: bytes, status: int) -> None:
    request = Recorded(path, {b"authorization": key, b"host": b"10.0.0.1:8003"})
    asyncio.run(admin_api()(request))  # type: ignore[arg-type] # what the API uses of a request
    assert request.status == status


class Recorded:
    """A request from another machine; has the status of its answer."""

    method, address = "GET", "10.0.0.2"

    def __init__(self, path: str, headers: Mapping[bytes, bytes]) -> None:
        self.path = self.target = path
        self.headers = headers
        self.status = 0

    def respond(self, status: int, *_: Any, **__: Any) -> None:
        self.status = status


def test_metrics_drains_and_health() -> None:
    status, body = answer_to(get("/metrics"))
    assert (status, b"synkti_peers" in body) == (200, True)
    assert b'\nvllm:num_requests_running{node="i-1",engine="0"} 2\n' in body
    assert answer_to(get("/v1/synkti/drains")) == (200, b'{"drains":[]}')
    assert answer_to(get("/healthz"))[0] == 200
    status, body = answer_to(get("/readyz"))
    assert (status, json.loads(body)["status"]) == (503, "starting")


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (get("/v1/models"), 404, "unknown_route"),
        (get("/metrics/"), 404, "unknown_route"),
        (get("/metrics").replace(b"GET", b"POST") + b"content-length: 0\r\n", 405, "method_not_allowed"),
        (get("/metrics", "host: a.example\r\n"), 403, "caller_not_allowed"),
        (get("/metrics", "host: 127.0.0.1:8003\r\norigin: https://a.example\r\n"), 403, "caller_not_allowed"),
        (get("/readyz", "host: 127.0.0.1:8003\r\nsec-fetch-site: cross-site\r\n"), 403, "caller_not_allowed"),
    ],
)
def test_all_else_is_refused(request_: bytes, status: int, code: str) -> None:
    found, body = answer_to(request_)
    assert (found, json.loads(body)["error"]["code"]) == (status, code)
