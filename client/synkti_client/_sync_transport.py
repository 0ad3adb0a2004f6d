"""The sync httpx transport. Generated from `_transport` by `python -m checks.sync_client`; do not edit."""

from __future__ import annotations

import time
from collections.abc import Iterator

from synkti_client._call import SOCKET_OPTIONS, Call, Resumption
from synkti_client._connection_slots import ConnectionSlots
from synkti_client._httpx import httpx
from synkti_client._node_list import NodeListRefresher
from synkti_client._nodes import Nodes
from synkti_client._responses import is_buffered, is_resumable
from synkti_client._retry_policy import RetryPolicy
from synkti_client._tls import Tls

_LIMITS = httpx.Limits(max_connections=None, keepalive_expiry=3.0)


class _Stream(httpx.SyncByteStream):
    """The body of a stream: one node's response, then those of the nodes that continue it."""

    def __init__(
        self,
        transport: ContinuousTransport,
        resumption: Resumption,
        node: str,
        response: httpx.Response,
    ) -> None:
        self._transport = transport
        self._resumption = resumption
        self._node = node
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        sse = self._resumption.sse
        while not sse.is_over:
            try:
                for data in self._response.stream:  # type: ignore[union-attr] # of a sync transport
                    if out := self._resumption.feed(data):
                        yield out
                    if sse.is_connection_done():
                        break
            except httpx.TransportError as error:
                self._resumption.on_connection_error(self._node, error)
            self._response.close()
            if not sse.is_over:
                self._resume()

    def _resume(self) -> None:
        resumption = self._resumption
        transport = self._transport
        resumption.on_connection_end(self._node)
        while True:
            transport.refresh()
            time.sleep(resumption.attempts.begin())
            try:
                with transport.connecting.slot(None) as slot:
                    node = resumption.attempts.choose(transport.nodes.pop_last_responder())
                    request = slot.release_when_connected(resumption.request_to(node))
                    response = transport.inner.handle_request(request)
                if resumption.accepts(response, request):
                    self._node, self._response = node, response
                    return
                response.read()
            except httpx.TransportError as error:
                resumption.on_connection_error(node, error)
                continue
            resumption.on_refusal(node, response)

    def close(self) -> None:
        self._response.close()


class ContinuousTransport(httpx.BaseTransport):
    """Retries requests at other nodes and continues streams there.

    inner: the transport that makes connections; tls: how it checks https nodes, where it is made here.
    """

    def __init__(
        self,
        nodes: Nodes,
        retry_policy: RetryPolicy,
        inner: httpx.BaseTransport | None = None,
        tls: Tls | None = None,
    ) -> None:
        self.nodes = nodes
        self.retry_policy = retry_policy
        verify = True if tls is None else tls.context()
        self.inner = inner or httpx.HTTPTransport(verify=verify, limits=_LIMITS, socket_options=SOCKET_OPTIONS)
        self.connecting = ConnectionSlots()
        self._refresher = NodeListRefresher(nodes, self.inner)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        call = Call(request, request.read(), self.nodes, self.retry_policy)
        while True:
            self.refresh(call.remaining_s())
            wait_s = call.begin()
            if isinstance(wait_s, httpx.Response):
                return wait_s
            time.sleep(wait_s)
            try:
                with self.connecting.slot(call.remaining_s()) as slot:
                    node = call.choose()
                    sent = slot.release_when_connected(call.request_to(node))
                    response = self.inner.handle_request(sent)
                if is_resumable(response):
                    stream = _Stream(self, call.resumption(node, response, sent), node, response)
                    return httpx.Response(200, headers=response.headers, stream=stream, request=request)
                if not is_buffered(response):
                    return call.passthrough(response, sent)
                answer = call.buffered(response, response.read())
            except httpx.TransportError as error:
                call.on_error(node, error)
                continue
            if call.accepts(node, answer):
                return answer

    def refresh(self, within_s: float | None = None) -> bool:
        """Update the list of nodes where it is out of date.

        Args:
            within_s: the most seconds that this may take; None: as long as the requests' own timeouts allow.

        Returns:
            False where no node answered; True also where the list was up to date.
        """
        return self._refresher.refresh(within_s)

    def close(self) -> None:
        self._refresher.close()
        self.inner.close()
