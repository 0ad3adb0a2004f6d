"""TLS at the HTTP server: over real sockets, what holds without TLS holds with it, and handshakes are bounded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import warnings
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from node_agent.adapters import http_tls_listener
from node_agent.adapters.certificate_files import CertificateFiles
from node_agent.adapters.http_limits import Limits
from node_agent.adapters.http_server import Handle, HttpServer, bind
from node_agent.ports import ServerRequest
from tests.unit.adapters.certificates import Authority, Pair
from tests.unit.adapters.door_stage import ROOMY, Client, echo, in_pieces, post, until


@dataclass
class Secured:
    """A server with TLS. authority: whose certificate it has; context: of its new connections."""

    server: HttpServer
    address: tuple[str, int]
    authority: Authority
    context: ssl.SSLContext
    refused: list[str] = field(default_factory=list)
    opened: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self, context: ssl.SSLContext | None = None) -> Client:
        reader, writer = await asyncio.open_connection(*self.address, ssl=context or self.authority.client_context())
        self.opened.append(writer)
        return Client(self.server, reader, writer)

    async def plain(self) -> Client:
        reader, writer = await asyncio.open_connection(*self.address)
        self.opened.append(writer)
        return Client(self.server, reader, writer)


Story = Callable[[Secured], Coroutine[Any, Any, None]]
RUNNERS = {"asyncio": asyncio.run, "uvloop": uvloop.run}
runners = pytest.mark.parametrize("runner", RUNNERS)


def run_secured(
    folder: Path, handle: Handle, story: Story, limits: Limits = ROOMY, runner: str = "uvloop", pair: Pair | None = None
) -> None:
    async def run() -> None:
        authority = Authority(folder)
        made = pair or authority.pair()
        listener = bind("127.0.0.1", 0, "API")
        refused: list[str] = []
        server = HttpServer(handle, limits, on_refused=refused.append)
        context = (await CertificateFiles(made.certificate, made.key).load()).context
        server.use_tls(lambda: secured.context)
        address = listener.getsockname()
        await server.start(listener)
        secured = Secured(server, address, authority, context, refused)
        try:
            async with asyncio.timeout(15):
                await story(secured)
        finally:
            for writer in secured.opened:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
            await server.close(0.1)

    RUNNERS[runner](run())


@runners
def test_requests_and_answers_over_tls(tmp_path: Path, runner: str) -> None:
    async def story(secured: Secured) -> None:
        client = await secured.connect()
        for body in ("one", "two"):
            status, _, answer = await client.request(post(body), cut=7)
            assert (status, answer) == (200, f"POST /a b {body}".encode())
        shown = client.writer.get_extra_info("ssl_object")
        assert shown.version() == "TLSv1.3"

    run_secured(tmp_path, echo, story, runner=runner)


def test_http_1_1_is_negotiated_and_old_versions_are_refused(tmp_path: Path) -> None:
    async def story(secured: Secured) -> None:
        context = secured.authority.client_context()
        context.set_alpn_protocols(["h2", "http/1.1"])
        client = await secured.connect(context)
        assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            old = secured.authority.client_context()
            old.set_ciphers("ALL:@SECLEVEL=0")
            with warnings.catch_warnings(action="ignore"):
                old.minimum_version = old.maximum_version = version
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await secured.connect(old)
        await until(lambda: secured.refused.count("tls_handshake") == 2)
        newer = secured.authority.client_context()
        newer.maximum_version = ssl.TLSVersion.TLSv1_2
        assert (await (await secured.connect(newer)).request(post("x")))[0] == 200

    run_secured(tmp_path, echo, story)


@runners
def test_a_client_without_tls_gets_an_error_that_names_it(tmp_path: Path, runner: str) -> None:
    async def story(secured: Secured) -> None:
        client = await secured.plain()
        status, headers, body = await client.request(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (status, headers["connection"]) == (400, "close")
        assert json.loads(body)["error"]["code"] == "tls_required"
        assert "https://" in json.loads(body)["error"]["message"]
        assert await client.is_closed()
        assert secured.refused == ["no_tls"]
        await until(lambda: not secured.server.connections)

    run_secured(tmp_path, echo, story, runner=runner)


@runners
@pytest.mark.parametrize("sends", [b"", b"\x16\x03\x01"], ids=["nothing", "half a handshake"])
def test_a_stalled_handshake_ends_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: str, sends: bytes
) -> None:
    monkeypatch.setattr(http_tls_listener, "HANDSHAKE_TIMEOUT_S", 0.2)

    async def story(secured: Secured) -> None:
        client = await secured.plain()
        client.writer.write(sends)
        assert await client.is_closed()
        assert secured.refused == ["tls_handshake_timeout"]
        await until(lambda: not secured.server.connections and secured.server._connection_limits.in_use == 0)

    run_secured(tmp_path, echo, story, runner=runner)


def test_handshakes_count_as_connections(tmp_path: Path) -> None:
    async def story(secured: Secured) -> None:
        stalled = [await secured.plain() for _ in range(2)]
        await until(lambda: secured.server._connection_limits.in_use == 2)
        health_only = await secured.connect()
        status, _, body = await health_only.request(post("x"))
        assert (status, json.loads(body)["error"]["code"]) == (503, "too_many_connections")
        healthy = await secured.connect()
        assert (await healthy.request(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n"))[0] == 200
        for client in stalled:
            client.writer.close()
        await until(lambda: secured.server._connection_limits.in_use == 0)
        assert (await (await secured.connect()).request(post("x")))[0] == 200

    run_secured(tmp_path, echo, story, replace(ROOMY, connections=2))


def test_a_connection_without_any_slot_is_reset_before_its_handshake(tmp_path: Path) -> None:
    async def story(secured: Secured) -> None:
        await secured.plain()
        await until(lambda: secured.server._connection_limits.in_use == 1)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await secured.connect()
        assert secured.refused == ["too_many_connections"]
        assert len(secured.server.connections) == 1

    run_secured(tmp_path, echo, story, replace(ROOMY, connections=1, reserved=0))


def test_bytes_that_are_no_handshake_end_the_connection(tmp_path: Path) -> None:
    async def story(secured: Secured) -> None:
        client = await secured.plain()
        client.writer.write(b"\x16\x03\x01\x00\x05hello" * 9)
        assert (await client.reader.read())[:1] in (b"", b"\x15")  # an alert
        await until(lambda: secured.refused == ["tls_handshake"] and not secured.server.connections)

    run_secured(tmp_path, echo, story)


def _small_buffers(context: ssl.SSLContext, address: tuple[str, int]) -> ssl.SSLSocket:
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(address)
    return context.wrap_socket(raw, server_hostname="127.0.0.1")


@runners
def test_a_client_that_does_not_read_is_cut_off(tmp_path: Path, runner: str) -> None:
    congested = asyncio.Event()

    async def large(request: ServerRequest) -> None:
        request.begin(200, b"text/plain")
        request.when_congested(lambda is_congested: congested.set())
        while not request.is_gone:
            request.write(b"x" * 10_000)
            await asyncio.sleep(0)
            if congested.is_set():
                return await asyncio.sleep(60)
        return None

    async def story(secured: Secured) -> None:
        context = secured.authority.client_context()
        quiet = await asyncio.to_thread(_small_buffers, context, secured.address)
        await asyncio.to_thread(quiet.sendall, post("x"))
        await congested.wait()
        (connection,) = secured.server.connections
        connection.check(secured.server.now)
        connection.check(secured.server.now + ROOMY.unread_s + 1)
        await until(lambda: not secured.server.connections)
        assert secured.refused == ["unread"]
        quiet.close()

    run_secured(tmp_path, large, story, runner=runner)


def test_a_slow_reader_receives_all_of_a_large_answer(tmp_path: Path) -> None:
    size = 3_000_000

    async def large(request: ServerRequest) -> None:
        request.respond(200, b"x" * size, b"text/plain", [(b"connection", b"close")])

    async def story(secured: Secured) -> None:
        client = await secured.connect()
        client.writer.write(b"GET / HTTP/1.0\r\nhost: x\r\n\r\n")  # the server closes behind it
        await asyncio.sleep(0.05)
        status, _, body = await client.answer()
        assert (status, len(body)) == (200, size)
        assert await client.is_closed()

    run_secured(tmp_path, large, story)


def test_a_handler_is_notified_of_a_client_that_leaves(tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def wait(request: ServerRequest) -> None:
        request.when_gone(gone.set)
        await asyncio.sleep(60)

    async def story(secured: Secured) -> None:
        client = await secured.connect()
        client.writer.write(post("x"))
        await until(lambda: secured.server.busy == 1)
        client.writer.transport.abort()
        await gone.wait()

    run_secured(tmp_path, wait, story)


def test_an_aborted_server_ends_connections_and_handshakes_at_once(tmp_path: Path) -> None:
    async def story(secured: Secured) -> None:
        client, stalled = await secured.connect(), await secured.plain()
        await until(lambda: len(secured.server.connections) == 2)
        secured.server.abort()
        assert await client.is_closed()
        assert await stalled.is_closed()
        await until(lambda: not secured.server.connections)
        with pytest.raises(ConnectionRefusedError):
            await secured.plain()

    run_secured(tmp_path, echo, story)


def test_a_response_in_pieces_arrives_piece_by_piece(tmp_path: Path) -> None:
    async def story(secured: Secured) -> None:
        client = await secured.connect()
        status, _, body = await client.request(post("x"))
        assert (status, body) == (200, b"one two three")

    run_secured(tmp_path, in_pieces, story)


def test_a_new_context_is_that_of_new_connections(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")

    async def story(secured: Secured) -> None:
        open_before = await secured.connect()
        pair = other.pair()
        secured.context = (await CertificateFiles(pair.certificate, pair.key).load()).context
        with pytest.raises(ssl.SSLCertVerificationError):
            await secured.connect()
        assert (await (await secured.connect(other.client_context())).request(post("x")))[0] == 200
        assert (await open_before.request(post("x")))[0] == 200, "an open connection continues"

    run_secured(tmp_path, echo, story)


def test_without_descriptors_accepting_pauses_and_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_tls_listener, "_EXHAUSTED_WAIT_S", 0.05)

    class Full:
        """A listener whose first accept fails."""

        def __init__(self, listener: socket.socket) -> None:
            self._listener = listener
            self.failures = 1

        def accept(self) -> tuple[socket.socket, Any]:
            if self.failures:
                self.failures -= 1
                raise OSError(24, "Too many open files")
            return self._listener.accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._listener, name)

    async def story(secured: Secured) -> None:
        tls = secured.server._server
        assert isinstance(tls, http_tls_listener.TlsListener)
        tls._listener = Full(tls._listener)  # type: ignore[assignment]
        assert (await (await secured.connect()).request(post("x")))[0] == 200

    run_secured(tmp_path, echo, story)
