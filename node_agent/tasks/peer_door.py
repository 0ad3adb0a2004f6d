"""The peer door: what other nodes call, and nobody else.

Three routes, all behind the cluster's key: peers exchange what they say of themselves, pass requests to this node's
engine, and take streams over whose journal lies here. (Journals come on connections of their own: `journal_door`.)

A stream goes through as it comes, unread; its journal is its entry's. A loss of the engine is told in words (an event,
or a header on 503), because a connection that merely ends says less.
"""

from __future__ import annotations

import logging

import orjson

from node_agent.contract.errors import RequestRejected
from node_agent.core import sse
from node_agent.core.fleet import status_from_json
from node_agent.core.signing import AUTH_HEADER, Doorkeeper
from node_agent.core.stream import LOST_EVENT
from node_agent.ports import ExchangeLost, Response
from node_agent.tasks.asgi import (
    ClientGone,
    Receive,
    Scope,
    Send,
    header,
    on_disconnect,
    read_body,
    respond,
    respond_error,
    respond_json,
)
from node_agent.tasks.engines import ENGINE_PREFIX, LOST_HEADER, MAX_TOKENS_HEADER, STATUS_TARGET
from node_agent.tasks.node import Node
from node_agent.tasks.served import ServedRequests
from node_agent.tasks.takeover import TAKE_TARGET, Takeovers
from node_agent.tasks.under_way import UnderWay

_MAX_ANSWER_BYTES = 64 * 1024 * 1024
_PATIENCE_S = 900.0
"""How long the engine may be silent: the entry is the one that loses patience, and then closes its connection."""

_log = logging.getLogger(__name__)


class PeerDoor:
    """An ASGI application. max_body_bytes: of a request."""

    def __init__(
        self, node: Node, served: ServedRequests, takeovers: Takeovers, doorkeeper: Doorkeeper, max_body_bytes: int
    ) -> None:
        self._node = node
        self._served = served
        self._takeovers = takeovers
        self._doorkeeper = doorkeeper
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(scope, receive, self._max_body_bytes)
        except ClientGone:
            return
        except RequestRejected as rejected:
            await respond_error(send, rejected.status, rejected.code, str(rejected))
            return
        target = bytes(scope["raw_path"]).decode("latin-1")
        stamp = header(scope, AUTH_HEADER.encode())
        signed_target = target + ("?" + scope["query_string"].decode("latin-1") if scope["query_string"] else "")
        why = self._doorkeeper.refusal(
            stamp.decode("latin-1") if stamp else None, scope["method"], signed_target, body, self._node.clock()
        )
        if why is not None:
            _log.warning("peer door: refused %s %s: %s", scope["method"], target, why)
            await respond_error(send, 401, "not_a_peer", f"This door is for peers: {why}.")
        elif target == STATUS_TARGET:
            await self._exchange_status(send, body)
        elif target == TAKE_TARGET:
            await self._give_journal(send, body)
        elif target.startswith(ENGINE_PREFIX + "/"):
            await self._pass_on(scope, receive, send, signed_target.removeprefix(ENGINE_PREFIX), body)
        else:
            await respond_error(send, 404, "unknown_route", f"The peer door has no {target}.")

    async def _exchange_status(self, send: Send, body: bytes) -> None:
        try:
            status = status_from_json(orjson.loads(body))
        except (ValueError, KeyError, TypeError) as error:
            await respond_error(send, 400, "invalid_status", f"Not a node's status: {error!r}.")
            return
        self._node.fleet.heard(status, self._node.clock())
        await respond_json(send, self._node.status().to_json())

    async def _give_journal(self, send: Send, body: bytes) -> None:
        try:
            status, answer = self._takeovers.answer(body)
        except (ValueError, KeyError, TypeError) as error:
            await respond_error(send, 400, "invalid_take", f"Not a question for a journal: {error!r}.")
            return
        await respond(send, status, answer, b"application/octet-stream")

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, target: str, body: bytes) -> None:
        limit = header(scope, MAX_TOKENS_HEADER.encode())
        max_tokens = int(limit) if limit is not None and limit.isdigit() else None
        headers = {"content-type": "application/json"}
        if (request_id := header(scope, b"x-request-id")) is not None:
            headers["x-request-id"] = request_id.decode("latin-1")
        if not self._node.state.takes_requests:
            await _respond_lost(send, self._node.state.value)
            return
        under_way = UnderWay(self._served.open(scope["method"], target, headers, body, max_tokens, _PATIENCE_S))
        try:
            async with on_disconnect(receive, under_way.client_left):
                response = await under_way.response()
                await (self._stream if response.is_event_stream else self._whole)(send, response)
        except ExchangeLost as lost:
            await _respond_lost(send, lost.why)
        finally:
            under_way.close()

    async def _stream(self, send: Send, response: Response) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": response.status,
                "headers": [(b"content-type", b"text/event-stream; charset=utf-8")],
            }
        )
        try:
            while data := await response.read():
                await send({"type": "http.response.body", "body": data, "more_body": True})
            last = b""
        except ExchangeLost as lost:
            last = b"\n\n" + sse.named(LOST_EVENT, lost.why.encode())  # the blank line ends what came half
        await send({"type": "http.response.body", "body": last})

    async def _whole(self, send: Send, response: Response) -> None:
        try:
            body = await response.read_all(_MAX_ANSWER_BYTES)
        except ExchangeLost as lost:
            await _respond_lost(send, lost.why)
            return
        await respond(send, response.status, body, response.headers.get(b"content-type", b"application/json"))


async def _respond_lost(send: Send, why: str) -> None:
    await respond(send, 503, b"{}", headers=[(LOST_HEADER, why.encode())])
