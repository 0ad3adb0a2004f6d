"""Who comes in at once, who waits, and who is sent away, with what words."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from node_agent.contract.errors import FleetFull, NoReadyPeer, RequestRejected
from node_agent.contract.states import NodeState
from node_agent.core.failure.attribution import classify_loss
from node_agent.core.failure.loss import LossReason
from node_agent.core.failure.verdict import Origin
from node_agent.core.node.status import IDLE, Load
from node_agent.core.routing.admission import Admission
from node_agent.core.routing.candidates import MAX_WAITING
from node_agent.core.routing.circuit_breaker import FAILURE_THRESHOLD, MAX_OPEN_S
from node_agent.core.routing.router import Route, RouteRequest
from node_agent.runtime.client_api.admission_queue import AdmissionQueue
from node_agent.runtime.client_api.buffered_request import ClientGone
from node_agent.runtime.node.context import NodeContext
from node_agent.testing.fake_requests import MemoryRequest
from tests.unit.runtime.a_node import make_node

FULL = Load(8, MAX_WAITING, 0.5, 0.02, 0.0)
WANTED = RouteRequest("m")


def run_scenario(
    story: Callable[[NodeContext, AdmissionQueue], Coroutine[Any, Any, None]],
    admission: Admission | None = None,
    model: str = "m",
) -> None:
    """A node alone, whose engine can be full."""

    async def run() -> None:
        node = make_node(0, model)
        entrance = AdmissionQueue(node, lambda: 0.5, admission)
        letting_in = asyncio.ensure_future(entrance.run())
        async with asyncio.timeout(10):
            await story(node, entrance)
        letting_in.cancel()

    asyncio.run(run())


async def until_waiting(node: NodeContext, count: int) -> None:
    text = f"synkti_requests_waiting {float(count)}".encode()
    while text not in node.metrics.exposition():  # noqa: ASYNC110 # a figure, not an event
        await asyncio.sleep(0)


def test_requests_without_room_wait_and_enter_first_come_first_served() -> None:
    async def story(node: NodeContext, entrance: AdmissionQueue) -> None:
        node.set_load(FULL)
        order: list[int] = []

        async def come(number: int) -> None:
            await entrance.route(WANTED, MemoryRequest())
            order.append(number)

        waiting = [asyncio.ensure_future(come(number)) for number in range(3)]
        await until_waiting(node, 3)
        node.set_load(IDLE)
        await asyncio.gather(*waiting)
        assert order == [0, 1, 2]
        assert b"synkti_requests_waiting 0.0" in node.metrics.exposition()

    run_scenario(story)


def test_a_request_beyond_the_queue_gets_429_with_a_retry_delay() -> None:
    async def story(node: NodeContext, entrance: AdmissionQueue) -> None:
        node.set_load(FULL)
        waiting = asyncio.ensure_future(entrance.route(WANTED, MemoryRequest()))
        await until_waiting(node, 1)
        with pytest.raises(FleetFull, match="as many requests wait here as may") as full:
            await entrance.route(WANTED, MemoryRequest())
        assert full.value.retry_after_s >= 1
        waiting.cancel()

    run_scenario(story, Admission(max_waiting=1))


def test_a_request_that_waited_too_long_is_refused() -> None:
    async def story(node: NodeContext, entrance: AdmissionQueue) -> None:
        node.set_load(FULL)
        with pytest.raises(FleetFull, match="No node had room for this request in time"):
            await entrance.route(WANTED, MemoryRequest())

    run_scenario(story, Admission(max_wait_s=0.01))


def test_a_request_that_waited_too_long_goes_to_a_node_with_an_open_breaker() -> None:
    async def run() -> None:
        now = 0.0
        node = make_node(1)
        node.gossip.monotonic = lambda: now
        assert isinstance(node.route(WANTED), Route)
        for _ in range(FAILURE_THRESHOLD):
            node.on_request_failed("i-1", classify_loss(Origin.PEER, LossReason.RESET))
        node.set_load(FULL)
        entrance = AdmissionQueue(node, lambda: 0.5, Admission(max_wait_s=0.1))
        letting_in = asyncio.ensure_future(entrance.run())
        waiting = asyncio.ensure_future(entrance.route(WANTED, MemoryRequest()))
        await until_waiting(node, 1)
        now = 0.2
        async with asyncio.timeout(10):
            route = (await waiting).route
        assert (route.node.instance_id, route.reason) == ("i-1", "last-resort")
        letting_in.cancel()

    asyncio.run(run())


def test_a_waiting_request_does_not_use_the_one_trial_of_a_failed_node() -> None:
    admission = Admission()

    async def run() -> None:
        now = 0.0
        node = make_node(1)
        node.gossip.monotonic = lambda: now
        node.set_state(NodeState.STARTING)
        for _ in range(FAILURE_THRESHOLD):
            node.on_request_failed("i-1", classify_loss(Origin.PEER, LossReason.RESET))
        now = MAX_OPEN_S + 1.0
        admission.enqueue(now, 0.5)  # somebody waits already
        waiting = asyncio.ensure_future(AdmissionQueue(node, lambda: 0.5, admission).route(WANTED, MemoryRequest()))
        await asyncio.sleep(0)
        assert len(admission) == 2
        assert isinstance(node.route(WANTED), Route)
        waiting.cancel()

    asyncio.run(run())


def test_a_client_that_leaves_the_queue_leaves_nothing_behind() -> None:
    async def story(node: NodeContext, entrance: AdmissionQueue) -> None:
        node.set_load(FULL)
        clients = [MemoryRequest(), MemoryRequest()]
        first, second = (asyncio.ensure_future(entrance.route(WANTED, client)) for client in clients)
        await until_waiting(node, 2)
        clients[0].disconnect()
        with pytest.raises(ClientGone):
            await first
        node.set_load(IDLE)
        assert (await second).route.node.instance_id == "i-0"

    run_scenario(story)


def test_a_client_that_leaves_the_queue_is_freed_without_a_collector() -> None:
    class Waited(RouteRequest):
        """A request that can be looked for."""

    async def story(node: NodeContext, entrance: AdmissionQueue) -> None:
        node.set_load(FULL)
        client = MemoryRequest()

        async def served() -> None:
            with contextlib.suppress(ClientGone):
                await entrance.route(Waited("m"), client)

        task = asyncio.ensure_future(served())
        await until_waiting(node, 1)
        client.disconnect()
        await task
        client._gone = None  # as a door does at the end of a request
        assert not any(type(each) is Waited for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        run_scenario(story)
    finally:
        gc.enable()


def test_a_model_that_no_node_serves_is_refused_at_once_also_while_others_wait() -> None:
    async def story(node: NodeContext, entrance: AdmissionQueue) -> None:
        node.set_load(FULL)
        waiting = asyncio.ensure_future(entrance.route(WANTED, MemoryRequest()))
        await until_waiting(node, 1)
        with pytest.raises(RequestRejected, match="served: m") as refused:
            await entrance.route(RouteRequest("another"), MemoryRequest())
        assert (refused.value.status, refused.value.code) == (404, "model_not_found")
        waiting.cancel()

    run_scenario(story)


def test_requests_that_wait_on_a_node_that_leaves_are_answered() -> None:
    async def story(node: NodeContext, entrance: AdmissionQueue) -> None:
        node.set_load(FULL)
        waiting = asyncio.ensure_future(entrance.route(WANTED, MemoryRequest()))
        await until_waiting(node, 1)
        node.set_state(NodeState.DRAINING)
        with pytest.raises(NoReadyPeer):
            await waiting

    run_scenario(story)
