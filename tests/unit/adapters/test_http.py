"""The HTTP client against servers that misbehave, and the IMDS adapter against its stand-in."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from local.aws import free_port
from local.imds import ImdsServer, InstanceMetadata, url
from node_agent.adapters import http_client_exchange
from node_agent.adapters.http import HttpClient
from node_agent.adapters.http_client_exchange import Connection, Exchange
from node_agent.adapters.imds import Imds
from node_agent.contract.aws_events import InterruptionNotice
from node_agent.contract.errors import MetadataUnavailable
from node_agent.contract.names import SIGNS_HEADER
from node_agent.core.common.address import Address
from node_agent.core.failure.loss import Handoff, LossReason
from node_agent.ports import ExchangeLost, Identity, Response

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Story = Callable[[HttpClient, Address], Coroutine[Any, Any, None]]

WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
SIGN = b"HTTP/1.1 102 Processing\r\n" + SIGNS_HEADER + b": 1\r\n\r\n"


def tell(serve: Serve, story: Story) -> None:
    """A story of a client and a server; no wait in it may last."""

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        client = HttpClient()
        try:
            async with asyncio.timeout(10):
                await story(client, address)
        finally:
            await client.close()
            server.close()

    asyncio.run(run())


async def ask(client: HttpClient, address: Address, read_timeout_s: float = 5.0) -> Response:
    return await client.open(address, "GET", "/", headers={}, read_timeout_s=read_timeout_s)


async def request(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def answering(*parts: bytes, then_close: bool = False) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await request(reader)
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                if then_close:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    return serve


def test_an_answer_is_read_and_its_connection_used_again() -> None:
    connections = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await answering(WHOLE)(reader, writer)

    async def story(client: HttpClient, address: Address) -> None:
        for _ in range(3):
            response = await ask(client, address)
            assert (response.status, await response.read_all(10)) == (200, b"ok")
            response.close()
        assert len(connections) == 1

    tell(serve, story)


def test_a_body_that_nobody_read_is_no_part_of_the_next_answer() -> None:
    async def story(client: HttpClient, address: Address) -> None:
        for _ in range(3):
            (await ask(client, address)).close()
        assert await (await ask(client, address)).read_all(10) == b"ok"

    tell(answering(WHOLE), story)


def test_a_connection_that_the_server_closed_while_idle_is_not_a_loss() -> None:
    async def story(client: HttpClient, address: Address) -> None:
        for _ in range(2):
            response = await ask(client, address)
            assert await response.read_all(10) == b"ok"
            response.close()
            await asyncio.sleep(0)  # lets the loop see the server's close, or not: both must do

    tell(answering(WHOLE, then_close=True), story)


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ((CHUNKED + b"2\r\nok\r\n",), LossReason.EOF),
        ((b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok",), LossReason.EOF),
        ((CHUNKED + b"x\r\n",), LossReason.BROKEN),
    ],
)
def test_an_answer_that_is_not_whole_is_lost(parts: tuple[bytes, ...], why: LossReason) -> None:
    async def story(client: HttpClient, address: Address) -> None:
        with pytest.raises(ExchangeLost) as caught:
            await (await ask(client, address)).read_all(100)
        assert caught.value.loss is why

    tell(answering(*parts, then_close=True), story)


def test_no_answer_at_all_is_lost_before_the_head() -> None:
    async def story(client: HttpClient, address: Address) -> None:
        with pytest.raises(ExchangeLost, match="eof"):
            await ask(client, address)

    tell(answering(then_close=True), story)


def test_silence_is_a_loss_before_the_head_and_in_the_middle() -> None:
    async def before(client: HttpClient, address: Address) -> None:
        with pytest.raises(ExchangeLost, match="silence"):
            await ask(client, address, read_timeout_s=0.05)

    async def middle(client: HttpClient, address: Address) -> None:
        response = await ask(client, address)
        assert await response.read() == b"ok"
        response.set_read_timeout(0.05)
        with pytest.raises(ExchangeLost, match="silence"):
            await response.read()

    tell(answering(), before)
    tell(answering(CHUNKED + b"2\r\nok\r\n"), middle)


def test_who_shows_signs_of_life_may_take_its_time_and_is_lost_when_they_end() -> None:
    async def alive(client: HttpClient, address: Address) -> None:
        asked = client.request(address, "GET", "/", headers={}, read_timeout_s=0.5, keepalive_timeout_s=0.4)
        await asked.head()
        assert (asked.status, await asked.read_all(10)) == (200, b"ok")
        asked.close()

    async def dead(client: HttpClient, address: Address) -> None:
        asked = client.request(address, "GET", "/", headers={}, read_timeout_s=60.0, keepalive_timeout_s=0.2)
        with pytest.raises(ExchangeLost, match="silence"):
            await asked.head()

    async def signs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        for _ in range(20):
            writer.write(SIGN)
            await asyncio.sleep(0.05)
        writer.write(WHOLE)
        writer.close()

    async def one_sign(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(SIGN)
        try:
            await reader.read()
        finally:
            writer.close()

    tell(signs, alive)
    tell(one_sign, dead)


def test_who_shows_no_signs_is_given_the_silence_that_was_asked_for() -> None:
    """A node of an older version."""

    async def older(client: HttpClient, address: Address) -> None:
        asked = client.request(address, "GET", "/", headers={}, read_timeout_s=60.0, keepalive_timeout_s=0.1)
        await asked.head()
        asked.close()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        await asyncio.sleep(0.5)
        writer.write(WHOLE)
        writer.close()

    tell(slow, older)


def test_a_process_that_stood_still_reads_what_came_before_it_calls_that_a_silence() -> None:
    async def stalled(client: HttpClient, address: Address) -> None:
        response = await ask(client, address, read_timeout_s=0.3)
        assert await response.read() == b"ok"
        time.sleep(1.0)  # noqa: ASYNC251 # that is what is tested: the answer is there, and nobody has looked
        assert await response.read() == b"!"
        response.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(CHUNKED + b"2\r\nok\r\n")
        await writer.drain()
        asyncio.get_running_loop().call_later(0.1, writer.write, b"1\r\n!\r\n")
        try:
            await reader.read()
        finally:
            writer.close()

    tell(serve, stalled)


def test_who_accepts_at_once_may_then_take_its_time_and_who_does_not_is_lost_at_once() -> None:
    async def accepting(client: HttpClient, address: Address) -> None:
        asked = client.request(address, "GET", "/", headers={}, read_timeout_s=5.0, accept_timeout_s=0.5)
        await asked.head()
        assert (asked.status, await asked.read_all(10)) == (200, b"ok")
        asked.close()

    async def frozen(client: HttpClient, address: Address) -> None:
        asked = client.request(address, "GET", "/", headers={}, read_timeout_s=5.0, accept_timeout_s=0.05)
        with pytest.raises(ExchangeLost, match="silence"):
            await asked.head()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        await asyncio.sleep(0.6)  # longer than it may take to accept
        writer.write(WHOLE)
        writer.close()

    tell(slow, accepting)
    tell(answering(), frozen)


def test_a_refused_connection_says_so() -> None:
    async def story() -> None:
        with pytest.raises(ExchangeLost) as caught:
            await ask(HttpClient(), Address("127.0.0.1", free_port()))  # nothing to close: it never connected
        assert caught.value.loss is LossReason.REFUSED

    asyncio.run(story())


def test_an_aborted_exchange_wakes_its_reader_with_the_reason() -> None:
    async def story(client: HttpClient, address: Address) -> None:
        response = await ask(client, address)
        assert await response.read() == b"ok"
        reading = asyncio.ensure_future(response.read())
        await asyncio.sleep(0)
        response.abort(Handoff("i-1"))
        with pytest.raises(ExchangeLost, match="handoff to i-1") as caught:
            await reading
        assert caught.value.loss == Handoff("i-1")

    tell(answering(CHUNKED + b"2\r\nok\r\n"), story)


def test_a_body_is_bounded() -> None:
    async def story(client: HttpClient, address: Address) -> None:
        with pytest.raises(ExchangeLost, match="too-large"):
            await (await ask(client, address)).read_all(1)

    tell(answering(WHOLE), story)


def test_what_nobody_reads_stops_the_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client_exchange, "MAX_HELD_BYTES", 100_000)
    sent = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 50000000\r\n\r\n")
        for _ in range(500):
            writer.write(b"x" * 100_000)
            await writer.drain()
            sent.append(100_000)
        writer.close()

    async def story(client: HttpClient, address: Address) -> None:
        response = await ask(client, address)
        before = -1
        while len(sent) != before:  # until the sender stands still
            before = len(sent)
            await asyncio.sleep(0.1)
        assert len(sent) < 500
        assert len(await response.read_all(60_000_000)) == 50_000_000

    tell(serve, story)


# IMDS


def test_imds_is_read_with_a_token_and_a_new_one_where_it_expired() -> None:
    host = f"127.60.{os.getpid() % 250 + 1}.9"
    state = InstanceMetadata("i-1", "us-east-1a", "us-east-1", "g5.xlarge", host)
    said = [state]
    server = ImdsServer(host, lambda: said[-1])
    threading.Thread(target=server.serve_forever, daemon=True).start()

    async def story() -> None:
        client = HttpClient()
        imds = Imds(url(host), client)
        assert await imds.identity() == Identity("i-1", "us-east-1a", "us-east-1", "g5.xlarge", host)
        assert await imds.interruption() is None
        assert await imds.rebalance() is None
        assert not await imds.termination_requested()
        said.append(replace(state, deadline=2000.0, rebalance_at=1000.0, lifecycle="Terminated"))
        server.service.tokens.clear()  # as after a restart of the service: every token is refused
        assert await imds.interruption() == InterruptionNotice(2000.0, "terminate")
        assert await imds.rebalance() == 1000.0
        assert await imds.termination_requested()
        await client.close()

    try:
        asyncio.run(story())
    finally:
        server.shutdown()
        server.server_close()


def test_an_imds_that_does_not_answer_is_unavailable() -> None:
    imds = Imds(f"http://127.0.0.1:{free_port()}", HttpClient())
    with pytest.raises(MetadataUnavailable, match="refused"):
        asyncio.run(imds.identity())


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", "no token"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "cannot be read"),
    ],
)
def test_an_imds_that_makes_no_sense_is_unavailable(answer: bytes, message: str) -> None:
    async def story(client: HttpClient, address: Address) -> None:
        with pytest.raises(MetadataUnavailable, match=message):
            await Imds(f"http://{address}", client).interruption()

    tell(answering(answer), story)


def test_a_connection_that_is_made_while_its_client_is_cancelled_does_not_stay_open() -> None:
    made: list[Connection] = []

    async def connect_and_cancel(address: Address, waits: list[asyncio.Task[None]]) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, address.host, address.port)
        made.append(connection)
        loop.call_soon(waits[0].cancel)  # before the waiting one hears of it
        return connection

    async def story(_: HttpClient, address: Address) -> None:
        waits: list[asyncio.Task[None]] = []
        exchange = Exchange(b"", 5.0, lambda: connect_and_cancel(address, waits), made.append)
        waits.append(asyncio.create_task(exchange.head()))
        with pytest.raises(asyncio.CancelledError):
            await waits[0]
        await asyncio.sleep(0)
        assert [connection.usable for connection in made] == [False]

    tell(answering(WHOLE), story)
