"""The choice of the next engine, on virtual time: at once, after a wait, or none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from local.lone_node import add_peer
from node_agent.core.routing.router import Route, RouteRequest
from node_agent.runtime.client_api.next_engine import NextEngine
from node_agent.runtime.node.context import NodeContext
from tests.borders.virtual_time import run_virtual
from tests.unit.runtime.a_node import make_node, status_of


def play(peers: int, story: Callable[[NodeContext, NextEngine], Awaitable[Route | None]]) -> tuple[str | None, float]:
    """The chosen node of a story after node i-0 lost the stream, and the seconds that it took."""

    async def timed() -> tuple[str | None, float]:
        node = make_node(peers)
        engines = NextEngine(node, RouteRequest("m"), lambda _: True)
        engines.add_tried(node.status())
        clock = asyncio.get_running_loop().time
        began = clock()
        route = await story(node, engines)
        return route.node.instance_id if route is not None else None, clock() - began

    return run_virtual(timed, sockets=False)


def test_another_ready_engine_is_chosen_at_once() -> None:
    assert play(1, lambda _, engines: engines.wait(15.0, lambda: False)) == ("i-1", 0.0)


def test_the_only_engine_is_not_chosen_again_and_the_wait_is_bounded() -> None:
    name, waited_s = play(0, lambda _, engines: engines.wait(15.0, lambda: False))
    assert name is None
    assert waited_s == pytest.approx(15.0, abs=0.2)


def test_without_a_timeout_there_is_no_wait() -> None:
    assert play(0, lambda _, engines: engines.wait(0.0, lambda: False)) == (None, 0.0)


def test_an_engine_that_becomes_ready_in_time_is_chosen() -> None:
    async def story(node: NodeContext, engines: NextEngine) -> Route | None:
        asyncio.get_running_loop().call_later(3.0, add_peer, node, status_of(7))
        return await engines.wait(15.0, lambda: False)

    name, waited_s = play(0, story)
    assert name == "i-7"
    assert waited_s == pytest.approx(3.0, abs=0.2)


def test_an_engine_that_lost_the_stream_before_gets_time_to_recover() -> None:
    async def story(_: NodeContext, engines: NextEngine) -> Route | None:
        engines.add_tried(status_of(1))
        return await engines.wait(15.0, lambda: False)

    assert play(1, story) == ("i-0", 1.0)


def test_a_stream_that_is_closed_stops_waiting() -> None:
    async def story(_: NodeContext, engines: NextEngine) -> Route | None:
        closed = asyncio.Event()
        asyncio.get_running_loop().call_later(2.0, closed.set)
        return await engines.wait(15.0, closed.is_set)

    name, waited_s = play(0, story)
    assert name is None
    assert waited_s == pytest.approx(2.0, abs=0.2)


def test_the_target_of_a_handoff_is_chosen() -> None:
    async def story(_: NodeContext, engines: NextEngine) -> Route | None:
        engines.handoff_target = "i-5"
        return await engines.wait(15.0, lambda: False)

    assert play(9, story) == ("i-5", 0.0)
