"""Refresh the list of nodes from the nodes themselves.

The two classes differ in more than `await`: the async one queries several nodes concurrently, the sync one queries
them one after another.
"""

from __future__ import annotations

import asyncio
import itertools
import time

from synkti_client._httpx import httpx
from synkti_client._nodes import Nodes

_TIMEOUT_S = 2.0
_SEQUENTIAL_TIMEOUTS_S = (0.5, _TIMEOUT_S)
"""Timeouts of two rounds over the nodes: in the first one a node that is frozen delays the others only briefly."""

_MIN_TIMEOUT_S = 0.001


class AsyncNodeListRefresher:
    """Queries several nodes concurrently; the first valid list wins. inner: the transport that makes connections."""

    def __init__(self, nodes: Nodes, inner: httpx.AsyncBaseTransport) -> None:
        self._nodes = nodes
        self._inner = inner
        self._pending: set[asyncio.Future[tuple[str, bytes]]] = set()

    async def refresh(self, within_s: float | None = None) -> bool:
        """Update the list where it is out of date.

        Args:
            within_s: the most seconds that this may take; None: as long as the requests' own timeouts allow.

        Returns:
            False where no node answered, which changes nothing; True also where the list was up to date.
        """
        timeout_s = _TIMEOUT_S if within_s is None else max(_MIN_TIMEOUT_S, min(_TIMEOUT_S, within_s))
        urls = self._nodes.list_urls(time.monotonic())
        queries = [asyncio.ensure_future(self._query(url, timeout_s)) for url in urls]
        for query in queries:  # late ones end by themselves: one that is cancelled while it connects leaks a socket
            self._pending.add(query)
            query.add_done_callback(self._pending.discard)
        for result in asyncio.as_completed(queries):
            if self._nodes.update_from(*await result):
                return True
        return not queries

    async def aclose(self) -> None:
        """Wait for the queries that are still pending."""
        if self._pending:
            await asyncio.wait(self._pending)

    async def _query(self, url: str, timeout_s: float) -> tuple[str, bytes]:
        """Return the URL and its response's body, empty where there is no response."""
        try:
            response = await self._inner.handle_async_request(_request(self._nodes, url, timeout_s))
            return url, await response.aread()
        except httpx.TransportError:
            return url, b""


class NodeListRefresher:
    """Queries one node after another until one sends a valid list. inner: the transport that makes connections."""

    def __init__(self, nodes: Nodes, inner: httpx.BaseTransport) -> None:
        self._nodes = nodes
        self._inner = inner

    def refresh(self, within_s: float | None = None) -> bool:
        """Update the list where it is out of date.

        Args:
            within_s: the most seconds that this may take; None: as long as the requests' own timeouts allow.

        Returns:
            False where no node answered, which changes nothing; True also where the list was up to date.
        """
        began = time.monotonic()
        urls = self._nodes.list_urls(began)
        for timeout_s, url in itertools.product(_SEQUENTIAL_TIMEOUTS_S, urls):
            left_s = timeout_s if within_s is None else min(timeout_s, within_s - (time.monotonic() - began))
            if left_s <= 0:
                return False
            try:
                response = self._inner.handle_request(_request(self._nodes, url, left_s))
                if self._nodes.update_from(url, response.read()):
                    return True
            except httpx.TransportError:
                continue
        return not urls

    def close(self) -> None:
        """Nothing is pending here."""


def _request(nodes: Nodes, url: str, timeout_s: float) -> httpx.Request:
    timeout = dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)
    return httpx.Request("GET", url, headers=nodes.credentials, extensions=nodes.extensions(url, timeout))
