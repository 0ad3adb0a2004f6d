"""Test the keep-alives on a peer's request, on virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

from node_agent.contract.names import SIGNS_HEADER
from node_agent.core.continuation.timeouts import MIN_INTER_TOKEN_S, keepalive_interval_s
from node_agent.runtime.engine.active_requests import EngineCalls
from node_agent.runtime.engine.keepalive import KEEPALIVE, OVERTAKEN, KeepAlives, without_keepalives
from node_agent.testing.fake_requests import MemoryRequest
from tests.borders.virtual_time import run_virtual
from tests.unit.runtime.a_node import make_node
from tests.unit.runtime.engine.watched_engine import ADDRESS, Engine


def test_keepalives_are_sent_between_events_while_the_engine_is_silent() -> None:
    async def run() -> None:
        signs, request, engine = KeepAlives(keepalive_interval_s(MIN_INTER_TOKEN_S)), MemoryRequest(), Engine()
        node, http = make_node(0), engine
        any_http: Any = http
        served = EngineCalls(node, any_http, ADDRESS)
        showing = asyncio.create_task(signs.run())
        with signs.track(request) as shown:
            await asyncio.sleep(1.1)  # a context is fetched
            calls = served.request("POST", "/", {}, b"", None, 1.0)
            shown.attach(calls)
            await asyncio.sleep(1.1)  # the engine reads the prompt
            assert request.accepted[0] == {SIGNS_HEADER: b"1"}
            assert len(request.accepted) >= 4
            request.begin(200, b"text/event-stream")
            shown.on_begun()
            shown.write(b"data: 1\n\n")
            await asyncio.sleep(1.1)
            calls.is_overtaken = True
            await asyncio.sleep(1.0)
            assert request.sent[0] == b"data: 1\n\n"
            assert request.sent[1:] == [KEEPALIVE] * 2 + [OVERTAKEN] * 2
            shown.write(b"data: ha")
            await asyncio.sleep(2.0)
            assert request.sent[-1] == b"data: ha", "nothing goes into an event"
            shown.write(b"lf\n\n")
            calls.pause(True)
            await asyncio.sleep(2.0)
            assert request.sent[-1] == b"lf\n\n", "nor to a peer that takes nothing"
        before = list(request.sent)
        await asyncio.sleep(5.0)
        assert request.sent == before
        showing.cancel()

    run_virtual(run, sockets=False)


def test_keepalives_are_stripped_only_where_they_stand_before_an_event() -> None:
    event = b"data: 1\n\n"
    assert without_keepalives(KEEPALIVE + OVERTAKEN + KEEPALIVE + event) == event
    assert without_keepalives(event + KEEPALIVE) == event + KEEPALIVE
    assert without_keepalives(OVERTAKEN) == b""
