"""Test the pool of idle connections: which one is reused, and which are closed."""

from __future__ import annotations

import asyncio
import weakref

from node_agent.adapters.http_client_connection import Connection
from node_agent.adapters.http_client_pool import IDLE_S, MAX_IDLE, ConnectionPool
from node_agent.core.common.address import Address

HERE, THERE, GONE = Address("127.0.0.1", 80), Address("127.0.0.2", 80), Address("127.0.0.3", 80)


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Open(asyncio.Transport):
    """A transport that is open until it is aborted."""

    is_aborted = False

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True


def connected() -> Connection:
    connection = Connection()
    connection.connection_made(Open())
    return connection


def test_the_connection_that_became_idle_last_is_reused_first() -> None:
    pool, first, second = ConnectionPool(Clock()), connected(), connected()
    pool.put(HERE, first)
    pool.put(HERE, second)
    assert pool.take(THERE) is None
    assert [pool.take(HERE), pool.take(HERE), pool.take(HERE)] == [second, first, None]


def test_a_connection_that_was_idle_for_too_long_is_closed() -> None:
    clock = Clock()
    pool, early, late = ConnectionPool(clock), connected(), connected()
    pool.put(HERE, early)
    clock.now += 1.0
    pool.put(HERE, late)
    clock.now += IDLE_S
    assert pool.take(HERE) is late
    assert early.usable
    assert pool.take(HERE) is None
    assert not early.usable


def test_a_connection_that_the_server_closed_is_not_reused() -> None:
    pool, open_one, closed = ConnectionPool(Clock()), connected(), connected()
    pool.put(HERE, open_one)
    pool.put(HERE, closed)
    closed.connection_lost(None)
    assert pool.take(HERE) is open_one


def test_a_connection_for_which_there_is_no_room_is_closed() -> None:
    pool, connections = ConnectionPool(Clock()), [connected() for _ in range(MAX_IDLE + 1)]
    for connection in connections:
        pool.put(HERE, connection)
    assert [connection.usable for connection in connections] == [True] * MAX_IDLE + [False]
    other = connected()
    pool.put(THERE, other)
    assert other.usable, "each address has its own room"


def test_what_is_left_of_a_node_that_is_gone_is_freed() -> None:
    clock = Clock()
    pool, silent, in_use = ConnectionPool(clock), connected(), connected()
    pool.put(GONE, lost := connected())
    gone = weakref.ref(lost)
    lost.connection_lost(None)
    del lost
    pool.put(HERE, silent)
    clock.now += IDLE_S + 0.1
    pool.put(THERE, in_use)
    assert (gone(), silent.usable, in_use.usable) == (None, False, True)
    assert pool.take(THERE) is in_use
    clock.now += IDLE_S + 0.1
    pool.put(HERE, connected())
    assert list(pool._idle) == [HERE], "no entry stays for an address without connections"


def test_a_cleared_pool_has_closed_its_connections() -> None:
    pool, here, there = ConnectionPool(Clock()), connected(), connected()
    pool.put(HERE, here)
    pool.put(THERE, there)
    pool.clear()
    assert (here.usable, there.usable, pool.take(HERE)) == (False, False, None)
