"""Send signed HTTP requests to peers in a fleet whose clocks differ.

Callers sign with this node's clock. Where a peer's clock differs, its peer API sends its time once. The request is then
sent again, and every later one at once, signed in that peer's time. A rejected request had no effect, so sending it
again is safe.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from functools import partial

from node_agent.core.common.address import Address
from node_agent.core.common.request_auth import AUTH_HEADER, CLOCK_HEADER, nonce_of
from node_agent.core.failure.loss import Loss
from node_agent.core.node.peer_clocks import PeerClocks
from node_agent.ports import Http, Response
from node_agent.runtime.engine.response_proxy import ResponseProxy

_log = logging.getLogger(__name__)


class SignedClient(Http):
    """The Http port over another one. clock: unix seconds, steady."""

    def __init__(self, client: Http, clocks: PeerClocks, clock: Callable[[], float]) -> None:
        self._client = client
        self._clocks = clocks
        self._clock = clock

    def request(
        self,
        address: Address,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes = b"",
        read_timeout_s: float,
        accept_timeout_s: float | None = None,
        keepalive_timeout_s: float | None = None,
        on_lost: Callable[[Loss], None] | None = None,
    ) -> Response:
        """Send a request, as the port defines. A message without a signature is sent unchanged."""
        send = partial(
            self._client.request,
            address,
            method,
            target,
            body=body,
            read_timeout_s=read_timeout_s,
            accept_timeout_s=accept_timeout_s,
            keepalive_timeout_s=keepalive_timeout_s,
            on_lost=on_lost,
        )
        if AUTH_HEADER not in headers:
            return send(headers=headers)
        name = str(address)

        def signed(headers: Mapping[str, str]) -> dict[str, str]:
            stamp = self._clocks.sign(name, method, target, body, self._clock(), secrets.token_hex(12))
            return {**headers, AUTH_HEADER: stamp}

        first = signed(headers) if self._clocks.is_off(name) else headers
        sent_at = self._clock()

        def retry(line: bytes) -> Response | None:
            now = self._clock()
            clock = line.decode("latin-1")
            if not self._clocks.record(name, clock, nonce_of(first[AUTH_HEADER]), now - sent_at, now):
                return None
            _log.info("the clock of %s is %+.1f s from this node's", name, self._clocks.ahead_s(name) or 0.0)
            return send(headers=signed(headers))

        return _Signed(send(headers=first), retry)


class _Signed(ResponseProxy):
    """A signed request, sent again once where the peer API sends its time."""

    def __init__(self, exchange: Response, retry: Callable[[bytes], Response | None]) -> None:
        super().__init__(exchange)
        self._retry: Callable[[bytes], Response | None] | None = retry
        self._paused = False

    async def head(self) -> None:
        await self.exchange.head()
        retry, self._retry = self._retry, None
        line = self.exchange.headers.get(CLOCK_HEADER) if self.exchange.status == 401 else None
        if retry is None or line is None or (second := retry(line)) is None:
            return
        first, self.exchange = self.exchange, second
        first.close()
        second.pause(self._paused)
        await second.head()

    def pause(self, paused: bool) -> None:
        self._paused = paused
        self.exchange.pause(paused)
