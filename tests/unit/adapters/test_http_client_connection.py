"""Test one connection of the HTTP client: idle, lent to an exchange, and how connecting fails."""

from __future__ import annotations

import asyncio

import pytest

from local.aws import free_port
from node_agent.adapters import http_client_connection
from node_agent.adapters.http_client_connection import Connection, connect
from node_agent.core.common.address import Address
from node_agent.core.failure.loss import LossReason
from node_agent.ports import ExchangeLost


class Recording(asyncio.Transport):
    """A transport that records its protocol and its abortion."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: asyncio.BaseProtocol | None = None
        self.is_aborted = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True


def test_an_exchange_receives_the_callbacks_until_it_ends() -> None:
    connection, transport, exchange = Connection(), Recording(), asyncio.Protocol()
    connection.connection_made(transport)
    connection.begin(exchange)
    assert (connection.exchange, transport.protocol) == (exchange, exchange)
    connection.end()
    assert (connection.exchange, transport.protocol) == (None, connection)


def test_data_on_an_idle_connection_closes_it() -> None:
    connection, transport = Connection(), Recording()
    connection.connection_made(transport)
    assert connection.usable
    connection.data_received(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert (connection.usable, transport.is_aborted) == (False, True)


def test_a_lost_connection_is_not_usable() -> None:
    connection = Connection()
    assert not connection.usable
    connection.connection_made(Recording())
    connection.connection_lost(None)
    assert not connection.usable
    connection.abort()  # nothing is left to close


def failing(address: Address) -> LossReason | object:
    with pytest.raises(ExchangeLost) as caught:
        asyncio.run(connect(address, None))
    return caught.value.loss


def test_a_refused_connection_is_told_from_an_unreachable_server() -> None:
    assert failing(Address("127.0.0.1", free_port())) is LossReason.REFUSED
    assert failing(Address("no such host.invalid", 80)) is LossReason.UNREACHABLE


def test_a_connection_that_is_not_made_in_time_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client_connection, "CONNECT_TIMEOUT_S", 0.0)
    assert failing(Address("127.0.0.1", free_port())) is LossReason.UNREACHABLE
