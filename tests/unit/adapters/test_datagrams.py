"""Datagrams on a real socket."""

from __future__ import annotations

import asyncio
import socket

import pytest

from node_agent.adapters.datagrams import UdpDatagrams
from node_agent.adapters.http_server import bind
from node_agent.contract.errors import ConfigurationError
from node_agent.core.common.address import Address


def bound() -> tuple[socket.socket, Address]:
    listener = bind("127.0.0.1", 0, "peers' datagrams", socket.SOCK_DGRAM)
    return listener, Address(*listener.getsockname())


def test_datagrams_arrive_and_one_without_a_receiver_does_no_harm() -> None:
    async def story() -> None:
        received: asyncio.Queue[bytes] = asyncio.Queue()
        (one_socket, _), (two_socket, two) = bound(), bound()
        gone_socket, gone = bound()
        gone_socket.close()
        first, second = UdpDatagrams(), UdpDatagrams()
        first.send(two, b"before it was opened: nobody sends it")
        await first.open(one_socket, lambda data: None)
        await second.open(two_socket, received.put_nowait)
        for number in range(3):
            first.send(gone, b"to nobody")
            first.send(two, b"%d" % number)
        async with asyncio.timeout(5):
            assert sorted([await received.get() for _ in range(3)]) == [b"0", b"1", b"2"]
        first.close()
        second.close()
        first.send(two, b"after its end: nobody sends it")
        await asyncio.sleep(0)

    asyncio.run(story())


def test_a_port_in_use_is_an_error_that_names_it() -> None:
    listener, address = bound()
    with listener, pytest.raises(ConfigurationError, match="the peers' datagrams cannot listen on 127"):
        bind(address.host, address.port, "peers' datagrams", socket.SOCK_DGRAM)
