"""The peer API: serves the requests of other nodes. Every message is authenticated; all others get 401.

    POST /peer/v1/members             tables of members compared (authenticated by `core/membership`)
    POST /peer/v1/take                a stream's journal, for its new owner (see `runtime/replication/takeover`)
    *    /peer/v1/engine/<target>     a request to this node's engine
    *    /peer/v1/kv/...              a stream's KV blocks (see `runtime/kv/server`)

An engine's loss is reported in a response, not by a broken connection: a broken connection then means to an entry that
the node is gone. An engine's response carries ENGINE_HEADER: every other response is the peer API's own, which is about
this node and never about the client (`core/failure/attribution`). Journals arrive at the same port, on connections of
their own (`runtime/replication/server`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import orjson

from node_agent.contract.errors import openai_error
from node_agent.contract.names import DURABILITY_HEADER, KV_HEADER, KV_PREFIX
from node_agent.core.common.request_auth import AUTH_HEADER, CLOCK_ERRORS, CLOCK_HEADER, RequestVerifier, sign_clock
from node_agent.core.continuation.timeouts import keepalive_interval_s
from node_agent.core.failure.loss import Loss, LossReason, not_serving
from node_agent.core.failure.report import format_loss
from node_agent.core.node.status import load_to_header
from node_agent.core.openai import client_headers, sse
from node_agent.core.streams.state import LOST_EVENT
from node_agent.ports import ExchangeLost, Response, ServerRequest
from node_agent.runtime.common.responses import EVENT_STREAM, MAX_ANSWER_BYTES, answer_error
from node_agent.runtime.engine.active_requests import EngineCalls
from node_agent.runtime.engine.client import (
    ENGINE_HEADER,
    ENGINE_PREFIX,
    LOAD_HEADER,
    LOST_HEADER,
    MAX_TOKENS_HEADER,
    Prefetch,
)
from node_agent.runtime.engine.keepalive import KeepAliveRequest, KeepAlives
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.node.crash_suspects import SUSPECT_HEADER
from node_agent.runtime.node.gossip import MEMBERS_TARGET, sync_request_nonce
from node_agent.runtime.replication.takeover import TAKE_TARGET, Takeovers

_READ_TIMEOUT_S = 900.0
"""How long the engine may be silent on one request, whatever its watchdog finds (`runtime/engine/watchdog`)."""

_AUTH = AUTH_HEADER.encode()
_MAX_LOGGED_CHARS = 100
"""Of an unauthenticated target, in the log."""

_log = logging.getLogger(__name__)


class PeerApi:
    """Answers peers' requests.

    prefetch: fetches a stream's context before this node's engine continues it; serve_blocks: answers KV_PREFIX.
    """

    def __init__(
        self,
        node: NodeContext,
        calls: EngineCalls,
        takeovers: Takeovers,
        verifier: RequestVerifier,
        prefetch: Prefetch,
        serve_blocks: Callable[[ServerRequest], Awaitable[None]],
    ) -> None:
        self._node = node
        self._calls = calls
        self._takeovers = takeovers
        self._verifier = verifier
        self._prefetch = prefetch
        self._serve_blocks = serve_blocks
        self.keepalives = KeepAlives(keepalive_interval_s(node.min_silence_s))

    async def __call__(self, request: ServerRequest) -> None:
        """Answer a request: verify its signature (401 without a valid one), then dispatch it by its target."""
        target = request.target
        if target == MEMBERS_TARGET:
            self._sync_members(request)
            return
        stamp = request.headers.get(_AUTH)
        why = self._verifier.rejection_reason(
            stamp.decode("latin-1") if stamp else None, request.method, target, request.body, self._node.wall_clock()
        )
        if why is not None:
            self._reject(request, stamp, why)
        elif target == TAKE_TARGET:
            self._send_journal(request)
        elif target.startswith(ENGINE_PREFIX + "/"):
            await self._relay_to_engine(request, target.removeprefix(ENGINE_PREFIX))
        elif target.startswith(KV_PREFIX):
            await self._serve_blocks(request)
        else:
            answer_error(request, 404, "unknown_route", f"The peer API has no {target}.")

    def _reject(self, request: ServerRequest, stamp: bytes | None, why: str) -> None:
        """Reject a request.

        A peer that signed correctly with another clock receives this node's time, and may retry.
        """
        message = f"The peer API is for peers: {why}."
        if stamp is None or why not in CLOCK_ERRORS:
            sender = request.peer or request.address
            shown = request.target[:_MAX_LOGGED_CHARS]
            _log.warning("peer API: refused %s %s of %s: %s", request.method, shown, sender, why)
            answer_error(request, 401, "not_a_peer", message)
            return
        clock = self._verifier.signed_clock(stamp.decode("latin-1"), self._node.wall_clock())
        body = orjson.dumps(openai_error(401, "not_a_peer", message))
        request.respond(401, body, more=[(CLOCK_HEADER, clock.encode())])

    def _sync_members(self, request: ServerRequest) -> None:
        answer = self._node.gossip.on_sync_request(request.body)
        if answer is None:
            answer_error(request, 401, "not_a_peer", "The peer API is for peers: the message has no valid MAC.")
        else:
            verifier = self._verifier
            clock = sign_clock(
                verifier.key, verifier.audience, self._node.wall_clock(), sync_request_nonce(request.body)
            )
            request.respond(200, answer, b"application/octet-stream", [(CLOCK_HEADER, clock.encode())])

    def _send_journal(self, request: ServerRequest) -> None:
        try:
            status, answer = self._takeovers.handle_request(request.body)
        except (ValueError, KeyError, TypeError) as error:
            answer_error(request, 400, "invalid_take", f"Not a request for a journal: {error!r}.")
            return
        request.respond(status, answer, b"application/octet-stream")

    async def _relay_to_engine(self, request: ServerRequest, target: str) -> None:
        limit = request.headers.get(MAX_TOKENS_HEADER.encode())
        max_tokens = int(limit) if limit is not None and limit.isdigit() else None
        headers = client_headers.engine_headers(request.headers)
        if (request_id := request.headers.get(b"x-request-id")) is not None:
            headers["x-request-id"] = request_id.decode("latin-1")
        if (durability := request.headers.get(DURABILITY_HEADER)) is not None:
            headers[DURABILITY_HEADER.decode()] = durability.decode("latin-1")
        if not self._node.state.takes_requests:
            _answer_lost(request, not_serving(self._node.state))
            return
        with self.keepalives.track(request) as keepalive:
            if (source := request.headers.get(KV_HEADER.encode())) is not None:
                await self._prefetch(headers.get("x-request-id", ""), source.decode("latin-1"))
            turn = await self._calls.turns.acquire() if SUSPECT_HEADER.encode() in request.headers else None
            if turn is not None and request.is_gone:
                turn.release()  # its entry closed the connection while it waited: no answer is needed
                return
            body, patience_s = request.body, _READ_TIMEOUT_S
            response = self._calls.request(request.method, target, headers, body, max_tokens, patience_s, turn=turn)
            keepalive.attach(response)
            request.when_gone(lambda: response.abort(LossReason.CLIENT_GONE))
            request.when_congested(response.pause)
            try:
                await response.head()
                if response.is_event_stream:
                    await self._relay_stream(request, response, keepalive)
                else:
                    await self._relay_body(request, response)
            except ExchangeLost as lost:
                _answer_lost(request, lost.loss)
            finally:
                response.close()

    async def _relay_stream(self, request: ServerRequest, response: Response, keepalive: KeepAliveRequest) -> None:
        request.begin(response.status, EVENT_STREAM, self._engine_headers())
        keepalive.on_begun()
        try:
            await response.pipe(keepalive.write)
            last = b""
        except ExchangeLost as lost:
            line = format_loss(lost.loss).encode()
            last = b"\n\n" + sse.named_event(LOST_EVENT, line)  # the blank line ends a half-sent event
        request.end(last)

    async def _relay_body(self, request: ServerRequest, response: Response) -> None:
        body = await response.read_all(MAX_ANSWER_BYTES)
        content_type, more = response.headers.get(b"content-type", b""), client_headers.client_headers(response.headers)
        request.respond(response.status, body, content_type, [*self._engine_headers(), *more])

    def _engine_headers(self) -> list[tuple[bytes, bytes]]:
        return [(ENGINE_HEADER, b"1"), (LOAD_HEADER, load_to_header(self._node.router.own_load.load))]


def _answer_lost(request: ServerRequest, loss: Loss) -> None:
    request.respond(503, b"{}", more=[(LOST_HEADER, format_loss(loss).encode())])
