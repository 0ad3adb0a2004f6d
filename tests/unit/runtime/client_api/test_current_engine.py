"""The current engine's response: what was decided between two engines applies to the next one."""

from __future__ import annotations

import asyncio

from node_agent.core.failure.loss import LossReason
from node_agent.core.routing.router import Route
from node_agent.runtime.client_api.current_engine import CurrentEngine
from tests.unit.runtime.a_node import status_of
from tests.unit.runtime.client_api.scripted_engines import Part

ROUTE = Route(status_of(1), "prefix")


def test_a_pause_between_two_engines_applies_to_the_next_one() -> None:
    async def story() -> None:
        engine, first, second = CurrentEngine(), Part(), Part()
        engine.set(ROUTE, first)
        engine.release()
        engine.pause(True)
        engine.set(ROUTE, second)
        assert (first.paused, second.paused) == ([False], [True])

    asyncio.run(story())


def test_a_response_that_begins_after_the_stream_was_closed_is_aborted() -> None:
    async def story() -> None:
        engine, response = CurrentEngine(), Part()
        engine.close()
        engine.set(ROUTE, response)
        assert response.aborted_with is LossReason.CLOSED

    asyncio.run(story())


def test_without_a_response_there_is_nothing_to_abort_and_the_route_stays() -> None:
    async def story() -> None:
        engine, response = CurrentEngine(), Part()
        engine.abort(LossReason.SILENCE)
        engine.set(ROUTE, response)
        engine.release()
        engine.abort(LossReason.SILENCE)
        assert response.aborted_with is None
        assert engine.route is ROUTE

    asyncio.run(story())
