"""Test streams: ids of events, resumption after a loss, and responses that are passed on in pieces."""

from __future__ import annotations

import logging
import re

import pytest

from node_agent.contract import names
from synkti_client import ContinuousTransport, StreamLost, httpx
from synkti_client._nodes import Nodes
from synkti_client._request import EVENT_IDS_HEADER
from tests.unit.client.scripted import EVENTS, NODES, PLAIN, QUICK, STREAM, Pieces, Script, both, error, post, stream

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
    assert {request.headers["authorization"] for request in script.listings} == {"Bearer k"}, "nodes require it, too"


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


@both
def test_a_continuation_is_logged_in_one_line_with_both_nodes_and_the_reason(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(request: httpx.Request) -> httpx.Response:
        if len(script.requests) == 1:
            return stream(EVENTS[0], httpx.ReadError("reset\nby\x1b[31m peer"))
        return stream(*EVENTS[1:])

    script = Script(breaks)
    with caplog.at_level(logging.INFO, logger="synkti_client"):
        assert post(script, STREAM, kind).content == PLAIN
    (line,) = caplog.messages
    lost, found = (f"http://{request.url.netloc.decode()}" for request in script.requests)
    pattern = rf"a stream outlived {lost} \(the connection broke\): it continues at {found} after \d+ ms"
    assert re.fullmatch(pattern, line), "without a line break or a control character of a node's"


@both
def test_a_stream_without_a_loss_logs_nothing(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="synkti_client"):
        post(Script(lambda request: stream(*EVENTS)), STREAM, kind)
    assert caplog.messages == []
