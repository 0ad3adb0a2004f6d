"""A datagram that cannot be sent is lost: nothing raises, on asyncio and on uvloop, and the socket stays open."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest
import uvloop

from node_agent.adapters.datagrams import UdpDatagrams
from node_agent.adapters.http_server import bind
from node_agent.core.common.address import Address

HOSTS = ["", "node-7.internal", "[::1]", "::1", "255.255.255.255", "224.0.0.1", "0.0.0.0", "\udcff", "x" * 300, "a\0b"]


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_datagram_that_cannot_be_sent_is_lost(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def story() -> None:
        received: asyncio.Queue[bytes] = asyncio.Queue()
        receiver, sender = UdpDatagrams(), UdpDatagrams()
        bound = bind("127.0.0.1", 0, "datagrams", socket.SOCK_DGRAM)
        port = bound.getsockname()[1]
        await receiver.open(bound, received.put_nowait)
        await sender.open(bind("127.0.0.1", 0, "datagrams", socket.SOCK_DGRAM), received.put_nowait)
        for host in HOSTS:
            sender.send(Address(host, 8001), b"lost")
        for odd in (-1, 0, 70_000, 2**40):
            sender.send(Address("127.0.0.1", odd), b"lost")
        sender.send(Address("127.0.0.1", port), b"x" * 70_000)
        sender.send(Address("127.0.0.1", port), b"arrives")
        async with asyncio.timeout(10):
            assert await received.get() == b"arrives"
        assert sender.unsent >= len(HOSTS) + 4
        for each in (receiver, sender):
            each.close()
            each.send(Address("127.0.0.1", port), b"closed")
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(story())
