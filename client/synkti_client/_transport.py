"""The async httpx transport: sends a request to one node after another, and continues streams over new connections.

The decisions are in `_call` and the modules that it uses. `_sync_transport` is generated from this file by
`python -m checks.sync_client`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from synkti_client._call import SOCKET_OPTIONS, Call, Resumption
from synkti_client._connection_slots import AsyncConnectionSlots
from synkti_client._httpx import httpx
from synkti_client._node_list import AsyncNodeListRefresher
from synkti_client._nodes import Nodes
from synkti_client._responses import is_buffered, is_resumable
from synkti_client._retry_policy import RetryPolicy
from synkti_client._tls import Tls

_LIMITS = httpx.Limits(max_connections=None, keepalive_expiry=3.0)


class _AsyncStream(httpx.AsyncByteStream):
    """The body of a stream: one node's response, then those of the nodes that continue it."""

    def __init__(
        self,
        transport: AsyncContinuousTransport,
        resumption: Resumption,
        node: str,
        response: httpx.Response,
    ) -> None:
        self._transport = transport
        self._resumption = resumption
        self._node = node
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        sse = self._resumption.sse
        while not sse.is_over:
            try:
                async for data in self._response.stream:  # type: ignore[union-attr] # of an async transport
                    if out := self._resumption.feed(data):
                        yield out
                    if sse.is_connection_done():
                        break
            except httpx.TransportError as error:
                self._resumption.on_connection_error(self._node, error)
            await self._response.aclose()
            if not sse.is_over:
                await self._resume()

    async def _resume(self) -> None:
        resumption = self._resumption
        transport = self._transport
        resumption.on_connection_end(self._node)
        while True:
            await transport.refresh()
            await asyncio.sleep(resumption.attempts.begin())
            try:
                async with transport.connecting.slot(None) as slot:
                    node = resumption.attempts.choose(transport.nodes.pop_last_responder())
                    request = slot.release_when_connected(resumption.request_to(node))
                    response = await transport.inner.handle_async_request(request)
                if resumption.accepts(response, request):
                    self._node, self._response = node, response
                    return
                await response.aread()
            except httpx.TransportError as error:
                resumption.on_connection_error(node, error)
                continue
            resumption.on_refusal(node, response)

    async def aclose(self) -> None:
        await self._response.aclose()


class AsyncContinuousTransport(httpx.AsyncBaseTransport):
    """Retries requests at other nodes and continues streams there.

    inner: the transport that makes connections; tls: how it checks https nodes, where it is made here.
    """

    def __init__(
        self,
        nodes: Nodes,
        retry_policy: RetryPolicy,
        inner: httpx.AsyncBaseTransport | None = None,
        tls: Tls | None = None,
    ) -> None:
        self.nodes = nodes
        self.retry_policy = retry_policy
        verify = True if tls is None else tls.context()
        self.inner = inner or httpx.AsyncHTTPTransport(verify=verify, limits=_LIMITS, socket_options=SOCKET_OPTIONS)
        self.connecting = AsyncConnectionSlots()
        self._refresher = AsyncNodeListRefresher(nodes, self.inner)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        call = Call(request, await request.aread(), self.nodes, self.retry_policy)
        while True:
            await self.refresh(call.remaining_s())
            wait_s = call.begin()
            if isinstance(wait_s, httpx.Response):
                return wait_s
            await asyncio.sleep(wait_s)
            try:
                async with self.connecting.slot(call.remaining_s()) as slot:
                    node = call.choose()
                    sent = slot.release_when_connected(call.request_to(node))
                    response = await self.inner.handle_async_request(sent)
                if is_resumable(response):
                    stream = _AsyncStream(self, call.resumption(node, response, sent), node, response)
                    return httpx.Response(200, headers=response.headers, stream=stream, request=request)
                if not is_buffered(response):
                    return call.passthrough(response, sent)
                answer = call.buffered(response, await response.aread())
            except httpx.TransportError as error:
                call.on_error(node, error)
                continue
            if call.accepts(node, answer):
                return answer

    async def refresh(self, within_s: float | None = None) -> bool:
        """Update the list of nodes where it is out of date.

        Args:
            within_s: the most seconds that this may take; None: as long as the requests' own timeouts allow.

        Returns:
            False where no node answered; True also where the list was up to date.
        """
        return await self._refresher.refresh(within_s)

    async def aclose(self) -> None:
        await self._refresher.aclose()
        await self.inner.aclose()
