"""Measures, in a client, the pauses of streams that continue on another node."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from node_agent.contract.names import EVENT_IDS_HEADER
from synkti_client import httpx

_CONTINUED = re.compile(rb": synkti continued on \S+ after (\S+) on (\S+), pause (\S+) ms")


@dataclass(frozen=True)
class Continuation:
    """One continuation of a stream: the node that it lost, the reason, and the client's pause in ms."""

    lost_node: str
    reason: str
    pause_ms: float


class ContinuationTimer(httpx.AsyncBaseTransport):
    """Wraps a transport and appends each continuation that it reads to `continuations`.

    A node marks the place where a stream continues with a comment, which the SDK drops. The comment has the node's own
    figure for the time without a token. This transport also measures the time between the bytes before the comment and
    those with it. The longer of the two counts, because a client that was behind sees less of the pause.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, continuations: list[Continuation]) -> None:
        self._inner = inner
        self._continuations = continuations

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request, with event ids, and time its stream as it is read. Raises the inner transport's errors."""
        request.headers[EVENT_IDS_HEADER] = "true"  # nodes send the comments only with the event ids
        response = await self._inner.handle_async_request(request)
        if not isinstance(response.stream, httpx.AsyncByteStream) or response.is_closed:
            return response
        stream = _TimedStream(response.stream, self._continuations)
        return httpx.Response(
            response.status_code, headers=response.headers, stream=stream, extensions=response.extensions
        )

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()


class _TimedStream(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream, continuations: list[Continuation]) -> None:
        self._inner = inner
        self._continuations = continuations

    async def __aiter__(self) -> AsyncIterator[bytes]:
        last_read_at = time.monotonic()
        async for data in self._inner:
            now = time.monotonic()
            for reason, lost_node, node_pause_ms in _CONTINUED.findall(data):
                pause_ms = max((now - last_read_at) * 1000, float(node_pause_ms))
                self._continuations.append(Continuation(lost_node.decode(), reason.decode(), round(pause_ms, 1)))
            last_read_at = now
            yield data

    async def aclose(self) -> None:
        await self._inner.aclose()
