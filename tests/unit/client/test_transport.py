"""The client's transports: requests to nodes, timeouts, retries and the answers that the application gets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest

from node_agent.contract import names
from synkti_client import (
    AsyncContinuousTransport,
    ContinuousTransport,
    NoNodeAnswers,
    RequestLost,
    RetryPolicy,
    StreamLost,
    _request,
    httpx,
)
from synkti_client._attempts import Attempts, Bounds
from synkti_client._nodes import Nodes
from synkti_client._request import EVENT_IDS_HEADER, requests_stream
from tests.unit.client.scripted import NODES, QUICK, Pieces, Script, error, post, stream

STREAM = {"model": "m", "stream": True}
WHOLE = {"model": "m", "messages": [{"role": "user", "content": 'say "stream": true'}]}
ANSWER = {"choices": [{"message": {"content": "whole"}}]}
EVENTS = (b': waiting\nid: s/1\ndata: {"n":1}\n\n', b'id: s/2\ndata: {"n":2}\n\n', b"id: s/3\ndata: [DONE]\n\n")
PLAIN = b'data: {"n":1}\n\ndata: {"n":2}\n\ndata: [DONE]\n\n'

both = pytest.mark.parametrize("kind", ["sync", "async"])


# what is a stream (F2)


@pytest.mark.parametrize(
    "fields",
    [
        {"stream": None},
        {"stream": False},
        {"stream": 0},
        {"stream": "false"},
        {"stream": "off"},
        {"stream": []},
        {"stream": 2},
        {"user": "stream"},
        {"stream_options": {"include_usage": True}},
        {"tools": [{"function": {"parameters": {"properties": {"stream": {"type": "string"}}}}}]},
        {"metadata": {"stream": True}},
        {"stream": True, "background": True},
    ],
)
def test_a_body_that_only_mentions_stream_requests_none(fields: dict[str, Any]) -> None:
    assert not requests_stream(json.dumps({**WHOLE, **fields}).encode())


@pytest.mark.parametrize("value", [True, 1, 1.0, "true", "True", "yes", "on", "t", "y", "1"])
def test_stream_is_read_as_an_engine_reads_it(value: object) -> None:
    assert requests_stream(json.dumps({**WHOLE, "stream": value}, indent=1).encode())


@pytest.mark.parametrize(
    "body", [b'{"\\u0073tream":true}', b'\xef\xbb\xbf{"stream":true}', '{"stream":true}'.encode("utf-16")]
)
def test_stream_in_another_encoding_is_read(body: bytes) -> None:
    assert requests_stream(body)


@pytest.mark.parametrize(
    "body", [b"", b"stream", b'["stream"]', b'{"stream":true', b'{"stream":' + b"[" * 100_000, b"\xff stream"]
)
def test_an_unreadable_body_requests_no_stream(body: bytes) -> None:
    assert not requests_stream(body)


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


# retries and their bounds


@both
def test_all_nodes_down_is_one_error_that_names_them_and_the_places_to_look_at(kind: str) -> None:
    def down(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused")

    with pytest.raises(NoNodeAnswers, match=r"3 nodes.*http://.:1: no connection: Connection refused.*curl") as raised:
        post(Script(down), WHOLE, kind)
    assert isinstance(raised.value, httpx.ConnectError), "the error that code without Synkti handles"


def test_time_without_any_node_is_bounded_far_below_the_time_for_a_stream() -> None:
    now = 0.0

    def attempts(bounds: Bounds) -> float:
        nonlocal now
        now = 0.0
        tries = Attempts(Nodes(NODES), RetryPolicy(), bounds, lambda: now, lambda: 1.0)
        with contextlib.suppress(httpx.TransportError):
            while True:
                node, wait_s = tries.next()
                now += wait_s
                tries.on_failure(node, httpx.ConnectError(""))
        return now

    assert 15.0 < attempts(Bounds()) < 17.0
    assert 60.0 < attempts(Bounds(is_resuming=True)) < 62.0
    assert attempts(Bounds(single_round=True)) == 0.0
    assert attempts(Bounds(deadline=3.0)) == 3.0


@both
def test_a_retry_by_an_sdk_is_sent_to_each_node_once(kind: str) -> None:
    """Its first attempt had all the patience; three times that would be minutes."""

    def down(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused")

    script = Script(down)
    with pytest.raises(NoNodeAnswers):
        post(script, WHOLE, kind, headers={"x-stainless-retry-count": "1"})
    assert len(script.requests) == len(NODES)


@both
def test_an_error_that_may_be_the_requests_own_is_retried_at_one_other_node(kind: str) -> None:
    for status, code in ((500, None), (500, "internal_error"), (503, "engine_lost"), (502, None), (503, "poison")):
        script = Script(lambda request, status=status, code=code: error(status, code))  # type: ignore[misc]
        assert post(script, WHOLE, kind).status_code == status
        assert len(script.requests) == 2


@both
def test_an_error_marked_final_is_not_retried(kind: str) -> None:
    script = Script(lambda request: error(500, "engine_error", **{"x-should-retry": "false"}))
    assert post(script, WHOLE, kind).status_code == 500
    assert len(script.requests) == 1


@both
def test_an_error_marked_final_is_the_answer(kind: str) -> None:
    script = Script(lambda request: error(500, "engine_error", **{"x-should-retry": "false"}))
    assert post(script, WHOLE, kind).status_code == 500
    assert len(script.requests) == 1


@both
def test_a_node_that_is_not_ready_is_retried_and_its_last_answer_passed_on(kind: str) -> None:
    script = Script(lambda request: error(503, "no_ready_node", **{"retry-after": "2"}))
    policy = RetryPolicy(max_attempts=5, initial_backoff_s=0.0, max_backoff_s=0.0, max_retry_s=0.0)
    answer = post(script, WHOLE, kind, policy)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_ready_node")


@both
@pytest.mark.parametrize(("status", "code"), [(429, "fleet_full"), (400, "no_ready_node"), (404, None), (401, None)])
def test_any_other_answer_is_passed_on_at_once(kind: str, status: int, code: str | None) -> None:
    script = Script(lambda request: error(status, code))
    assert post(script, WHOLE, kind).status_code == status
    assert len(script.requests) == 1


@both
def test_a_code_in_the_text_of_an_error_is_no_code(kind: str) -> None:
    document = {"error": {"message": "too_many_streams, no_ready_node", "code": "rate_limited"}}
    script = Script(lambda request: httpx.Response(429, json=document))
    assert post(script, WHOLE, kind).status_code == 429
    assert len(script.requests) == 1


def test_retry_after_of_a_node_delays_its_next_request_within_bounds() -> None:
    attempts = Attempts(Nodes(NODES), RetryPolicy(), clock=lambda: 0.0, rng=lambda: 0.0)
    for after_s in (1.5, 3.0, 0.0):
        node, wait_s = attempts.next()
        assert wait_s == 0.0, "other nodes were not tried"
        attempts.on_refusal(node, httpx.ReadError("503"), after_s)
    assert attempts.next()[1] == 3.0


@both
def test_a_request_lost_with_node_after_node_is_given_up(kind: str) -> None:
    """Each of them may have generated most of it in vain."""

    def dies(request: httpx.Request) -> httpx.Response:
        return httpx.Response(
            200, headers={"content-type": "application/json"}, stream=Pieces(b"{", httpx.ReadError("reset"))
        )

    script = Script(dies)
    with pytest.raises(RequestLost, match="the connection broke: reset"):
        post(script, WHOLE, kind)
    assert len(script.requests) == QUICK.max_losses + 1


@both
def test_an_answer_that_breaks_in_the_middle_is_requested_from_another_node(kind: str) -> None:
    def once(request: httpx.Request) -> httpx.Response:
        if len(script.requests) > 1:
            return httpx.Response(200, json=ANSWER)
        return httpx.Response(
            200, headers={"content-type": "application/json"}, stream=Pieces(b"{", httpx.ReadError("reset"))
        )

    script = Script(once)
    assert post(script, WHOLE, kind).json() == ANSWER
    assert len({request.url.host for request in script.requests}) == 2


@both
def test_a_request_that_cannot_be_sent_is_not_retried(kind: str) -> None:
    def unsendable(request: httpx.Request) -> httpx.Response:
        raise httpx.LocalProtocolError("illegal header")

    script = Script(unsendable)
    with pytest.raises(httpx.LocalProtocolError):
        post(script, WHOLE, kind)
    assert len(script.requests) == 1


@both
def test_bytes_beyond_ascii_in_a_header_reach_the_node_as_they_are(kind: str) -> None:
    script = Script(lambda request: httpx.Response(200, json=ANSWER))
    post(script, WHOLE, kind, headers=[(b"x-a", b"b\xff"), (b"x-b", "ü".encode())])
    sent = dict(script.requests[0].headers.raw)
    assert (sent[b"x-a"], sent[b"x-b"]) == (b"b\xff", "ü".encode())


# ids of events (F1)


def test_the_header_for_event_ids_is_the_same_as_the_nodes() -> None:
    assert names.EVENT_IDS_HEADER == EVENT_IDS_HEADER


@both
def test_nodes_send_ids_and_the_application_gets_a_plain_stream(kind: str) -> None:
    script = Script(lambda request: stream(b"retry: 250\n\n", *EVENTS))
    assert post(script, STREAM, kind).content == PLAIN
    assert script.requests[0].headers[EVENT_IDS_HEADER] == "true"


@both
@pytest.mark.parametrize(
    "headers", [{"accept": "text/event-stream"}, {"last-event-id": "s/0"}, {"X-Synkti-Event-Ids": "true"}]
)
def test_an_application_that_uses_ids_gets_them(kind: str, headers: dict[str, str]) -> None:
    script = Script(lambda request: stream(*EVENTS))
    assert post(script, STREAM, kind, headers=headers).content == b"".join(EVENTS)


@both
@pytest.mark.parametrize(
    "headers",
    [{"accept": "application/json"}, {"accept": "text/event-stream", "x-synkti-event-ids": "false"}, {"accept": "*/*"}],
)
def test_an_application_without_ids_gets_none(kind: str, headers: dict[str, str]) -> None:
    script = Script(lambda request: stream(*EVENTS))
    assert post(script, STREAM, kind, headers=headers).content == PLAIN


# streams


@both
def test_a_stream_is_resumed_with_the_last_id_that_was_read(kind: str) -> None:
    def breaks(request: httpx.Request) -> httpx.Response:
        if len(script.requests) == 1:
            return stream(EVENTS[0], EVENTS[1][:9], httpx.ReadError("reset"))
        assert request.url.path == "/v1/streams/s"
        assert request.headers["last-event-id"] == "s/1"
        assert request.headers["authorization"] == "Bearer k"
        assert request.headers[EVENT_IDS_HEADER] == "true"
        return stream(*EVENTS[1:])

    script = Script(breaks)
    assert post(script, STREAM, kind, headers={"authorization": "Bearer k"}).content == PLAIN


@both
def test_an_event_source_that_reconnects_gets_only_later_events(kind: str) -> None:
    """Its own last id counts until it got another event."""

    def breaks(request: httpx.Request) -> httpx.Response:
        assert request.headers["last-event-id"] == "s/1"
        return stream(httpx.ReadError("reset")) if len(script.requests) == 1 else stream(*EVENTS[1:])

    script = Script(breaks)
    url = "http://synkti/v1/streams/s"
    got = post(script, b"", kind, url=url, headers={"last-event-id": "s/1"})
    assert got.content == b"".join(EVENTS[1:])


@both
def test_engines_lost_repeatedly_under_a_stream_end_it(kind: str) -> None:
    """Whatever kills engines would kill the fleet."""
    lost = b'data: {"error":{"message":"m","code":"engine_lost"}}\n\n'

    def dies(request: httpx.Request) -> httpx.Response:
        return stream(EVENTS[0], lost) if len(script.requests) == 1 else stream(lost)

    script = Script(dies)
    with pytest.raises(StreamLost, match="Engines were lost"):
        post(script, STREAM, kind)
    assert len(script.requests) == 3


@both
def test_a_stream_unknown_to_all_nodes_ends_with_the_reason(kind: str) -> None:
    def forgotten(request: httpx.Request) -> httpx.Response:
        return stream(EVENTS[0]) if len(script.requests) == 1 else error(404, "stream_not_found")

    script = Script(forgotten)
    with pytest.raises(StreamLost, match="404 stream_not_found"):
        post(script, STREAM, kind)


def test_errors_in_anthropics_form_are_read_too() -> None:
    def moved(request: httpx.Request) -> httpx.Response:
        if len(script.requests) == 1:
            return stream(
                EVENTS[0], b'event: error\ndata: {"type":"error","error":{"message":"m","code":"handoff"}}\n\n'
            )
        return stream(b"id: s/2\nevent: message_stop\ndata: {}\n\n")

    script = Script(moved)
    got = post(script, STREAM, "sync", url="http://synkti/v1/messages")
    assert got.content == b'data: {"n":1}\n\nevent: message_stop\ndata: {}\n\n'


# passed-on answers (F7)


@pytest.mark.parametrize("media_type", ["text/event-stream", "audio/mpeg", "application/x-ndjson"])
def test_an_answer_in_pieces_is_passed_on_in_pieces(media_type: str) -> None:
    pieces = Pieces(b"one", b"two", b"three")
    script = Script(lambda request: httpx.Response(200, headers={"content-type": media_type}, stream=pieces))
    request = httpx.Request("POST", "http://synkti/v1/audio/speech", content=b"{}", extensions={"timeout": {"read": 9}})
    answer = ContinuousTransport(Nodes(NODES), QUICK, httpx.MockTransport(script)).handle_request(request)
    assert pieces.taken == 0
    taken = [pieces.taken for _ in answer.iter_raw()]
    assert taken == [1, 2, 3]


# nodes


def test_an_invalid_entry_of_a_list_is_left_out() -> None:
    nodes = Nodes(["http://a:1"])
    fronts = ["b:1", "c:99999", "d e:1", "[::1", "", "f:0", "[::1]:8000"]
    body = json.dumps({"nodes": [{"front": front, "model": "m"} for front in fronts]}).encode()
    assert nodes.update_from("http://a:1/v1/synkti/nodes", body)
    assert sorted(nodes.by_preference()) == ["http://[::1]:8000", "http://a:1", "http://b:1"]


def test_a_discovery_without_nodes_is_an_error_that_names_the_count() -> None:
    with pytest.raises(NoNodeAnswers, match="0 nodes are known"):
        Attempts(Nodes([], "http://lb/v1/synkti/nodes"), RetryPolicy()).next()


def test_requests_are_read_once() -> None:
    request = httpx.Request("POST", "http://synkti/v1/chat/completions", extensions={"timeout": {"read": 5.0}})
    parsed = _request.parse_request(request, b'{"stream": true}')
    assert (parsed.is_stream, parsed.read_timeout_s) == (True, None)
    assert (parsed.uses_event_ids, parsed.is_sdk_retry) == (False, False)


def test_a_late_request_for_the_list_is_not_cancelled_and_is_awaited() -> None:
    """Cancelled while it connects, a request leaves its socket behind."""
    ended: list[str] = []

    class OneIsLate(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.host != "a":
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            ended.append(str(request.url.host))
            return httpx.Response(200, json={"nodes": [{"front": "a:1", "model": "m"}]})

    async def story() -> None:
        transport = AsyncContinuousTransport(Nodes(NODES), QUICK, OneIsLate())
        assert await transport.refresh()
        await transport.aclose()

    asyncio.run(story())
    assert sorted(ended) == ["a", "b", "c"]
