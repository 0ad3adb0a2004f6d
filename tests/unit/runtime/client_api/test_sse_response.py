"""What a streaming client receives while nothing happens: a head in time, then something now and then."""

from __future__ import annotations

import asyncio

import pytest

from node_agent.core.openai.client_headers import StreamReader
from node_agent.core.replication.replicated_log import StopReason
from node_agent.runtime.client_api import sse_response as replies
from node_agent.runtime.client_api.sse_response import SseResponse
from node_agent.testing.fake_requests import MemoryRequest

KEEPS_IDS = StreamReader(wants_event_ids=True)
PLAIN = StreamReader(wants_event_ids=False)
SDK = StreamReader(wants_event_ids=False, parses_sse=True)
EVENT_SOURCE = StreamReader(wants_event_ids=True, is_event_source=True, parses_sse=True)


def played(
    monkeypatch: pytest.MonkeyPatch,
    early_s: float,
    events: list[int],
    reader: StreamReader = KEEPS_IDS,
    *,
    path: str = "/v1/chat/completions",
    ended: bool = False,
) -> MemoryRequest:
    """What a client receives; events: how many it had at each look, of which there is about one a second."""
    monkeypatch.setattr(replies, "EARLY_HEAD_S", early_s)
    client = MemoryRequest(target=path)

    async def story() -> None:
        reply = SseResponse(client, "s", path, reader)
        if ended:
            reply.fail(503, "code", "message")
        for count in events:
            reply.keep_alive(count)

    asyncio.run(story())
    return client


def test_the_head_comes_before_any_engine_answers_and_comments_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    client = played(monkeypatch, 0.0, [0, 0, 5, 5])
    assert client.status == 200
    assert client.response_headers[b"x-synkti-stream"] == b"s"
    assert client.sent == [b": waiting\n"] * 3


@pytest.mark.parametrize(("reader", "idle"), [(PLAIN, b"\n\n"), (SDK, b": waiting\n")], ids=["plain", "sdk"])
def test_a_client_without_ids_gets_nothing_for_as_long_as_proxies_wait(
    monkeypatch: pytest.MonkeyPatch, reader: StreamReader, idle: bytes
) -> None:
    """A comment breaks programs that take every block for data, and a blank line breaks older SDKs for Go."""
    client = played(monkeypatch, 0.0, [0] * 14, reader)
    assert (client.status, client.sent) == (0, [])
    client = played(monkeypatch, 0.0, [0] * 15 + [1] + [1] * 29, reader)
    assert (client.status, client.sent) == (200, [idle, idle])


def test_an_event_source_gets_a_short_retry_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    assert played(monkeypatch, 0.0, [0], EVENT_SOURCE).sent == [b"retry: 250\n", b": waiting\n"]


def test_nothing_is_sent_before_the_early_head(monkeypatch: pytest.MonkeyPatch) -> None:
    client = played(monkeypatch, 60.0, [0, 0])
    assert (client.status, client.sent) == (0, [])


def test_nothing_is_sent_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    client = played(monkeypatch, 0.0, [0, 0], ended=True)
    assert (client.status, client.is_ended, len(client.sent)) == (503, True, 1)
    assert b'"code":"code"' in client.answer


def test_nothing_is_sent_to_a_client_that_has_unread_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "EARLY_HEAD_S", 0.0)
    client = MemoryRequest()

    async def story() -> None:
        reply = SseResponse(client, "s", "/v1/chat/completions", KEEPS_IDS)
        client.set_congested(True)
        for _ in range(5):
            reply.keep_alive(0)
        assert (client.status, client.sent) == (0, [])
        client.set_congested(False)
        reply.keep_alive(0)
        assert client.sent == [b": waiting\n"]

    asyncio.run(story())


def test_an_error_has_the_form_of_its_routes_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    client = played(monkeypatch, 0.0, [], path="/v1/messages", ended=True)
    assert client.answer.startswith(b'{"type":"error","error":{"type":"overloaded_error","message":"message"')


@pytest.mark.parametrize(
    ("reason", "header"),
    [
        (None, None),
        (StopReason.HEADER_TOO_LARGE, b"none; reason=request-too-large"),
        (StopReason.JOURNAL_TOO_LARGE, b"none; reason=journal-too-large"),
    ],
)
def test_the_head_says_why_the_stream_has_no_replicas(reason: StopReason | None, header: bytes | None) -> None:
    client = MemoryRequest(target="/v1/chat/completions")

    async def story() -> None:
        reply = SseResponse(client, "s", client.target, KEEPS_IDS)
        reply.not_durable_reason = reason
        reply.start(None)

    asyncio.run(story())
    assert client.response_headers.get(b"x-synkti-durability") == header
