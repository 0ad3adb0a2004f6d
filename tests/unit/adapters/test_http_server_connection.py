"""Test one connection: errors come in their turn, and a client that does not read is disconnected."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

import pytest

from node_agent.adapters.http_server import HttpServer
from node_agent.adapters.http_server_connection import ServerConnection
from node_agent.ports import ServerRequest
from tests.unit.adapters.door_stage import LIMITS, ROOMY, Client, echo, post, run_scenario, until

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


def test_the_time_of_a_request_begins_anew_when_the_server_reads_again() -> None:
    may_answer = asyncio.Event()

    async def slow(request: ServerRequest) -> None:
        if request.body == b"first":
            await may_answer.wait()
        await echo(request)

    async def story(client: Client) -> None:
        third = post("third")
        client.writer.write(post("first") + post("second") + third[:-3])
        await until(lambda: client.server.busy == 1)
        client.server.now += LIMITS.request_s + 1  # nothing is read: a request waits already
        may_answer.set()
        assert (await client.answer())[2] == b"POST /a b first"
        assert (await client.answer())[2] == b"POST /a b second"
        for connection in client.server.connections:
            connection.check(client.server.now)
        assert (await client.request(third[-3:]))[2] == b"POST /a b third"

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


def test_of_requests_sent_ahead_none_is_answered_while_their_client_does_not_read() -> None:
    begun, ahead = [], ROOMY.pipelined

    async def counted(request: ServerRequest) -> None:
        begun.append(request.target)
        request.respond(200, b"x" * 300_000)

    async def story(client: Client) -> None:
        plain = await unread(client, post("") * ahead)
        await until(lambda: any(connection.is_congested for connection in client.server.connections))
        for _ in range(2 * ahead):  # the server's loop has had its turns
            assert (await client.request(post("", path="/other")))[0] == 200
        assert begun.count("/a%20b?q=1") < ahead / 2
        got = b""
        while got.count(b"HTTP/1.1 200") < ahead:
            got += await asyncio.get_running_loop().sock_recv(plain, 1 << 20)
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


def test_the_kernel_too_holds_little_for_a_client_that_does_not_read_and_gives_it_up() -> None:
    """Less than what the server can observe may stay unread: then only the kernel knows."""

    async def story(client: Client) -> None:
        await client.request(post("x"))
        (connection,) = client.server.connections
        assert isinstance(connection, ServerConnection)
        assert connection._transport is not None
        plain = connection._transport.get_extra_info("socket")
        assert plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) <= 256 * 1024
        assert plain.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        given_up_s = plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) / 1000
        assert ROOMY.unread_s < given_up_s <= ROOMY.unread_s + 60.0

    run_scenario(echo, story, ROOMY)


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
