"""Test how long the transports wait: for a response, for the head of a stream, and no longer than the application."""

from __future__ import annotations

import asyncio

import pytest

from synkti_client import AsyncContinuousTransport, ContinuousTransport, httpx
from synkti_client._nodes import Nodes
from tests.unit.client.scripted import ANSWER, EVENTS, NODES, PLAIN, QUICK, STREAM, WHOLE, Script, both, post, stream


@both
def test_an_answer_in_one_piece_is_waited_for_as_long_as_the_application_waits(kind: str) -> None:
    script = Script(lambda request: httpx.Response(200, json=ANSWER))
    body = {**WHOLE, "stream": None, "tools": [{"parameters": {"properties": {"stream": {}}}}]}
    assert post(script, body, kind, timeout=300.0).json() == ANSWER
    assert [299.0 < each["read"] <= 300.0 for each in script.timeouts()] == [True]
    assert post(script, body, kind, timeout=None).json() == ANSWER
    assert script.timeouts()[-1]["read"] is None


@both
@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses", "messages"])
def test_the_head_of_a_stream_has_a_limit_of_its_own(kind: str, path: str) -> None:
    script = Script(lambda request: stream(*EVENTS))
    assert post(script, STREAM, kind, url=f"http://synkti/v1/{path}", timeout=None).content == PLAIN
    assert script.timeouts()[0]["read"] == QUICK.read_timeout_s, "and then silence has another"

    def frozen(request: httpx.Request) -> httpx.Response:
        assert request.extensions["timeout"]["read"] == QUICK.header_timeout_s
        if len(script.requests) == 1:
            raise httpx.ReadTimeout("")
        return stream(*EVENTS)

    script = Script(frozen)
    assert post(script, STREAM, kind, timeout=None).content == PLAIN


@both
def test_a_passed_on_stream_may_think_before_its_head(kind: str) -> None:
    """Its node sends nothing before its engine does, so that a limit for the head would begin it anew elsewhere."""
    script = Script(lambda request: httpx.Response(200, headers={"content-type": "text/event-stream"}, content=PLAIN))
    post(script, STREAM, kind, url="http://synkti/v1/audio/transcriptions", timeout=None)
    post(script, {**STREAM, "background": True}, kind, url="http://synkti/v1/responses", timeout=None)
    assert [each["read"] for each in script.timeouts()] == [None, None]


# the application's own timeout (F4)


@both
@pytest.mark.parametrize("kind_of_timeout", [httpx.ReadTimeout, httpx.WriteTimeout])
def test_the_applications_timeout_is_raised_and_nothing_is_generated_again(
    kind: str, kind_of_timeout: type[httpx.TimeoutException]
) -> None:
    def slow(request: httpx.Request) -> httpx.Response:
        raise kind_of_timeout("")

    script = Script(slow)
    with pytest.raises(kind_of_timeout):
        post(script, WHOLE, kind, timeout=3.0)
    assert len(script.requests) == 1
    assert 2.0 < script.timeouts()[0]["read"] <= 3.0


@both
def test_the_applications_timeout_bounds_all_attempts_together(kind: str) -> None:
    def lost(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("")

    script = Script(lost)
    with pytest.raises(httpx.ReadTimeout, match="the client's own timeout"):
        post(script, WHOLE, kind, timeout=0.0)
    assert len(script.requests) <= 1


@both
def test_listing_nodes_takes_no_time_that_the_application_does_not_have(kind: str) -> None:
    """Frozen nodes: each question for the list takes as long as it may."""
    allowed: list[float] = []

    def frozen(request: httpx.Request) -> httpx.Response:
        allowed.append(request.extensions["timeout"]["read"])
        raise httpx.ReadTimeout("")

    inner = httpx.MockTransport(frozen)
    if kind == "sync":
        assert not ContinuousTransport(Nodes(NODES), QUICK, inner).refresh(0.25)
    else:
        assert not asyncio.run(AsyncContinuousTransport(Nodes(NODES), QUICK, inner).refresh(0.25))
    assert max(allowed) <= 0.25
