"""Send signed HTTP requests to peers, and accept only their signed answers.

A peer whose clock differs, or whose agent has restarted, answers once with its time and its boot id. The request is
then signed and sent again, and every later one is right at once. A rejected request had no effect, so sending it again
is safe.

A peer's HTTP server refuses what it cannot accept (too many bytes, too many connections) before it reads a signature.
Such an answer is passed on without its headers and its body: nothing in it can count as an engine's.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from functools import partial

from node_agent.core.common.address import Address
from node_agent.core.common.request_auth import (
    ANSWER_AUTH_HEADER,
    AUTH_HEADER,
    CLOCK_HEADER,
    Refusal,
    SignedAnswer,
    read_answer,
    request_content,
)
from node_agent.core.failure.loss import Loss, LossReason
from node_agent.core.node.request_signer import RequestSigner, SignedRequest
from node_agent.ports import ExchangeLost, Http, Response
from node_agent.runtime.engine.response_proxy import ResponseProxy
from node_agent.runtime.peer_api.lost_response import LostResponse

_UNSIGNED_STATUSES = frozenset({401, 408, 413, 429, 431, 503})
"""Of answers that an HTTP server gives before the request is read as a peer's."""

_PASSED_ON = frozenset({b"retry-after"})
_log = logging.getLogger(__name__)


class SignedClient(Http):
    """The Http port over another one. clock: unix seconds, steady; on_refused: receives why a request is not sent."""

    def __init__(
        self,
        client: Http,
        signer: RequestSigner,
        clock: Callable[[], float],
        on_refused: Callable[[Refusal], None] = lambda reason: None,
    ) -> None:
        self._client = client
        self._signer = signer
        self._clock = clock
        self._on_refused = on_refused

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
        """Sign a request and send it, as the port defines; one to a node that is no peer is lost at once."""
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
        name, content = str(address), request_content(method, target, headers.items(), body)
        sent_at = self._clock()
        first = self._signer.sign(name, content, sent_at, secrets.token_hex(12))
        if isinstance(first, Refusal):
            self._on_refused(first)
            if on_lost is not None:
                on_lost(LossReason.NOT_A_PEER)
            return LostResponse(LossReason.NOT_A_PEER)

        def retry(line: bytes) -> tuple[Response, SignedRequest] | None:
            now = self._clock()
            if not self._signer.record_clock(name, line.decode("latin-1"), first, now - sent_at, now):
                return None
            second = self._signer.sign(name, content, now, secrets.token_hex(12), is_retry=True)
            if isinstance(second, Refusal):
                return None
            _log.info("%s has another clock, or another boot id: the request is signed again", name)
            return send(headers={**headers, AUTH_HEADER: second.header}), second

        return _SignedResponse(send(headers={**headers, AUTH_HEADER: first.header}), first, retry)


class _SignedResponse(ResponseProxy):
    """The answer to a signed request, which is sent again once where the peer sends its time."""

    def __init__(
        self,
        exchange: Response,
        signed: SignedRequest,
        retry: Callable[[bytes], tuple[Response, SignedRequest] | None],
    ) -> None:
        super().__init__(exchange)
        self._signed = signed
        self._retry: Callable[[bytes], tuple[Response, SignedRequest] | None] | None = retry
        self._paused = False
        self._answer: SignedAnswer | None = None
        self._is_read = False

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """The signed headers by lower-case names; of an answer without a signature only `retry-after`."""
        headers = self.exchange.headers
        if self._answer is not None or not self._is_read:
            return headers
        return {name: value for name, value in headers.items() if name in _PASSED_ON}

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is server-sent events, once `head` has returned."""
        return self._answer is not None and self.exchange.is_event_stream

    async def head(self) -> None:
        """Wait for the head. Raises ExchangeLost, also where it is not the peer's."""
        await self.exchange.head()
        retry, self._retry = self._retry, None
        line = self.exchange.headers.get(CLOCK_HEADER) if self.exchange.status == 401 else None
        if retry is not None and line is not None and (second := retry(line)) is not None:
            first, (self.exchange, self._signed) = self.exchange, second
            first.close()
            self.exchange.pause(self._paused)
            await self.exchange.head()
        self._verify()

    def _verify(self) -> None:
        """Verify the answer's head. Raises ExchangeLost where it is no peer's."""
        if self._is_read:
            return
        self._is_read = True
        exchange, signed = self.exchange, self._signed
        line = exchange.headers.get(ANSWER_AUTH_HEADER)
        headers = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in exchange.headers.items())
        if line is not None:
            self._answer = read_answer(signed.key, signed.nonce, exchange.status, headers, line.decode("latin-1"))
        if self._answer is None and exchange.status not in _UNSIGNED_STATUSES:
            self._lose("an answer without a valid signature")

    def _lose(self, what: str) -> None:
        _log.warning("a peer sent %s, with status %d", what, self.exchange.status)
        self.exchange.abort(LossReason.BROKEN)
        raise ExchangeLost(LossReason.BROKEN)

    async def read_all(self, max_bytes: int) -> bytes:
        """Return the whole body. Raises ExchangeLost, also where it is not the signed one."""
        body = await self.exchange.read_all(max_bytes)
        if self._answer is None:
            return b"{}"
        if not self._answer.has_body(body):
            self._lose("a body that is not the signed one")
        return body

    def pause(self, paused: bool) -> None:
        """Stop reading from the connection, or continue; also of a second exchange."""
        self._paused = paused
        self.exchange.pause(paused)
