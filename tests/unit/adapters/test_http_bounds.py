"""What a client, a peer or a stranger may make a server hold, or do: bytes and seconds, all of them bounded."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.adapters import http_server_connection
from node_agent.adapters.http_limits import Limits
from node_agent.adapters.http_message import MessageReader
from node_agent.adapters.http_server import HttpServer
from node_agent.adapters.http_server_connection import ServerConnection
from node_agent.core.http.body_budget import IDLE_S, SMALL_BYTES
from node_agent.core.http.document_bounds import DocumentBounds
from node_agent.core.http.request_head import ErrorResponse
from node_agent.ports import ServerRequest
from tests.unit.adapters.door_stage import LIMITS, Client, another, echo, in_pieces, post, run_scenario, until

CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
ROOMY = Limits(stalled_s=5.0, unread_s=30.0)


def code_of(body: bytes) -> str:
    return str(json.loads(body)["error"]["code"])


class Read:
    """A Receiver that remembers; room: how large a body may grow."""

    def __init__(self, room: int = 1 << 40) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[bytes, bytes]] = []
        self.faults: list[ErrorResponse] = []
        self.room = room

    def on_request(self, method: str, target: str, headers: dict[bytes, bytes], body: bytes) -> None:
        self.bodies.append(body)
        self.headers.append(headers)

    def on_fault(self, fault: ErrorResponse) -> None:
        self.faults.append(fault)

    def on_expect_continue(self) -> None:
        """It gets it."""

    def reserve_body(self, size: int) -> bool:
        return size <= self.room


def read_all(raw: bytes, limits: Limits | None = None, cut: int = 65536) -> Read:
    read = Read()
    reader = MessageReader(read, limits or Limits())
    for at in range(0, len(raw), cut):
        reader.feed(raw[at : at + cut])
    reader.close()
    return read


# every byte outside of a body


@pytest.mark.parametrize(
    ("outside", "status"),
    [
        (b"0\r\n" + b"a: v\r\n" * 150_000, 431),
        (b"0\r\n" + b"".join(b"t%d: v\r\n" % n for n in range(100_000)), 431),
        (b"0\r\nx: " + b"v" * 900_000, 431),
        (b"1;a=" + b"v" * 900_000, 431),
        (b"0" * 900_000 + b"1\r\nx\r\n", 431),
        (b"1\r\nx\r\n" * 150_000, 413),
        (b"2;ab\r\nxx\r\n" * 90_000, 413),
    ],
    ids=["equal trailers", "trailers", "one trailer", "extension", "zeros", "small chunks", "chunks with extensions"],
)
def test_invalid_bytes_instead_of_a_body_are_bounded(outside: bytes, status: int) -> None:
    read = read_all(CHUNKED + outside)
    assert [fault.status for fault in read.faults] == [status]
    assert read.bodies == []


def test_empty_lines_between_requests_are_bounded() -> None:
    read = read_all(post("x") + b"\r\n" * 100_000)
    assert (read.bodies, [fault.status for fault in read.faults]) == ([b"x"], [431])


def test_headers_are_bounded_in_number() -> None:
    few, many = (b"".join(b"x: %d\r\n" % n for n in range(count)) for count in (98, 101))
    assert read_all(b"GET / HTTP/1.1\r\nhost: x\r\n" + few + b"\r\n").faults == []
    assert read_all(b"GET / HTTP/1.1\r\nhost: x\r\n" + many + b"\r\n").faults[0].status == 431


def test_a_few_trailers_are_dropped() -> None:
    read = read_all(CHUNKED + b"2\r\nab\r\n0\r\nexpires: now\r\nhost: y\r\n\r\n" + post("next"))
    assert read.bodies == [b"ab", b"next"]
    assert b"expires" not in read.headers[0]
    assert read.headers[0][b"host"] == b"x"


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=200), st.integers(1, 300))
def test_ordinary_chunks_of_any_size_are_accepted(sizes: list[int], cut: int) -> None:
    raw = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (size, b"x" * size) for size in sizes) + b"0\r\n\r\n"
    read = read_all(raw, cut=cut * 37)
    assert (read.faults, [len(body) for body in read.bodies]) == ([], [sum(sizes)])


@given(st.lists(st.sampled_from(["", "a", "bb" * 40]), min_size=1, max_size=5), st.integers(1, 200))
def test_pipelined_requests_are_read_in_any_cuts(bodies: list[str], cut: int) -> None:
    read = read_all(b"".join(map(post, bodies)), cut=cut)
    assert (read.faults, read.bodies) == ([], [body.encode() for body in bodies])


# what is no request for this door


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nhost: \r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a/b\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 505),
        (b"GET / HTTP/2.0\r\nhost: x\r\n\r\n", 505),
        (b"GET / RTSP/1.0\r\nhost: x\r\n\r\n", 505),
        (b"GET / RTSP/1.1\r\nhost: x\r\n\r\n", 505),
        (b"OPTIONS rtsp://x/media RTSP/1.0\r\nhost: x\r\n\r\n", 505),
        (b"DESCRIBE / RTSP/1.0\r\nhost: x\r\n\r\n", 505),
        (b"DESCRIBE / HTTP/1.1\r\nhost: x\r\n\r\n", 501),
        (b"M-SEARCH * HTTP/1.1\r\nhost: x\r\n\r\n", 501),
        (b"PROPFIND / HTTP/1.1\r\nhost: x\r\n\r\n", 501),
        (b"TRACE / HTTP/1.1\r\nhost: x\r\n\r\n", 501),
        (b"CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n", 501),
        (b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 501),
    ],
)
@pytest.mark.parametrize("cut", [1, 9, 10_000])
def test_other_protocols_and_ambiguous_heads_are_refused(raw: bytes, status: int, cut: int) -> None:
    async def story(client: Client) -> None:
        got, headers, body = await client.request(raw, cut)
        assert headers["connection"] == "close"
        assert "message" in json.loads(body)["error"]
        assert got in (status, 400)  # llhttp itself refuses some of them, with its own reason

    run_scenario(echo, story, ROOMY)


@pytest.mark.parametrize("host", ["x", "x:8000", "127.0.0.1:8000", "[::1]:80", "", "a_b.example"])
def test_a_valid_host_is_accepted(host: str) -> None:
    assert read_all(f"GET / HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()).faults == []


def test_http_1_0_needs_no_host() -> None:
    assert read_all(b"GET / HTTP/1.0\r\n\r\n").faults == []


# errors in their turn


@pytest.mark.parametrize(
    "behind",
    [
        b"\x00garbage\r\n\r\n",
        post("", more="x: y\r\n" * 200),
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 999\r\n\r\n",
    ],
    ids=["garbage", "headers", "body"],
)
def test_an_error_follows_the_answers_of_earlier_requests(behind: bytes) -> None:
    may_answer = asyncio.Event()

    async def slow(request: ServerRequest) -> None:
        if request.body == b"pieces":
            request.begin(200, b"text/plain")
            request.write(b"one")
            await may_answer.wait()
            request.end(b"two")
        else:
            await echo(request)

    async def story(client: Client) -> None:
        client.writer.write(post("pieces") + post("second") + behind)
        await until(lambda: client.server.busy == 1)
        await asyncio.sleep(0)
        may_answer.set()
        assert (await client.answer())[2] == b"onetwo"
        assert (await client.answer())[2] == b"POST /a b second"
        status, headers, _ = await client.answer()
        assert (status // 100, headers["connection"]) == (4, "close")

    run_scenario(slow, story, replace(LIMITS, headers=100))


def test_a_100_continue_follows_the_answer_before_it() -> None:
    may_answer = asyncio.Event()

    async def slow(request: ServerRequest) -> None:
        if request.body == b"first":
            await may_answer.wait()
        await echo(request)

    async def story(client: Client) -> None:
        second = post("second", more="expect: 100-continue\r\n")
        client.writer.write(post("first") + second[:-6])
        await until(lambda: client.server.busy == 1)
        may_answer.set()
        assert (await client.answer())[2] == b"POST /a b first"
        assert (await client.answer())[0] == 100
        assert (await client.request(second[-6:]))[2] == b"POST /a b second"

    run_scenario(slow, story)


# clients that do not read


async def unread(client: Client, raw: bytes) -> socket.socket:
    """A connection that sends this and does not read."""
    loop = asyncio.get_running_loop()
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    plain.setblocking(False)
    await loop.sock_connect(plain, client.writer.get_extra_info("peername"))
    await loop.sock_sendall(plain, raw)
    return plain


def test_no_answer_begins_while_its_client_does_not_read() -> None:
    begun = []

    async def counted(request: ServerRequest) -> None:
        begun.append(request.target)
        request.respond(200, b"x" * 300_000)

    async def story(client: Client) -> None:
        plain, loop = await unread(client, b""), asyncio.get_running_loop()
        sent = 0
        while not any(connection.is_congested for connection in client.server.connections):
            await loop.sock_sendall(plain, post(""))
            sent += 1
            await until(lambda: len(begun) == sent and not client.server.busy)  # noqa: B023 # it ends in this turn
        await loop.sock_sendall(plain, post("") * 5)
        # A later request has its answer: so the earlier bytes have arrived, too.
        for _ in range(3):
            assert (await client.request(post("", path="/other")))[0] == 200
        assert begun.count("/a%20b?q=1") == sent
        got = b""
        while got.count(b"HTTP/1.1 200") < sent + 5:
            got += await loop.sock_recv(plain, 1 << 20)
        plain.close()

    run_scenario(counted, story, ROOMY)


@pytest.mark.parametrize("how", ["whole", "whole, the last", "pieces", "refused"])
def test_a_client_that_does_not_read_is_cut_off(how: str) -> None:
    gone: list[bool] = []

    async def much(request: ServerRequest) -> None:
        if how != "pieces":
            request.respond(200, b"x" * 30_000_000)
            return
        left = asyncio.Event()
        request.when_gone(left.set)
        request.begin(200, b"text/plain")
        while not request.is_congested:
            request.write(b"x" * 100_000)
            await asyncio.sleep(0)
        await left.wait()
        gone.append(True)

    async def story(client: Client) -> None:
        more = "connection: close\r\n" if "last" in how else ""
        raw = post("x", more=more) + (b"garbage\r\n\r\n" if how == "refused" else b"")
        plain = await unread(client, raw)
        await until(lambda: len(client.server.connections) == 2)
        await until(lambda: any(c.is_congested for c in client.server.connections))
        mine = next(c for c in client.server.connections if c.is_congested)
        at = client.server.now
        mine.check(at + 1)
        mine.check(at + ROOMY.unread_s)
        assert mine in client.server.connections
        mine.check(at + 1 + ROOMY.unread_s + 0.1)
        await until(lambda: mine not in client.server.connections)
        if how == "pieces":
            await until(lambda: bool(gone))
        plain.close()

    run_scenario(much, story, ROOMY)


class Buffered(asyncio.Transport):
    """A transport whose buffered bytes a test sets."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        return self.size

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """What lies here goes out first."""

    def abort(self) -> None:
        self.aborted = True


def test_a_slow_client_that_reads_is_not_cut_off() -> None:
    async def story() -> None:
        door = ServerConnection(HttpServer(echo, ROOMY))
        transport = Buffered(3_000_000)
        door.connection_made(transport)
        door.pause_writing()
        for at in range(0, 600, 15):
            door.check(float(at))
            transport.size -= 30_000
        assert not transport.aborted
        for at in range(600, 660, 15):
            door.check(float(at))
            transport.size += 1_000  # what is added to what it does not read is no progress
        assert transport.aborted

    asyncio.run(story())


# bodies, all together


def test_an_idle_body_is_dropped_for_one_that_arrives() -> None:
    async def story(client: Client) -> None:
        raw = post("x" * 300_000)
        quiet = await another(client)
        quiet.writer.write(raw[:-10])
        bodies = client.server.bodies
        await until(lambda: bodies.held_bytes > 299_000)
        for held in bodies._bodies:
            held.last_read_at -= IDLE_S
        assert (await client.request(raw))[0] == 200
        status, headers, body = await quiet.answer()
        assert (status, headers["connection"], code_of(body)) == (503, "close", "too_many_bodies")
        assert bodies.held_bytes == 0

    run_scenario(echo, story, replace(ROOMY, bodies_bytes=400_000))


def test_a_body_without_room_is_refused_and_a_small_one_always_fits() -> None:
    may_answer = asyncio.Event()

    async def slow(request: ServerRequest) -> None:
        if len(request.body) > SMALL_BYTES:
            await may_answer.wait()
        request.respond(200, b"{}")

    async def story(client: Client) -> None:
        client.writer.write(post("x" * 300_000))
        await until(lambda: client.server.bodies.held_bytes == 300_000)
        other = await another(client)
        status, headers, body = await other.request(post("x" * 200_000), cut=200_000)
        assert (status, headers["retry-after"], code_of(body)) == (503, "1", "too_many_bodies")
        small = await another(client)
        assert (await small.request(post("x" * 50_000)))[0] == 200
        may_answer.set()
        assert (await client.answer())[0] == 200
        assert client.server.bodies.held_bytes == 0

    run_scenario(slow, story, replace(ROOMY, bodies_bytes=400_000))


@pytest.mark.parametrize("how", ["dropped", "refused", "answered"])
def test_the_memory_of_a_body_is_freed(how: str) -> None:
    async def story(client: Client) -> None:
        one = await another(client)
        raw = post("x" * 300_000)
        one.writer.write(raw[:-10])
        await until(lambda: client.server.bodies.held_bytes > 250_000)
        if how == "answered":
            one.writer.write(raw[-10:])
            await one.answer()
        elif how == "refused":
            for connection in list(client.server.connections):
                connection.check(client.server.now + ROOMY.request_s + 1)
        else:
            one.writer.transport.abort()
        await until(lambda: client.server.bodies.held_bytes == 0)

    run_scenario(echo, story, ROOMY)


# documents


def test_a_document_of_too_many_values_is_refused() -> None:
    read: list[int] = []

    async def counted(request: ServerRequest) -> None:
        read.append(len(request.body))
        request.respond(200, b"{}")

    async def story(client: Client) -> None:
        status, headers, body = await client.request(post("[" + "[]," * 60_000 + "[]]"), cut=1 << 20)
        assert (status, code_of(body), read) == (413, "document_too_large", [])
        assert "connection" not in headers
        text = json.dumps({"prompt": "[{,," * 60_000})
        assert (await client.request(post(text), cut=1 << 20))[0] == 200, "what is inside of a text costs nothing"
        form = "--x\r\n" + "[,{" * 60_000
        assert (await client.request(post(form, more="content-type: multipart/form-data; boundary=x\r\n"), 1 << 20))[
            0
        ] == 200

    run_scenario(
        counted, story, replace(ROOMY, document=DocumentBounds(values=50_000, containers=50_000, strings=50_000))
    )


# connections


def test_a_full_server_answers_only_health_requests() -> None:
    async def story(client: Client) -> None:
        await client.request(post("x"))
        for _ in range(LIMITS.connections - 1):
            await (await another(client)).request(post("x"))
        for path in ("/healthz", "/readyz?verbose"):
            status, headers, _ = await (await another(client)).request(
                f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
            )
            assert (status, headers["connection"]) == (200, "close")
        status, _, body = await (await another(client)).request(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (status, code_of(body)) == (503, "too_many_connections")
        silent = await another(client)
        await until(lambda: len(client.server.connections) == LIMITS.connections + 1)
        for connection in list(client.server.connections):
            connection.check(client.server.now + http_server_connection.HEALTH_TIMEOUT_S + 0.1)
        assert (await silent.answer())[0] == 503

    run_scenario(echo, story)


def test_an_address_has_its_own_bound_of_connections() -> None:
    async def story(client: Client) -> None:
        address = client.writer.get_extra_info("peername")
        await client.request(post("x"))
        await (await another(client)).request(post("x"))
        status, headers, body = await (await another(client)).request(post("x"))
        assert (status, code_of(body), headers["retry-after"]) == (429, "too_many_connections", "1")
        streams = await asyncio.open_connection(*address, local_addr=("127.0.0.9", 0))
        elsewhere = Client(client.server, *streams)
        client.others.append(elsewhere)
        assert (await elsewhere.request(post("x")))[0] == 200
        client.others[0].writer.close()
        await until(lambda: len(client.server.connections) == 2)
        assert (await (await another(client)).request(post("x")))[0] == 200, "an ended one makes room"

    run_scenario(echo, story, replace(LIMITS, connections=100, connections_per_address=2))


def test_reserved_connections_are_bounded_too() -> None:
    async def story(client: Client) -> None:
        await client.request(post("x"))
        for _ in range(LIMITS.connections - 1 + 2):
            await another(client)
        assert await (await another(client)).is_closed()

    run_scenario(echo, story, replace(LIMITS, reserved=2))


def test_refusals_are_counted() -> None:
    counted: list[str] = []

    async def story(client: Client) -> None:
        client.server._on_refused = counted.append
        await client.request(b"garbage\r\n\r\n")
        assert counted == ["invalid_http"]

    run_scenario(in_pieces, story)
