"""Write one client's stream: a head, once; events; and an explicit end or an explicit error, never less.

A client that stores event ids can distinguish a slow answer from a dead node: the head comes within EARLY_HEAD_S
whatever the engine does, and from then on the connection is never silent for longer than COMMENT_EVERY_S. Other clients
receive something every IDLE_S, which keeps proxies from closing the connection (`core/openai/client_headers` says what,
and why).
"""

from __future__ import annotations

import asyncio

from node_agent.contract.names import DURABILITY_HEADER, NODE_HEADER, NOT_DURABLE, ROUTE_HEADER, STREAM_HEADER
from node_agent.core.failure.attempts import EngineResponse
from node_agent.core.openai import sse
from node_agent.core.openai.client_headers import StreamReader
from node_agent.core.replication.replicated_log import StopReason
from node_agent.core.routing.router import Route
from node_agent.core.streams.end_of_stream import engine_error_events, error_event
from node_agent.ports import ServerRequest
from node_agent.runtime.common.responses import EVENT_STREAM, answer_error, error_body, final_headers

COMMENT_EVERY_S = 1.0
IDLE_S = 15.0
EARLY_HEAD_S = 5.0
RETRY_MS = 250
"""After this time an EventSource reconnects; by default it would wait for seconds."""

_BLANK = b"\n\n"


class SseResponse:
    """The response on a client's connection.

    token: with which the client may resume the stream.
    path: of the stream's route.
    reader: how the client reads the stream.
    """

    def __init__(self, request: ServerRequest, token: str, path: str, reader: StreamReader) -> None:
        self.request = request
        self.reader = reader
        self._token = token
        self._path = path
        self.not_durable_reason: StopReason | None = None
        """Why no other node replicates the stream, though its client wants that."""

        self._keepalive_after = 1 if reader.wants_event_ids else round(IDLE_S / COMMENT_EVERY_S)
        self._keep_alive = sse.comment("waiting") if reader.wants_event_ids or reader.parses_sse else _BLANK
        self._idle_polls = 0  # consecutive polls without a new event
        self.started = False
        self._ended = False
        self._seen_events = 0
        self._clock = asyncio.get_running_loop().time
        self._began_at = self._clock()

    def start(self, route: Route | None) -> None:
        """Write the head, with the engine's node; route is None where none is needed."""
        if self.started:
            return
        self.started = True
        lines = {"cache-control": "no-cache", STREAM_HEADER: self._token}
        if route is not None:
            lines |= {ROUTE_HEADER: route.reason, NODE_HEADER: route.node.instance_id}
        if self.not_durable_reason is not None:
            lines[DURABILITY_HEADER.decode()] = f"{NOT_DURABLE}; reason={self.not_durable_reason}"
        more = [(key.encode(), value.encode()) for key, value in lines.items()]
        self.request.begin(200, EVENT_STREAM, more)
        if self.reader.is_event_source:
            self.request.write(b"retry: %d\n" % RETRY_MS)  # a line of the first event, whatever that will be

    def keep_alive(self, events: int) -> None:
        """Write a keep-alive where the connection was idle for too long. Call it about every COMMENT_EVERY_S.

        Nothing is added to what a client has not read yet: a slow client is not a silence of this side.

        events: how many the client has received so far.
        """
        seen_events, self._seen_events = self._seen_events, events
        if self.request.is_congested:
            return
        self._idle_polls = self._idle_polls + 1 if events == seen_events else 0
        waits_for_head = not self.started and self._clock() - self._began_at < EARLY_HEAD_S
        if self._ended or waits_for_head or self._idle_polls < self._keepalive_after:
            return
        self._idle_polls = 0
        self.start(None)
        self.request.write(self._keep_alive)

    def end(self, last: bytes = b"") -> int:
        """End the response behind these bytes; return 200, the status that the client received."""
        self._ended = True
        self.request.end(last)
        return 200

    def relay_error(self, answer: EngineResponse) -> int:
        """Relay an engine's error response.

        An error event stays one, and its stream ends as vLLM ends it; a whole error response stays one where that is
        still possible.

        Returns:
            The status that the client received: 200 for an error in the stream.
        """
        one_line = answer.body.replace(b"\n", b" ")
        if answer.is_event:
            self.start(None)
            return self.end(engine_error_events(self._path, one_line))
        if self.started:
            return self.end(error_event(self._path, one_line))
        self._ended = True
        more = [*answer.headers, *final_headers(answer.status)]
        self.request.respond(answer.status, answer.body, answer.content_type, more)
        return answer.status

    def fail(self, status: int, code: str, message: str) -> int:
        """Send an error: in the stream where it began, as a response where not.

        Returns:
            The status that the client received: 200 for an error in the stream.
        """
        if not self.started:
            self._ended = True
            answer_error(self.request, status, code, message, retry_after_s=1.0 if status in (429, 503) else None)
            return status
        return self.end(error_event(self._path, error_body(self._path, status, code, message)))
