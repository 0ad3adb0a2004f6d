"""What a streaming client hears while nothing happens: a head in time, then a comment now and then."""

from __future__ import annotations

import asyncio

import pytest

from node_agent.adapters.memory import MemoryRequest
from node_agent.tasks import reply as replies
from node_agent.tasks.reply import Reply


def played(monkeypatch: pytest.MonkeyPatch, early_s: float, events: list[int], *, ended: bool = False) -> MemoryRequest:
    """What a client hears; events: how many it had at each look."""
    monkeypatch.setattr(replies, "EARLY_HEAD_S", early_s)
    client = MemoryRequest()

    async def story() -> None:
        reply = Reply(client, "s", b"mine", "/v1/chat/completions")
        if ended:
            reply.fail(503, "code", "message")
        for count in events:
            reply.keep_alive(count)

    asyncio.run(story())
    return client


def test_the_head_comes_before_any_engine_answers_and_comments_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    client = played(monkeypatch, 0.0, [0, 0, 5, 5])
    assert client.status == 200
    assert client.told[b"x-request-id"] == b"mine"
    assert client.sent == [b": waiting\n"] * 3


def test_until_then_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    client = played(monkeypatch, 60.0, [0, 0])
    assert (client.status, client.sent) == (0, [])


def test_after_the_end_nothing_more_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    client = played(monkeypatch, 0.0, [0, 0], ended=True)
    assert (client.status, client.is_ended, len(client.sent)) == (503, True, 1)
    assert b'"code":"code"' in client.answer


def test_nothing_is_added_to_what_a_client_has_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "EARLY_HEAD_S", 0.0)
    client = MemoryRequest()

    async def story() -> None:
        reply = Reply(client, "s", None, "/v1/chat/completions")
        client.lag(True)
        for _ in range(5):
            reply.keep_alive(0)
        assert (client.status, client.sent) == (0, [])
        client.lag(False)
        reply.keep_alive(0)
        assert client.sent == [b": waiting\n"]

    asyncio.run(story())
