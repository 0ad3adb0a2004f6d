"""Measures, in a client, the pauses of streams that continue on another node."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from node_agent.contract.names import EVENT_IDS_HEADER
from synkti_client import httpx

_CONTINUED = re.compile(rb": synkti continued on (\S+) after (\S+) on (\S+), pause (\S+) ms")


@dataclass(frozen=True)
class Continuation:
    """One continuation of a stream: the node that it lost, the reason, the client's pause in ms, and the next node."""

    lost_node: str
    reason: str
    pause_ms: float
    node: str = ""


def continuations_in(data: bytes, silent_s: float) -> list[Continuation]:
    """Parse the comments about continuations. silent_s: seconds since the client's last bytes before these."""
    return [
        Continuation(lost.decode(), reason.decode(), round(max(silent_s * 1000, float(pause_ms)), 1), node.decode())
        for node, reason, lost, pause_ms in _CONTINUED.findall(data)
    ]


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
            self._continuations += continuations_in(data, now - last_read_at)
            last_read_at = now
            yield data

    async def aclose(self) -> None:
        await self._inner.aclose()
