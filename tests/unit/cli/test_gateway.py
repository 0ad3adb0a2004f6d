"""The gateway's own decisions: who may call it, what it passes on, what it answers when no node does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import synkti_client
from cli.api_key import api_key_headers
from cli.gateway import Gateway, log_continuations
from cli.terminal import Terminal
from node_agent.adapters.http_server import HttpServer, bind
from node_agent.core.http.callers import CallerPolicy
from synkti_client import httpx
from synkti_client._nodes import Nodes
from tests.unit.client.scripted import NODES, QUICK, Pieces, Script, stream

OK = httpx.Response(200, json={"ok": True})
CHAT = "/v1/chat/completions"

# who may call


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"host": b"127.0.0.1:8080"},
        {b"host": b"[::1]:8080"},
        {b"host": b"10.0.0.3"},
        {b"host": b"localhost:8080"},
        {b"host": b"gateway:8080"},
        {b"host": b"gateway.internal"},
        {b"host": b"127.0.0.1:8080", b"origin": b"http://localhost:3000"},
        {b"host": b"127.0.0.1:8080", b"origin": b"http://127.0.0.1:8080"},
        {b"host": b"127.0.0.1:8080", b"sec-fetch-site": b"none"},
    ],
)
def test_programs_and_allowed_origins_may_send_requests(headers: dict[bytes, bytes]) -> None:
    assert CallerPolicy(("gateway.internal",), ("http://localhost:3000",)).rejection_reason(headers) is None


@pytest.mark.parametrize(
    ("headers", "advice"),
    [
        ({b"host": b"evil.example:8080"}, "--allow-host"),
        ({b"host": b"127.0.0.1.evil.example"}, "--allow-host"),
        ({b"host": b"localhost, evil.example"}, "--allow-host"),
        ({b"host": b"evil.example@127.0.0.1"}, "--allow-host"),
        ({b"host": b"\xff"}, "--allow-host"),
        ({b"host": b"127.0.0.1", b"origin": b"http://evil.example"}, "--allow-origin"),
        ({b"host": b"127.0.0.1", b"origin": b"null"}, "--allow-origin"),
        ({b"host": b"127.0.0.1:8080", b"origin": b"http://127.0.0.1:9"}, "--allow-origin"),
        ({b"host": b"127.0.0.1", b"sec-fetch-site": b"cross-site"}, "--allow-origin"),
        ({b"host": b"127.0.0.1", b"sec-fetch-site": b"same-site"}, "--allow-origin"),
    ],
)
def test_other_origins_may_not(headers: dict[bytes, bytes], advice: str) -> None:
    assert advice in (CallerPolicy(origins=("http://localhost:3000",)).rejection_reason(headers) or "")


# over a socket


Send = Callable[[bytes], Awaitable[tuple[bytes, bytes]]]


@contextlib.asynccontextmanager
async def served(script: Script, callers: CallerPolicy | None = None) -> AsyncIterator[Send]:
    """A gateway over scripted nodes; what sends it bytes and reads head and body of the answer."""
    transport = synkti_client.AsyncContinuousTransport(Nodes(NODES), QUICK, httpx.MockTransport(script))
    server, listener = HttpServer(Gateway(transport, callers)), bind("127.0.0.1", 0, "gateway")
    await server.start(listener)

    async def send(request: bytes) -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_connection(*listener.getsockname()[:2])
        writer.write(request)
        head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        writer.close()
        return head, body

    try:
        yield send
    finally:
        await server.close(1.0)


def raw(method: str = "POST", target: bytes = CHAT.encode(), body: bytes = b"{}", *lines: bytes) -> bytes:
    head = b"%b %b HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-length: %d\r\n" % (
        method.encode(), target, len(body)
    )  # fmt: skip
    return head + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def answered(script: Script, request: bytes, callers: CallerPolicy | None = None) -> tuple[int, bytes, Any]:
    """Status, head and JSON body of the answer to one request."""

    async def run() -> tuple[bytes, bytes]:
        async with served(script, callers) as send:
            return await send(request)

    head, body = asyncio.run(run())
    return int(head.split()[1]), head.lower(), json.loads(body) if body.startswith(b"{") else body


def test_a_page_of_another_origin_reaches_no_node() -> None:
    script = Script(lambda request: OK)
    for lines in ((b"origin: http://evil.example", b"content-type: text/plain"), (b"sec-fetch-site: cross-site",)):
        status, _, document = answered(script, raw("POST", CHAT.encode(), b"{}", *lines))
        assert (status, document["error"]["code"]) == (403, "caller_not_allowed")
    status, _, document = answered(script, raw("GET", b"/v1/models", b"", b"origin: http://evil.example"))
    assert (status, document["error"]["code"]) == (403, "caller_not_allowed")
    assert script.requests == []


def test_a_page_of_an_allowed_origin_can_send_a_preflight_and_read_the_answer() -> None:
    callers, script = CallerPolicy(origins=("http://localhost:3000",)), Script(lambda request: OK)
    origin = b"origin: http://localhost:3000"
    status, head, _ = answered(script, raw("OPTIONS", CHAT.encode(), b"", origin), callers)
    assert status == 204
    assert b"access-control-allow-methods: get, post" in head
    status, head, _ = answered(script, raw("POST", CHAT.encode(), b"{}", origin), callers)
    assert status == 200
    assert b"access-control-allow-origin: http://localhost:3000\r\n" in head


def test_a_clients_key_is_forwarded_and_the_gateways_own_is_added_where_there_is_none() -> None:
    script, own = Script(lambda request: OK), {"authorization": "Bearer own"}

    async def run() -> None:
        transport = synkti_client.AsyncContinuousTransport(Nodes(NODES), QUICK, httpx.MockTransport(script))
        server, listener = HttpServer(Gateway(transport, key=own)), bind("127.0.0.1", 0, "gateway")
        assert transport.nodes.credentials == own, "for the list of nodes, before the first request"
        await server.start(listener)
        for line in (b"authorization: Bearer client", b"x-api-key: client", b"x-a: b"):
            reader, writer = await asyncio.open_connection(*listener.getsockname()[:2])
            writer.write(raw("POST", CHAT.encode(), b"{}", line))
            await reader.read(-1)
            writer.close()
        await server.close(1.0)

    asyncio.run(run())
    sent = [(request.headers.get("authorization"), request.headers.get("x-api-key")) for request in script.requests]
    assert sent == [("Bearer client", None), (None, "client"), ("Bearer own", None)]


def test_the_key_of_the_environment_is_synktis_own_before_openais() -> None:
    assert api_key_headers({}) == {}
    assert api_key_headers({"OPENAI_API_KEY": "o", "SYNKTI_API_KEY": ""}) == {"authorization": "Bearer o"}
    assert api_key_headers({"OPENAI_API_KEY": "o", "SYNKTI_API_KEY": "s"}) == {"authorization": "Bearer s"}


def test_bytes_beyond_ascii_in_headers_are_passed_on() -> None:
    script = Script(lambda request: OK)
    status, _, _ = answered(script, raw("POST", CHAT.encode(), b"{}", b"x-a: b\xff", "x-b: ü".encode()))
    assert status == 200
    assert dict(script.requests[0].headers.raw)[b"x-a"] == b"b\xff"


@pytest.mark.parametrize(
    "target", [b"http://stranger:9/x", b"*", b"/v1/\xff", b"/v1/%ff", b"/[", b"//stranger/x", b"/" + b"a" * 60_000]
)
def test_any_target_is_sent_to_a_node_or_refused_with_a_reason(target: bytes) -> None:
    script = Script(lambda request: OK)
    status, _, document = answered(script, raw("GET", target, b""))
    if script.requests:
        assert status == 200
        assert all(f"http://{request.url.netloc.decode()}" in NODES for request in script.requests)
    else:
        assert status == 400
        assert document["error"]["code"] in ("invalid_target", "invalid_http", "invalid_request")


@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
def test_without_a_node_the_error_has_the_reason_and_is_not_retried(path: str) -> None:
    def down(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectTimeout("")

    status, head, document = answered(Script(down), raw("POST", path.encode()))
    assert (status, document["error"]["code"]) == (503, "no_node_answers")
    assert "http://a:1: no connection in time" in document["error"]["message"]
    assert b"x-should-retry: false" in head
    assert b"retry-after: 5" in head
    assert document.get("type") == ("error" if path == "/v1/messages" else None)


def test_a_lost_stream_ends_with_an_event_in_the_routes_form() -> None:
    def lost(request: httpx.Request) -> httpx.Response:
        if len(script.requests) == 1:
            return stream(b'id: s/1\ndata: {"n":1}\n\n')
        return httpx.Response(410, json={"error": {"code": "stream_expired"}})

    for path, begins in (
        (CHAT, b'data: {"error":{'),
        ("/v1/messages", b'event: error\ndata: {"type":"error","error":{'),
    ):
        script = Script(lost)
        status, _, body = answered(script, raw("POST", path.encode(), b'{"stream":true}'))
        assert status == 200
        assert begins in body
        assert b"410 stream_expired" in body
        assert b'"code":"stream_lost"' in body


def test_an_answer_that_breaks_in_the_middle_is_not_ended() -> None:
    def breaks(request: httpx.Request) -> httpx.Response:
        return httpx.Response(
            200, headers={"content-type": "audio/mpeg"}, stream=Pieces(b"half", httpx.ReadError("reset"))
        )

    _, _, body = answered(Script(breaks), raw("POST", b"/v1/audio/speech"))
    assert b"half" in body
    assert b"0\r\n\r\n" not in body


def test_pieces_are_passed_on_as_they_arrive() -> None:
    """The second piece is made only once the client has read the first."""
    got_first = asyncio.Event()

    class Waits(Pieces):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"data: first\n\n"
            await got_first.wait()
            yield b"data: [DONE]\n\n"

    async def story() -> bytes:
        script = Script(lambda r: httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=Waits()))
        transport = synkti_client.AsyncContinuousTransport(Nodes(NODES), QUICK, httpx.MockTransport(script))
        server, listener = HttpServer(Gateway(transport)), bind("127.0.0.1", 0, "gateway")
        await server.start(listener)
        reader, writer = await asyncio.open_connection(*listener.getsockname()[:2])
        writer.write(raw("POST", b"/v1/audio/transcriptions", b'{"stream":true}'))
        async with asyncio.timeout(20):
            await reader.readuntil(b"data: first\n\n")
            got_first.set()
            rest = await reader.read(-1)
        writer.close()
        await server.close(1.0)
        return rest

    assert b"data: [DONE]" in asyncio.run(story())


@pytest.mark.parametrize("as_json", [False, True])
def test_a_stream_that_outlives_a_node_is_a_line_on_standard_error(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(request: httpx.Request) -> httpx.Response:
        first = len(script.requests) == 1
        return stream(b"id: s/1\ndata: 1\n\n", httpx.ReadError("reset")) if first else stream(b"data: [DONE]\n\n")

    script = Script(breaks)
    log = logging.getLogger("synkti_client")
    try:
        log_continuations(Terminal(as_json))
        answered(script, raw(body=b'{"model": "m", "stream": true}'))
    finally:
        log.handlers, log.propagate = [], True
        log.setLevel(logging.NOTSET)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == (0 if as_json else 1)
    assert as_json or (lines[0].startswith("gateway: a stream outlived http://") and "it continues at" in lines[0])
