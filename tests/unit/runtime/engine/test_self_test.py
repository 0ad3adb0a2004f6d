"""The self-test as the agent runs it: what it advertises, and that it always comes to an end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from local.aws import free_port
from node_agent.adapters.http import HttpClient
from node_agent.core.common.address import Address, parse_address
from node_agent.runtime.engine.self_test import supported_methods
from tests.engines import MODEL, fake_engine


def ways(address: Address, within_s: float = 20.0) -> tuple[str, ...]:
    async def run() -> tuple[str, ...]:
        client = HttpClient()
        try:
            return await supported_methods(client, address, MODEL, within_s)
        finally:
            await client.close()

    return asyncio.run(run())


def test_an_engine_without_the_plug_in_is_not_advertised(tmp_path: Path) -> None:
    with fake_engine(tmp_path) as engine:
        assert ways(parse_address(engine.url.removeprefix("http://"))) == ()


def test_an_engine_that_is_not_there_is_not_advertised() -> None:
    assert ways(Address("127.0.0.1", free_port())) == ()


def test_an_engine_that_does_not_answer_is_waited_for_within_bounds(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> tuple[str, ...]:
        over = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await over.wait()
            writer.close()

        client = HttpClient()
        async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
            address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
            try:
                return await supported_methods(client, address, MODEL, timeout_s=0.3)
            finally:
                over.set()
                await client.close()

    assert asyncio.run(run()) == ()
    assert "not done after" in caplog.text
