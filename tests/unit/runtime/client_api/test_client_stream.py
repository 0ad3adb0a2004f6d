"""A client stream against scripted engines: its early ends, and a client that reads slowly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from node_agent.core.failure.loss import LossReason
from node_agent.runtime.client_api.client_stream import ClientStream
from node_agent.testing.fake_requests import MemoryRequest
from tests.unit.runtime.client_api.scripted_engines import ROLE, TOKEN, Engines, Part, Silent, run

ENDLESS: list[Callable[[], Part]] = [Silent, lambda: Part(ROLE, TOKEN, then=None)]


@pytest.mark.parametrize("play", ENDLESS, ids=["no answer yet", "in the middle"])
def test_a_client_that_disconnects_ends_its_request_also_before_an_answer(play: Callable[[], Part]) -> None:
    engines = Engines(play)
    status, _, _ = run(engines, peers=2, during=lambda _, client: client.disconnect())
    assert status == 499
    assert len(engines.opened) == 1


def test_a_node_that_leaves_sends_its_client_where_to_resume() -> None:
    engines = Engines(lambda: Part(ROLE, TOKEN, then=None))
    status, body, _ = run(engines, peers=2, during=lambda stream, _: stream.close_with_handoff())
    assert status in (200, 503)
    assert b'"code":"handoff"' in body
    assert b"resume the stream (its X-Synkti-Stream) at: i-1:2, i-2:2" in body


def test_an_engine_waits_for_a_client_that_is_slow_and_so_does_the_next_one() -> None:
    def slow_then_gone(stream: ClientStream, client: MemoryRequest) -> None:
        client.set_congested(True)
        client.set_congested(False)
        client.set_congested(True)
        engines.played[0].abort(LossReason.RESET)
        asyncio.get_running_loop().call_later(0.05, client.disconnect)

    engines = Engines(lambda: Part(ROLE, TOKEN, then=None))
    run(engines, peers=2, during=slow_then_gone)
    assert engines.played[0].paused == [False, True, False, True]
    assert engines.played[1].paused == [True]
