"""Test the bound on connections that the client establishes at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import pytest

from synkti_client import AsyncContinuousTransport, RetryPolicy, httpx
from synkti_client._connection_slots import MAX_CONNECTING, AsyncConnectionSlots, ConnectionSlots
from synkti_client._nodes import NODES_PATH, Nodes
from tests.unit.client.scripted import ANSWER, CHAT, NODES, WHOLE

CONNECTED = "http11.send_request_headers.started"
REQUESTS = 4 * MAX_CONNECTING


class SlowToConnect(httpx.AsyncBaseTransport):
    """Counts the connections that are being established. dead: a node that accepts none."""

    def __init__(self, answers: asyncio.Event, dead: str | None = None) -> None:
        self._answers = answers
        self._dead = dead
        self._connecting = 0
        self.most_connecting = 0
        self.attempted: list[str] = []
        self._connected = 0
        self.all_connected = asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        node = f"{request.url.scheme}://{request.url.netloc.decode()}"
        if request.url.path == NODES_PATH:
            raise httpx.ConnectError("no list")
        self.attempted.append(node)
        self._connecting += 1
        self.most_connecting = max(self.most_connecting, self._connecting)
        try:
            for _ in range(3):
                await asyncio.sleep(0)
            if node == self._dead:
                raise httpx.ConnectError("dead")
        finally:
            self._connecting -= 1
        await request.extensions["trace"](CONNECTED, {})
        self._connected += 1
        if self._connected == REQUESTS:
            self.all_connected.set()
        await self._answers.wait()
        return httpx.Response(200, json=ANSWER)


async def _post_at_once(inner: SlowToConnect, nodes: Nodes, then: Callable[[], Awaitable[None]]) -> None:
    transport = AsyncContinuousTransport(nodes, RetryPolicy(), inner)
    async with httpx.AsyncClient(transport=transport, timeout=600.0) as http:
        posts = [asyncio.ensure_future(http.post(CHAT, json=WHOLE)) for _ in range(REQUESTS)]
        await then()
        assert {response.status_code for response in await asyncio.gather(*posts)} == {200}


def test_many_requests_at_once_connect_a_bounded_number_at_a_time_and_wait_for_no_answer() -> None:
    async def run() -> SlowToConnect:
        answers = asyncio.Event()
        inner = SlowToConnect(answers)

        async def all_connected() -> None:
            await asyncio.wait_for(inner.all_connected.wait(), 20.0)
            answers.set()

        await _post_at_once(inner, Nodes(NODES), all_connected)
        return inner

    assert asyncio.run(run()).most_connecting == MAX_CONNECTING


def test_requests_that_wait_do_not_try_a_node_at_which_others_have_failed_meanwhile() -> None:
    async def run() -> list[str]:
        answers = asyncio.Event()
        answers.set()
        nodes = Nodes(NODES)
        dead = nodes.by_preference()[0]
        inner = SlowToConnect(answers, dead)
        await _post_at_once(inner, nodes, lambda: asyncio.sleep(0))
        return [node for node in inner.attempted if node == dead]

    assert len(asyncio.run(run())) <= MAX_CONNECTING


async def _accept_and_never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        await reader.read(-1)
    writer.close()


def test_a_real_connection_releases_its_slot_before_the_answer() -> None:
    """httpcore's events have the names that the slots expect."""

    async def run() -> None:
        server = await asyncio.start_server(_accept_and_never_answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        slots = AsyncConnectionSlots(1)
        async with server, httpx.AsyncHTTPTransport() as inner:
            timeout = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), 30.0)}
            async with slots.slot(30.0) as slot:
                request = slot.release_when_connected(httpx.Request("GET", url, extensions=timeout))
                response = asyncio.ensure_future(inner.handle_async_request(request))
                async with slots.slot(30.0) as second:
                    assert second.is_held
                response.cancel()
                await asyncio.wait([response])

    asyncio.run(run())


def test_without_a_free_slot_an_async_request_goes_ahead_after_its_time() -> None:
    async def run() -> None:
        slots = AsyncConnectionSlots(1)
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(slots.slot(0.0))
            async with slots.slot(0.0) as second:
                assert (first.is_held, second.is_held) == (True, False)
        async with slots.slot(0.0) as again:
            assert again.is_held, "the second one released nothing that it did not hold"

    asyncio.run(run())


def test_a_sync_request_waits_for_a_slot_and_goes_ahead_after_its_time() -> None:
    slots = ConnectionSlots(1)
    with slots.slot(0.0) as first:
        with slots.slot(0.0) as second:
            assert (first.is_held, second.is_held) == (True, False)
        waits = threading.Thread(target=first.release)
        waits.start()
        with slots.slot(None) as third:
            assert third.is_held
        waits.join()
    with slots.slot(0.0) as again:
        assert again.is_held


@pytest.mark.parametrize("event", ["connection.connect_tcp.started", "connection.start_tls.complete", CONNECTED])
def test_a_slot_is_released_when_the_request_begins_to_be_sent(event: str) -> None:
    slots = ConnectionSlots(1)
    with slots.slot(0.0) as slot:
        slot.release_when_connected(httpx.Request("GET", CHAT)).extensions["trace"](event, {})
        assert slot.is_held == (event != CONNECTED)
