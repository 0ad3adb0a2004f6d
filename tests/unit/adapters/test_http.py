"""Test the HTTP client: which connection a request is sent on, and which may be used again."""

from __future__ import annotations

import asyncio

import pytest

from local.aws import free_port
from node_agent.adapters.http import HttpClient
from node_agent.core.common.address import Address
from node_agent.core.failure.loss import LossReason
from node_agent.ports import ExchangeLost
from tests.unit.adapters.http_client_stage import WHOLE, answering, run_scenario, send


def test_an_answer_is_read_and_its_connection_used_again() -> None:
    connections = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await answering(WHOLE)(reader, writer)

    async def story(client: HttpClient, address: Address) -> None:
        for _ in range(3):
            response = await send(client, address)
            assert (response.status, await response.read_all(10)) == (200, b"ok")
            response.close()
        assert len(connections) == 1

    run_scenario(serve, story)


def test_an_unread_body_is_no_part_of_the_next_answer() -> None:
    async def story(client: HttpClient, address: Address) -> None:
        for _ in range(3):
            (await send(client, address)).close()
        assert await (await send(client, address)).read_all(10) == b"ok"

    run_scenario(answering(WHOLE), story)


def test_a_connection_that_the_server_closed_while_idle_is_not_a_loss() -> None:
    async def story(client: HttpClient, address: Address) -> None:
        for _ in range(2):
            response = await send(client, address)
            assert await response.read_all(10) == b"ok"
            response.close()
            await asyncio.sleep(0)  # lets the loop see the server's close, or not: both must do

    run_scenario(answering(WHOLE, then_close=True), story)


@pytest.mark.parametrize("is_piped", [False, True])
@pytest.mark.parametrize(
    "surplus", [b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno", b"no HTTP", b"HTTP/1.1 102 Processing\r\n\r\n"]
)
def test_what_follows_a_response_is_no_part_of_it_and_ends_the_connection(surplus: bytes, is_piped: bool) -> None:
    connections = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await answering(*([WHOLE[:-1], WHOLE[-1:] + surplus] if is_piped else [WHOLE + surplus]))(reader, writer)

    async def story(client: HttpClient, address: Address) -> None:
        for _ in range(2):
            response, received = await send(client, address), list[bytes]()
            await response.pipe(received.append)
            assert (response.status, b"".join(received), response.first_read_at > 0) == (200, b"ok", True)
            response.close()
        assert len(connections) == 2

    run_scenario(serve, story)


def test_a_refused_connection_is_a_loss_with_that_reason() -> None:
    async def story() -> None:
        with pytest.raises(ExchangeLost) as caught:
            await send(HttpClient(), Address("127.0.0.1", free_port()))  # nothing to close: it never connected
        assert caught.value.loss is LossReason.REFUSED

    asyncio.run(story())
