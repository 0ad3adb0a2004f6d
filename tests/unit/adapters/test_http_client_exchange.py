"""Test one exchange of the HTTP client against servers that misbehave: how it is lost, bounded and freed."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref

import pytest

from node_agent.adapters import http_client_exchange
from node_agent.adapters.http import HttpClient
from node_agent.adapters.http_client_connection import Connection
from node_agent.adapters.http_client_exchange import Exchange
from node_agent.contract.names import SIGNS_HEADER
from node_agent.core.common.address import Address
from node_agent.core.failure.loss import Handoff, LossReason
from node_agent.core.http.response_head import MAX_HEAD_BYTES
from node_agent.ports import ExchangeLost
from tests.unit.adapters.http_client_stage import CHUNKED, WHOLE, answering, request, run_scenario, send

SIGN = b"HTTP/1.1 102 Processing\r\n" + SIGNS_HEADER + b": 1\r\n\r\n"


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ((CHUNKED + b"2\r\nok\r\n",), LossReason.EOF),
        ((b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok",), LossReason.EOF),
        ((CHUNKED + b"x\r\n",), LossReason.BROKEN),
    ],
)
def test_an_incomplete_answer_is_a_loss(parts: tuple[bytes, ...], why: LossReason) -> None:
    async def story(client: HttpClient, address: Address) -> None:
        with pytest.raises(ExchangeLost) as caught:
            await (await send(client, address)).read_all(100)
        assert caught.value.loss is why

    run_scenario(answering(*parts, then_close=True), story)


def test_trailers_are_no_headers() -> None:
    async def story(client: HttpClient, address: Address) -> None:
        response = await send(client, address)
        assert await response.read_all(10) == b"ok"
        assert response.headers == {b"transfer-encoding": b"chunked"}
        response.close()

    run_scenario(answering(CHUNKED + b"2\r\nok\r\n0\r\ncontent-type: text/event-stream\r\n\r\n"), story)


def test_no_answer_at_all_is_a_loss_before_the_head() -> None:
    async def story(client: HttpClient, address: Address) -> None:
        with pytest.raises(ExchangeLost, match="eof"):
            await send(client, address)

    run_scenario(answering(then_close=True), story)


def test_silence_is_a_loss_before_the_head_and_in_the_middle() -> None:
    async def before(client: HttpClient, address: Address) -> None:
        with pytest.raises(ExchangeLost, match="silence"):
            await send(client, address, read_timeout_s=0.05)

    async def middle(client: HttpClient, address: Address) -> None:
        response = await send(client, address)
        assert await response.read() == b"ok"
        response.set_read_timeout(0.05)
        with pytest.raises(ExchangeLost, match="silence"):
            await response.read()

    run_scenario(answering(), before)
    run_scenario(answering(CHUNKED + b"2\r\nok\r\n"), middle)


def test_a_server_with_keepalives_may_take_its_time_and_is_lost_when_they_end() -> None:
    async def alive(client: HttpClient, address: Address) -> None:
        exchange = client.request(address, "GET", "/", headers={}, read_timeout_s=0.5, keepalive_timeout_s=0.4)
        await exchange.head()
        assert (exchange.status, await exchange.read_all(10)) == (200, b"ok")
        exchange.close()

    async def dead(client: HttpClient, address: Address) -> None:
        exchange = client.request(address, "GET", "/", headers={}, read_timeout_s=60.0, keepalive_timeout_s=0.2)
        with pytest.raises(ExchangeLost, match="silence"):
            await exchange.head()

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

    run_scenario(signs, alive)
    run_scenario(one_sign, dead)


def test_a_server_without_keepalives_has_the_read_timeout() -> None:
    """A node of an older version."""

    async def older(client: HttpClient, address: Address) -> None:
        exchange = client.request(address, "GET", "/", headers={}, read_timeout_s=60.0, keepalive_timeout_s=0.1)
        await exchange.head()
        exchange.close()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        await asyncio.sleep(0.5)
        writer.write(WHOLE)
        writer.close()

    run_scenario(slow, older)


def test_a_stalled_process_reads_buffered_bytes_before_it_reports_a_silence() -> None:
    async def stalled(client: HttpClient, address: Address) -> None:
        response = await send(client, address, read_timeout_s=0.3)
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

    run_scenario(serve, stalled)


def test_a_server_that_accepts_may_take_its_time_and_one_that_does_not_is_lost() -> None:
    async def accepting(client: HttpClient, address: Address) -> None:
        exchange = client.request(address, "GET", "/", headers={}, read_timeout_s=5.0, accept_timeout_s=0.5)
        await exchange.head()
        assert (exchange.status, await exchange.read_all(10)) == (200, b"ok")
        exchange.close()

    async def frozen(client: HttpClient, address: Address) -> None:
        exchange = client.request(address, "GET", "/", headers={}, read_timeout_s=5.0, accept_timeout_s=0.05)
        with pytest.raises(ExchangeLost, match="silence"):
            await exchange.head()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        await asyncio.sleep(0.6)  # longer than it may take to accept
        writer.write(WHOLE)
        writer.close()

    run_scenario(slow, accepting)
    run_scenario(answering(), frozen)


def test_an_aborted_exchange_wakes_its_reader_with_the_reason() -> None:
    async def story(client: HttpClient, address: Address) -> None:
        response = await send(client, address)
        assert await response.read() == b"ok"
        reading = asyncio.ensure_future(response.read())
        await asyncio.sleep(0)
        response.abort(Handoff("i-1"))
        with pytest.raises(ExchangeLost, match="handoff to i-1") as caught:
            await reading
        assert caught.value.loss == Handoff("i-1")

    run_scenario(answering(CHUNKED + b"2\r\nok\r\n"), story)


def test_a_body_is_bounded() -> None:
    async def story(client: HttpClient, address: Address) -> None:
        with pytest.raises(ExchangeLost, match="too-large"):
            await (await send(client, address)).read_all(1)

    run_scenario(answering(WHOLE), story)


def test_a_head_is_bounded_with_the_interim_responses_before_it() -> None:
    async def story(client: HttpClient, address: Address) -> None:
        with pytest.raises(ExchangeLost, match="broken"):
            await send(client, address)

    run_scenario(answering(*[SIGN] * (MAX_HEAD_BYTES // len(SIGN) + 1)), story)


@pytest.mark.parametrize("end", ["complete", "followed by another", "incomplete", "aborted"])
def test_a_closed_exchange_is_freed_without_the_collector(end: str) -> None:
    async def story(client: HttpClient, address: Address) -> None:
        response = await send(client, address)
        received: list[bytes] = []
        piping = asyncio.ensure_future(response.pipe(received.append))
        await asyncio.sleep(0)
        if end == "aborted":
            response.abort(LossReason.CLOSED)
        elif end == "incomplete":
            piping.cancel()
        await asyncio.wait([piping])
        assert piping.cancelled() or (piping.exception() is None) is (end in answers)
        response.close()
        freed = weakref.ref(response)
        del response, piping
        await asyncio.sleep(0.01)  # until the loop has dropped its handles
        assert freed() is None

    answers = {"complete": WHOLE, "followed by another": WHOLE + WHOLE}
    gc.disable()
    try:
        run_scenario(answering(answers.get(end, CHUNKED + b"2\r\nok\r\n")), story)
    finally:
        gc.enable()


def test_a_reader_that_does_not_read_pauses_the_sender(monkeypatch: pytest.MonkeyPatch) -> None:
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
        response = await send(client, address)
        before = -1
        while len(sent) != before:  # until the sender stands still
            before = len(sent)
            await asyncio.sleep(0.1)
        assert len(sent) < 500
        assert len(await response.read_all(60_000_000)) == 50_000_000

    run_scenario(serve, story)


def test_a_connection_that_opens_while_its_client_is_cancelled_is_closed() -> None:
    made: list[Connection] = []

    async def connect_and_cancel(address: Address, waits: list[asyncio.Task[None]]) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, address.host, address.port)
        made.append(connection)
        loop.call_soon(waits[0].cancel)  # before the waiting task runs
        return connection

    async def story(_: HttpClient, address: Address) -> None:
        waits: list[asyncio.Task[None]] = []
        exchange = Exchange(b"", 5.0, lambda: connect_and_cancel(address, waits), made.append)
        waits.append(asyncio.create_task(exchange.head()))
        with pytest.raises(asyncio.CancelledError):
            await waits[0]
        await asyncio.sleep(0)
        assert [connection.usable for connection in made] == [False]

    run_scenario(answering(WHOLE), story)
