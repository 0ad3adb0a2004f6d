"""What a streaming client hears while nothing happens: a head in time, then a comment now and then."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from node_agent.tasks import reply as replies
from node_agent.tasks.reply import Reply


def played(monkeypatch: pytest.MonkeyPatch, *, early_s: float, every_s: float, ended: bool) -> list[dict[str, Any]]:
    monkeypatch.setattr(replies, "EARLY_HEAD_S", early_s)
    monkeypatch.setattr(replies, "COMMENT_EVERY_S", every_s)
    sent: list[dict[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(dict(message))

    async def story() -> None:
        reply = Reply(send, "s", b"mine")
        if ended:
            await reply.fail(503, "code", "message")
        for _ in range(3):
            reply.keep_alive()
            await asyncio.sleep(0)

    asyncio.run(story())
    return sent


def test_the_head_comes_before_any_engine_answers_and_comments_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = played(monkeypatch, early_s=0.0, every_s=0.0, ended=False)
    assert sent[0]["status"] == 200
    assert (b"x-request-id", b"mine") in sent[0]["headers"]
    assert {message["body"] for message in sent[1:]} == {b": waiting\n"}


@pytest.mark.parametrize("bounds", [{"early_s": 60.0, "every_s": 0.0, "ended": False}])
def test_until_then_nothing_is_said(monkeypatch: pytest.MonkeyPatch, bounds: dict[str, Any]) -> None:
    assert played(monkeypatch, **bounds) == []


def test_after_the_end_nothing_more_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = played(monkeypatch, early_s=0.0, every_s=0.0, ended=True)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 503
