"""What one streaming client sees: a head, once; events; and an explicit end or an explicit error, never less.

A client can tell a slow answer from a dead node: the head comes within EARLY_HEAD_S whatever the engine does, and
from then on the connection is never silent for longer than COMMENT_EVERY_S.
"""

from __future__ import annotations

import asyncio

import orjson

from node_agent.contract.errors import openai_error
from node_agent.contract.names import NODE_HEADER, ROUTE_HEADER, STREAM_HEADER
from node_agent.core import sse
from node_agent.core.endings import error_event
from node_agent.core.router import Route
from node_agent.ports import DoorRequest
from node_agent.tasks.answers import answer_error

EVENT_STREAM = b"text/event-stream; charset=utf-8"
REQUEST_ID = b"x-request-id"
COMMENT_EVERY_S = 1.0
EARLY_HEAD_S = 5.0


class Reply:
    """The answer on a client's connection.

    request_id: echoed where the client gave one; path: of the stream's route.
    """

    def __init__(self, request: DoorRequest, stream_id: str, request_id: bytes | None, path: str) -> None:
        self.request = request
        self._stream_id = stream_id
        self._request_id = request_id
        self._path = path
        self.started = False
        self._ended = False
        self._seen = 0
        self._clock = asyncio.get_running_loop().time
        self._asked_at = self._clock()

    def start(self, route: Route | None) -> None:
        """The head, with where its engine is; None where none is needed any more."""
        if self.started:
            return
        self.started = True
        lines = {"cache-control": "no-cache", STREAM_HEADER: self._stream_id}
        if route is not None:
            lines |= {ROUTE_HEADER: route.reason, NODE_HEADER: route.node.instance_id}
        more = [(key.encode(), value.encode()) for key, value in lines.items()]
        if self._request_id is not None:
            more.append((REQUEST_ID, self._request_id))
        self.request.begin(200, EVENT_STREAM, more)

    def keep_alive(self, events: int) -> None:
        """To be called about every COMMENT_EVERY_S: says something where nothing was said since the last call.

        Nothing is added to what a client has not read yet: that it is slow is no silence of this side.

        events: how many the client was sent so far.
        """
        seen, self._seen = self._seen, events
        if self.request.is_congested:
            return
        waits_for_head = not self.started and self._clock() - self._asked_at < EARLY_HEAD_S
        if not self._ended and events == seen and not waits_for_head:
            self.start(None)
            self.request.write(sse.comment("waiting"))

    def end(self, last: bytes = b"") -> int:
        self._ended = True
        self.request.end(last)
        return 200

    def refuse(self, status: int, body: bytes) -> int:
        """An engine's own refusal of the request; the status that the client saw."""
        if self.started:
            return self.end(error_event(self._path, body.replace(b"\n", b" ")))
        self._ended = True
        self.request.respond(status, body)
        return status

    def fail(self, status: int, code: str, message: str) -> int:
        """An error: inside the stream where it began, as a response where not; the status that the client saw."""
        if not self.started:
            self._ended = True
            answer_error(self.request, status, code, message, retry_after_s=1.0 if status == 503 else None)
            return status
        return self.end(error_event(self._path, orjson.dumps(openai_error(status, code, message))))
