"""The client of the story: the real OpenAI SDK, reading a stream and taking notes."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2 as httpx  # what the OpenAI SDK is built on
import openai

from local.certificate import Output
from node_agent.contract.names import EVENT_IDS_HEADER, NODE_HEADER

TIMEOUT_S = 120.0
_CONTINUED = re.compile(rb": synkti continued on \S+ after (\S+) on (\S+), pause (\S+) ms")


@dataclass(frozen=True)
class DemoRequest:
    """chat: a conversation of one message, or a plain prompt."""

    chat: bool
    text: str
    max_tokens: int

    def limited(self, max_tokens: int) -> DemoRequest:
        return DemoRequest(self.chat, self.text, max_tokens)


@dataclass(frozen=True)
class Continuation:
    """A stream went on: the node that it lost, why, and how long the client waited."""

    lost: str
    why: str
    pause_ms: float


@dataclass
class StreamResult:
    """What a client heard.

    node: whose engine began it, empty where none did; error: how it broke, if it did.
    """

    node: str
    ids: list[int] = field(default_factory=list)
    text: str = ""
    continuations: list[Continuation] = field(default_factory=list)
    error: str | None = None

    @property
    def answer(self) -> Output:
        return Output(tuple(self.ids), self.text)

    def continued_from(self, node: str) -> Continuation | None:
        """How the stream went on after it lost this node, None where it did not."""
        return next((each for each in self.continuations if each.lost == node), None)


class _Stopwatch(httpx.AsyncBaseTransport):
    """The SDK's own transport, with an eye on the clock.

    A node marks the place where a stream went on with a comment, which the SDK drops, and says how long it was without
    a token; here the time between the bytes in front of it and those that bring it is taken as well.
    """

    def __init__(self, seen: list[Continuation]) -> None:
        self._inner = httpx.AsyncHTTPTransport()
        self._seen = seen

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.headers[EVENT_IDS_HEADER] = "true"  # with the ids come the comments
        response = await self._inner.handle_async_request(request)
        if not isinstance(response.stream, httpx.AsyncByteStream):
            raise TypeError("an asynchronous transport gives asynchronous bytes")
        stream = _TimedStream(response.stream, self._seen)
        return httpx.Response(
            response.status_code, headers=response.headers, stream=stream, extensions=response.extensions
        )

    async def aclose(self) -> None:
        await self._inner.aclose()


class _TimedStream(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream, seen: list[Continuation]) -> None:
        self._inner = inner
        self._seen = seen

    async def __aiter__(self) -> AsyncIterator[bytes]:
        before = time.monotonic()
        async for data in self._inner:
            now = time.monotonic()
            for why, lost, at_entry_ms in _CONTINUED.findall(data):
                # The entry's figure where this client was behind and saw less of the pause than there was.
                pause_ms = max((now - before) * 1000, float(at_entry_ms))
                self._seen.append(Continuation(lost.decode(), why.decode(), round(pause_ms, 1)))
            before = now
            yield data

    async def aclose(self) -> None:
        await self._inner.aclose()


async def read_stream(
    url: str, model: str, question: DemoRequest, heard_more: Callable[[StreamResult, str], None]
) -> StreamResult:
    """Ask at `url` (a node's front door) and read to the end; `heard_more` gets each new piece of text."""
    seen: list[Continuation] = []
    http = httpx.AsyncClient(transport=_Stopwatch(seen), timeout=TIMEOUT_S)
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="local", max_retries=0, http_client=http) as client:
        heard = StreamResult("", continuations=seen)
        try:
            raw = await _send_request(client, model, question)
            heard.node = raw.headers.get(NODE_HEADER, "")
            async for chunk in await raw.parse():
                piece = _add_chunk(heard, chunk)
                heard_more(heard, piece)
        except openai.APIError as error:
            heard.error = str(error)
    return heard


async def _send_request(client: openai.AsyncOpenAI, model: str, question: DemoRequest) -> Any:
    options: dict[str, Any] = {
        "model": model,
        "stream": True,
        "temperature": 0,
        "max_tokens": question.max_tokens,
        "extra_body": {"return_token_ids": True},
    }
    if question.chat:
        messages: Any = [{"role": "user", "content": question.text}]
        return await client.chat.completions.with_streaming_response.create(messages=messages, **options).__aenter__()
    return await client.completions.with_streaming_response.create(prompt=question.text, **options).__aenter__()


def _add_chunk(heard: StreamResult, chunk: Any) -> str:
    """Add a chunk of either kind to the notes; the text in it."""
    piece = ""
    for choice in chunk.choices:
        delta = getattr(choice, "delta", None)
        piece += (delta.content or "") if delta is not None else choice.text or ""
        heard.ids += getattr(choice, "token_ids", None) or []
    heard.text += piece
    return piece
