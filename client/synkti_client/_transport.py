"""The httpx transports: requests to one node after another, and streams over several connections.

Both do the same in the same words, one with `await`; all that they decide is in the machines beside this file.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from synkti_client._continuity import ELSEWHERE, Continuity
from synkti_client._httpx import httpx
from synkti_client._nodes import Nodes
from synkti_client._patience import Patience

STREAM_HEADER = "x-synkti-stream"
_RETRIED = frozenset({429, 500, 502, 503, 504})
_LIST_TIMEOUT_S = 2.0
_LIST_TIMEOUTS_S = (0.5, _LIST_TIMEOUT_S)
"""Where nodes can only be asked one after another, one that is frozen should not hold up the others at first."""


class StreamLost(httpx.ReadError):
    """The stream could not be resumed at any node, within the bounds of its Patience."""


class Attempts:
    """One request's way from node to node, until something of the answer comes; then it begins anew."""

    def __init__(self, nodes: Nodes, patience: Patience) -> None:
        self._nodes = nodes
        self._patience = patience
        self._last: Exception | None = None
        self.progress()

    def progress(self) -> None:
        self._made = 0
        self._began = time.monotonic()
        self._asked: list[str] = []
        self._unknown_at: set[str] = set()

    def not_found(self, node: str) -> bool:
        """A node says that nobody knows the stream. Whether that is to be believed: it may know too few others."""
        self._unknown_at.add(node)
        return len(self._unknown_at) >= min(2, len(self._nodes))

    def next(self, heard: str | None = None) -> tuple[str, float]:
        """The node to ask, and how long to wait before. Raises the last error where patience is at its end.

        heard: a node that is known to answer.
        """
        self._made += 1
        if self._made > self._patience.attempts or time.monotonic() - self._began > self._patience.seconds:
            raise self._last or httpx.ConnectError("no node answers")
        order = self._nodes.order()
        node = next((url for url in (heard, *order) if url is not None and url not in self._asked), None)
        if node is None:
            self._asked.clear()
            node = order[0]
        self._asked.append(node)
        return node, self._patience.wait_s(self._made, len(order))

    def failed(self, node: str, error: Exception) -> None:
        self._last = error
        self._nodes.failed(node, time.time())
        self._nodes.stale()

    @property
    def is_last(self) -> bool:
        return self._made >= self._patience.attempts


def _at(node: str, request: httpx.Request, body: bytes, patience: Patience) -> httpx.Request:
    """The same request at a node."""
    base = httpx.URL(node)
    url = request.url.copy_with(scheme=base.scheme, host=base.host, port=base.port)
    headers = [(k, v) for k, v in request.headers.multi_items() if k not in ("host", "transfer-encoding")]
    extensions = dict(request.extensions)
    timeout = dict(extensions.get("timeout") or {})
    connect_s = timeout.get("connect")
    timeout["connect"] = patience.connect_s if connect_s is None else min(connect_s, patience.connect_s)
    if _asks_for_stream(body):
        timeout["read"] = patience.head_s
    return httpx.Request(request.method, url, headers=headers, content=body, extensions={"timeout": timeout})


def _resuming(node: str, continuity: Continuity, first: httpx.Request, patience: Patience) -> httpx.Request:
    url = first.url.copy_with(
        scheme=httpx.URL(node).scheme,
        host=httpx.URL(node).host,
        port=httpx.URL(node).port,
        raw_path=f"/v1/streams/{continuity.stream}".encode(),
    )
    headers = {"accept": "text/event-stream"}
    if continuity.last_id:
        headers["last-event-id"] = continuity.last_id
    if (key := first.headers.get("authorization")) is not None:
        headers["authorization"] = key
    read = patience.resume_s
    timeout = {"connect": patience.connect_s, "read": read, "write": read, "pool": read}
    return httpx.Request("GET", url, headers=headers, extensions={"timeout": timeout})


def _asking_for_list(url: str, timeout_s: float) -> httpx.Request:
    timeout = dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)
    return httpx.Request("GET", url, extensions={"timeout": timeout})


def _asks_for_stream(body: bytes) -> bool:
    return b'"stream"' in body and b'"stream":false' not in body.replace(b" ", b"")


def _is_continuous(response: httpx.Response) -> bool:
    is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
    return response.status_code == 200 and is_stream and STREAM_HEADER in response.headers


def _refusal(response: httpx.Response) -> Exception:
    """An answer that is no stream, to a client that has half of one. The end of patience raises it."""
    return StreamLost(f"the stream cannot be resumed: {response.status_code} {response.text[:500]}")


def _may_come_back(response: httpx.Response) -> bool:
    """Whether another try can end differently: a refusal for now, not one of the stream."""
    return response.status_code in _RETRIED or response.status_code == 409


def _is_refused_for_now(response: httpx.Response) -> bool:
    if response.status_code not in _RETRIED:
        return False
    return response.status_code != 429 or any(code in response.text for code in ELSEWHERE)


def _whole(response: httpx.Response, request: httpx.Request, body: bytes) -> httpx.Response:
    headers = [(k, v) for k, v in response.headers.multi_items() if k not in ("content-encoding", "transfer-encoding")]
    return httpx.Response(response.status_code, headers=headers, content=body, request=request)


def _silence(extensions: Any, patience: Patience) -> None:
    """From the head on a node is never silent: it sends comments."""
    extensions["timeout"]["read"] = patience.silence_s


class _Stream(httpx.SyncByteStream):
    def __init__(self, owner: ContinuousTransport, first: httpx.Request, node: str, response: httpx.Response) -> None:
        self._owner = owner
        self._first = first
        self._node = node
        self._response = response
        self._continuity = Continuity(response.headers[STREAM_HEADER])

    def __iter__(self) -> Iterator[bytes]:
        attempts = Attempts(self._owner.nodes, self._owner.patience)
        while not self._continuity.over:
            try:
                for data in self._response.stream:  # type: ignore[union-attr] # of a sync transport
                    if out := self._continuity.feed(data):
                        attempts.progress()
                        yield out
                    if self._continuity.is_done():
                        break
            except httpx.TransportError as error:
                attempts.failed(self._node, error)
            self._response.close()
            if not self._continuity.over:
                self._resume(attempts)

    def _resume(self, attempts: Attempts) -> None:
        if self._continuity.moved:
            attempts.failed(self._node, StreamLost(self._continuity.moved))
        while True:
            self._owner.refresh()
            node, wait_s = attempts.next(self._owner.nodes.take_heard())
            time.sleep(wait_s)
            request = _resuming(node, self._continuity, self._first, self._owner.patience)
            try:
                response = self._owner.inner.handle_request(request)
                if response.status_code == 200:
                    _silence(request.extensions, self._owner.patience)
                    self._node, self._response = node, response
                    self._continuity.begin_connection()
                    return
                response.read()
            except httpx.TransportError as error:
                attempts.failed(node, error)
                continue
            if not _may_come_back(response) and (response.status_code != 404 or attempts.not_found(node)):
                raise _refusal(response)
            attempts.failed(node, _refusal(response))

    def close(self) -> None:
        self._response.close()


class ContinuousTransport(httpx.BaseTransport):
    """See the package. inner: the transport that makes the connections."""

    def __init__(self, nodes: Nodes, patience: Patience, inner: httpx.BaseTransport | None = None) -> None:
        self.nodes = nodes
        self.patience = patience
        self.inner = inner or httpx.HTTPTransport(limits=httpx.Limits(max_connections=None, keepalive_expiry=3.0))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        body = request.read()
        attempts = Attempts(self.nodes, self.patience)
        while True:
            self.refresh()
            node, wait_s = attempts.next()
            time.sleep(wait_s)
            asked = _at(node, request, body, self.patience)
            try:
                response = self.inner.handle_request(asked)
                if _is_continuous(response):
                    _silence(asked.extensions, self.patience)
                    self.nodes.answered(node)
                    stream = _Stream(self, request, node, response)
                    return httpx.Response(200, headers=response.headers, stream=stream, request=request)
                content = response.read()
            except httpx.TransportError as error:
                attempts.failed(node, error)
                continue
            if not _is_refused_for_now(response) or attempts.is_last:
                return _whole(response, request, content)
            attempts.failed(node, _refusal(response))

    def refresh(self) -> bool:
        """Bring the list of nodes up to date where it is old; False where nobody answered, which changes nothing."""
        asked = self.nodes.refresh_from(time.monotonic())
        for timeout_s, url in itertools.product(_LIST_TIMEOUTS_S, asked):
            try:
                response = self.inner.handle_request(_asking_for_list(url, timeout_s))
                if self.nodes.learned(url, response.read()):
                    return True
            except httpx.TransportError:
                continue
        return not asked

    def close(self) -> None:
        self.inner.close()


class _AsyncStream(httpx.AsyncByteStream):
    def __init__(
        self, owner: AsyncContinuousTransport, first: httpx.Request, node: str, response: httpx.Response
    ) -> None:
        self._owner = owner
        self._first = first
        self._node = node
        self._response = response
        self._continuity = Continuity(response.headers[STREAM_HEADER])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        attempts = Attempts(self._owner.nodes, self._owner.patience)
        while not self._continuity.over:
            try:
                async for data in self._response.stream:  # type: ignore[union-attr] # of an async transport
                    if out := self._continuity.feed(data):
                        attempts.progress()
                        yield out
                    if self._continuity.is_done():
                        break
            except httpx.TransportError as error:
                attempts.failed(self._node, error)
            await self._response.aclose()
            if not self._continuity.over:
                await self._resume(attempts)

    async def _resume(self, attempts: Attempts) -> None:
        if self._continuity.moved:
            attempts.failed(self._node, StreamLost(self._continuity.moved))
        while True:
            await self._owner.refresh()
            node, wait_s = attempts.next(self._owner.nodes.take_heard())
            await asyncio.sleep(wait_s)
            request = _resuming(node, self._continuity, self._first, self._owner.patience)
            try:
                response = await self._owner.inner.handle_async_request(request)
                if response.status_code == 200:
                    _silence(request.extensions, self._owner.patience)
                    self._node, self._response = node, response
                    self._continuity.begin_connection()
                    return
                await response.aread()
            except httpx.TransportError as error:
                attempts.failed(node, error)
                continue
            if not _may_come_back(response) and (response.status_code != 404 or attempts.not_found(node)):
                raise _refusal(response)
            attempts.failed(node, _refusal(response))

    async def aclose(self) -> None:
        await self._response.aclose()


class AsyncContinuousTransport(httpx.AsyncBaseTransport):
    """See the package. inner: the transport that makes the connections."""

    def __init__(self, nodes: Nodes, patience: Patience, inner: httpx.AsyncBaseTransport | None = None) -> None:
        self.nodes = nodes
        self.patience = patience
        self.inner = inner or httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=None, keepalive_expiry=3.0))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        attempts = Attempts(self.nodes, self.patience)
        while True:
            await self.refresh()
            node, wait_s = attempts.next()
            await asyncio.sleep(wait_s)
            asked = _at(node, request, body, self.patience)
            try:
                response = await self.inner.handle_async_request(asked)
                if _is_continuous(response):
                    _silence(asked.extensions, self.patience)
                    self.nodes.answered(node)
                    stream = _AsyncStream(self, request, node, response)
                    return httpx.Response(200, headers=response.headers, stream=stream, request=request)
                content = await response.aread()
            except httpx.TransportError as error:
                attempts.failed(node, error)
                continue
            if not _is_refused_for_now(response) or attempts.is_last:
                return _whole(response, request, content)
            attempts.failed(node, _refusal(response))

    async def refresh(self) -> bool:
        """Bring the list of nodes up to date where it is old; False where nobody answered, which changes nothing."""
        asking = [asyncio.ensure_future(self._list_at(url)) for url in self.nodes.refresh_from(time.monotonic())]
        try:
            for answer in asyncio.as_completed(asking):
                if self.nodes.learned(*await answer):
                    return True
        finally:
            for task in asking:
                task.cancel()
        return not asking

    async def _list_at(self, url: str) -> tuple[str, bytes]:
        """The list of nodes as it is told there, nothing where nobody answers."""
        try:
            response = await self.inner.handle_async_request(_asking_for_list(url, _LIST_TIMEOUT_S))
            return url, await response.aread()
        except httpx.TransportError:
            return url, b""

    async def aclose(self) -> None:
        await self.inner.aclose()
