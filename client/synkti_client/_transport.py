"""The httpx transports: requests to one node after another, and streams over several connections.

Both do the same in the same words, one with `await`; all that they decide is in `_call` and the machines beside it.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator

from synkti_client._answers import comes_whole, is_resumable
from synkti_client._call import SOCKET_OPTIONS, Call, Resumption, asking_for_list
from synkti_client._httpx import httpx
from synkti_client._nodes import Nodes
from synkti_client._patience import RetryPolicy

_LIST_TIMEOUT_S = 2.0
_LIST_TIMEOUTS_S = (0.5, _LIST_TIMEOUT_S)
"""Where nodes can only be asked one after another, one that is frozen should not hold up the others at first."""

_LEAST_S = 0.001
_LIMITS = httpx.Limits(max_connections=None, keepalive_expiry=3.0)


class _Stream(httpx.SyncByteStream):
    def __init__(self, owner: ContinuousTransport, resumption: Resumption, node: str, response: httpx.Response) -> None:
        self._owner = owner
        self._resumption = resumption
        self._node = node
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        continuity = self._resumption.continuity
        while not continuity.over:
            try:
                for data in self._response.stream:  # type: ignore[union-attr] # of a sync transport
                    if out := self._resumption.feed(data):
                        yield out
                    if continuity.is_done():
                        break
            except httpx.TransportError as error:
                self._resumption.broke(self._node, error)
            self._response.close()
            if not continuity.over:
                self._resume()

    def _resume(self) -> None:
        resumption = self._resumption
        resumption.moved_from(self._node)
        while True:
            self._owner.refresh()
            node, wait_s = resumption.attempts.next(self._owner.nodes.take_heard())
            time.sleep(wait_s)
            asked = resumption.at(node)
            try:
                response = self._owner.inner.handle_request(asked)
                if resumption.takes(response, asked):
                    self._node, self._response = node, response
                    return
                response.read()
            except httpx.TransportError as error:
                resumption.broke(node, error)
                continue
            resumption.refused(node, response)

    def close(self) -> None:
        self._response.close()


class ContinuousTransport(httpx.BaseTransport):
    """See the package. inner: the transport that makes the connections."""

    def __init__(self, nodes: Nodes, patience: RetryPolicy, inner: httpx.BaseTransport | None = None) -> None:
        self.nodes = nodes
        self.patience = patience
        self.inner = inner or httpx.HTTPTransport(limits=_LIMITS, socket_options=SOCKET_OPTIONS)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        call = Call(request, request.read(), self.nodes, self.patience)
        while True:
            self.refresh(call.remaining_s())
            step = call.next()
            if isinstance(step, httpx.Response):
                return step
            node, wait_s = step
            time.sleep(wait_s)
            asked = call.at(node)
            try:
                response = self.inner.handle_request(asked)
                if is_resumable(response):
                    stream = _Stream(self, call.resumption(node, response, asked), node, response)
                    return httpx.Response(200, headers=response.headers, stream=stream, request=request)
                if not comes_whole(response):
                    return call.passed_on(response, asked)
                answer = call.answer(response, response.read())
            except httpx.TransportError as error:
                call.failed(node, error)
                continue
            if call.is_answered(node, answer):
                return answer

    def refresh(self, within_s: float | None = None) -> bool:
        """Bring the list of nodes up to date where it is old; False where nobody answered, which changes nothing.

        within_s: how long that may take at most.
        """
        began = time.monotonic()
        asked = self.nodes.refresh_from(began)
        for timeout_s, url in itertools.product(_LIST_TIMEOUTS_S, asked):
            left_s = timeout_s if within_s is None else min(timeout_s, within_s - (time.monotonic() - began))
            if left_s <= 0:
                return False
            try:
                response = self.inner.handle_request(asking_for_list(url, left_s))
                if self.nodes.learned(url, response.read()):
                    return True
            except httpx.TransportError:
                continue
        return not asked

    def close(self) -> None:
        self.inner.close()


class _AsyncStream(httpx.AsyncByteStream):
    def __init__(
        self, owner: AsyncContinuousTransport, resumption: Resumption, node: str, response: httpx.Response
    ) -> None:
        self._owner = owner
        self._resumption = resumption
        self._node = node
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        continuity = self._resumption.continuity
        while not continuity.over:
            try:
                async for data in self._response.stream:  # type: ignore[union-attr] # of an async transport
                    if out := self._resumption.feed(data):
                        yield out
                    if continuity.is_done():
                        break
            except httpx.TransportError as error:
                self._resumption.broke(self._node, error)
            await self._response.aclose()
            if not continuity.over:
                await self._resume()

    async def _resume(self) -> None:
        resumption = self._resumption
        resumption.moved_from(self._node)
        while True:
            await self._owner.refresh()
            node, wait_s = resumption.attempts.next(self._owner.nodes.take_heard())
            await asyncio.sleep(wait_s)
            asked = resumption.at(node)
            try:
                response = await self._owner.inner.handle_async_request(asked)
                if resumption.takes(response, asked):
                    self._node, self._response = node, response
                    return
                await response.aread()
            except httpx.TransportError as error:
                resumption.broke(node, error)
                continue
            resumption.refused(node, response)

    async def aclose(self) -> None:
        await self._response.aclose()


class AsyncContinuousTransport(httpx.AsyncBaseTransport):
    """See the package. inner: the transport that makes the connections."""

    def __init__(self, nodes: Nodes, patience: RetryPolicy, inner: httpx.AsyncBaseTransport | None = None) -> None:
        self.nodes = nodes
        self.patience = patience
        self.inner = inner or httpx.AsyncHTTPTransport(limits=_LIMITS, socket_options=SOCKET_OPTIONS)
        self._asking: set[asyncio.Future[tuple[str, bytes]]] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        call = Call(request, await request.aread(), self.nodes, self.patience)
        while True:
            await self.refresh(call.remaining_s())
            step = call.next()
            if isinstance(step, httpx.Response):
                return step
            node, wait_s = step
            await asyncio.sleep(wait_s)
            asked = call.at(node)
            try:
                response = await self.inner.handle_async_request(asked)
                if is_resumable(response):
                    stream = _AsyncStream(self, call.resumption(node, response, asked), node, response)
                    return httpx.Response(200, headers=response.headers, stream=stream, request=request)
                if not comes_whole(response):
                    return call.passed_on(response, asked)
                answer = call.answer(response, await response.aread())
            except httpx.TransportError as error:
                call.failed(node, error)
                continue
            if call.is_answered(node, answer):
                return answer

    async def refresh(self, within_s: float | None = None) -> bool:
        """Bring the list of nodes up to date where it is old; False where nobody answered, which changes nothing.

        within_s: how long that may take at most.
        """
        timeout_s = _LIST_TIMEOUT_S if within_s is None else max(_LEAST_S, min(_LIST_TIMEOUT_S, within_s))
        urls = self.nodes.refresh_from(time.monotonic())
        asking = [asyncio.ensure_future(self._list_at(url, timeout_s)) for url in urls]
        for task in asking:  # those that answer late end by themselves: one cancelled while it connects leaks a socket
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        for answer in asyncio.as_completed(asking):
            if self.nodes.learned(*await answer):
                return True
        return not asking

    async def _list_at(self, url: str, timeout_s: float) -> tuple[str, bytes]:
        """The list of nodes as it is at a URL, nothing where nobody answers."""
        try:
            response = await self.inner.handle_async_request(asking_for_list(url, timeout_s))
            return url, await response.aread()
        except httpx.TransportError:
            return url, b""

    async def aclose(self) -> None:
        if self._asking:
            await asyncio.wait(self._asking)
        await self.inner.aclose()
