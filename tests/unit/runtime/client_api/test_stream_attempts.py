"""The record of one stream's attempts: at breakers and crash suspects, until an engine answers."""

from __future__ import annotations

import asyncio

from node_agent.core.failure.attempts import EngineResponse
from node_agent.core.failure.attribution import classify_answer, classify_loss
from node_agent.core.failure.error_body import BodyKind
from node_agent.core.failure.loss import EngineDeath, LossReason
from node_agent.core.failure.verdict import Origin
from node_agent.core.routing.circuit_breaker import FAILURE_THRESHOLD
from node_agent.core.routing.router import Route, RouteRequest
from node_agent.runtime.client_api.request_suspicion import RequestSuspicion
from node_agent.runtime.client_api.stream_attempts import StreamAttempts
from node_agent.runtime.node.context import NodeContext
from tests.unit.runtime.a_node import make_node

LOST = classify_loss(Origin.ENGINE, LossReason.RESET)
REFUSED = classify_answer(Origin.ENGINE, 400, BodyKind.ERROR)
IN_DOUBT = classify_answer(Origin.ENGINE, 500, BodyKind.OTHER)


def attempts_at(node: NodeContext) -> StreamAttempts:
    return StreamAttempts(node, "/v1/completions", "s", RequestSuspicion(node.crash_suspects, {"model": "m"}))


def routes_of(node: NodeContext) -> set[str]:
    found = [node.route(RouteRequest("m")) for _ in range(10)]
    return {route.node.instance_id for route in found if isinstance(route, Route)}


def test_a_loss_is_counted_and_another_engine_may_be_asked() -> None:
    async def story() -> None:
        node = make_node(1)
        attempts = attempts_at(node)
        attempts.on_failed("i-1", LOST, None, 3)
        assert attempts.may_retry
        assert attempts.failed.codes == ["reset"]
        assert node.metrics.losses.labels("reset")._value.get() == 1

    asyncio.run(story())


def test_an_answer_about_the_request_ends_its_attempts() -> None:
    async def story() -> None:
        attempts = attempts_at(make_node(1))
        attempts.on_failed("i-1", REFUSED, EngineResponse(400, b"{}"), 0)
        assert not attempts.may_retry
        assert attempts.failed.response == EngineResponse(400, b"{}")

    asyncio.run(story())


def test_nodes_in_doubt_are_at_fault_once_another_engine_answers() -> None:
    async def story() -> None:
        node = make_node(1)
        assert "i-0" in routes_of(node)
        for _ in range(FAILURE_THRESHOLD):
            attempts = attempts_at(node)
            attempts.on_failed("i-0", IN_DOUBT, EngineResponse(500, b"oops"), 0)
            attempts.on_answer_begun(1)
            assert not attempts.failed.in_doubt
        assert routes_of(node) == {"i-1"}

    asyncio.run(story())


def test_only_tokens_clear_the_request_of_suspicion() -> None:
    async def story() -> None:
        node = make_node(1)
        suspicion = RequestSuspicion(node.crash_suspects, {"model": "m"})
        attempts = StreamAttempts(node, "/v1/completions", "s", suspicion)
        suspicion.on_death("i-1", EngineDeath(LossReason.ENGINE_DIED, "1", alone=True))
        attempts.on_answer_begun(0)
        assert suspicion.is_suspect()
        attempts.on_answer_begun(1)
        assert not suspicion.is_suspect()

    asyncio.run(story())
