"""Nodes that answer by a script, for both transports of the client, without a network or a clock."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from synkti_client import AsyncContinuousTransport, ContinuousTransport, RetryPolicy, httpx
from synkti_client._nodes import NODES_PATH, Nodes

NODES = ("http://a:1", "http://b:1", "http://c:1")
QUICK = RetryPolicy(max_attempts=12, initial_backoff_s=0.0, max_backoff_s=0.0)
CHAT = "http://synkti/v1/chat/completions"
STREAM = {"model": "m", "stream": True}
WHOLE = {"model": "m", "messages": [{"role": "user", "content": 'say "stream": true'}]}
ANSWER = {"choices": [{"message": {"content": "whole"}}]}
EVENTS = (b': waiting\nid: s/1\ndata: {"n":1}\n\n', b'id: s/2\ndata: {"n":2}\n\n', b"id: s/3\ndata: [DONE]\n\n")
PLAIN = b'data: {"n":1}\n\ndata: {"n":2}\n\ndata: [DONE]\n\n'

both = pytest.mark.parametrize("kind", ["sync", "async"])

Answer = Callable[[httpx.Request], httpx.Response]


class Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body in pieces; an error among them is raised in its place."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self._pieces = pieces
        self.taken = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.taken += 1
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece

    async def aclose(self) -> None:
        pass


@dataclass
class Script:
    """answer: of every node to any request but that for the list; requests: the requests so far, in order."""

    answer: Answer
    requests: list[httpx.Request] = field(default_factory=list)
    listings: list[httpx.Request] = field(default_factory=list)
    """The requests for the list of nodes."""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == NODES_PATH:
            self.listings.append(request)
            listed = [{"front": node.removeprefix("http://"), "model": "m"} for node in NODES]
            return httpx.Response(200, json={"nodes": listed})
        self.requests.append(request)
        return self.answer(request)

    def timeouts(self) -> list[dict[str, Any]]:
        return [dict(request.extensions["timeout"]) for request in self.requests]


def sync_client(script: Script, patience: RetryPolicy = QUICK, **options: Any) -> httpx.Client:
    return httpx.Client(transport=ContinuousTransport(Nodes(NODES), patience, httpx.MockTransport(script)), **options)


def post(script: Script, body: Any, kind: str, patience: RetryPolicy = QUICK, url: str = CHAT, **options: Any) -> Any:
    """One request over the sync or the async transport; its answer, read to the end. options: of the request."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    options.setdefault("timeout", 600.0)
    if kind == "sync":
        with sync_client(script, patience) as client:
            return client.post(url, content=content, **options)

    async def send() -> httpx.Response:
        transport = AsyncContinuousTransport(Nodes(NODES), patience, httpx.MockTransport(script))
        async with httpx.AsyncClient(transport=transport) as client:
            return await client.post(url, content=content, **options)

    return asyncio.run(send())


def error(status: int, code: str | None, **headers: str) -> httpx.Response:
    document = {"error": {"message": "m", "type": "t", "param": None, "code": code}}
    return httpx.Response(status, json=document, headers=headers)


def stream(*pieces: bytes | Exception) -> httpx.Response:
    """One that any node can continue."""
    headers = {"content-type": "text/event-stream; charset=utf-8", "x-synkti-stream": "s"}
    return httpx.Response(200, headers=headers, stream=Pieces(*pieces))
