"""One stream over several connections, as a machine without any I/O: bytes of nodes in, whole events out.

Rules kept here:

* the application gets whole events only, each once, in their order;
* the stream is over with `[DONE]`, with the last event of its route, or with an error that another node would answer,
  too;
* an error that only means "not here" is kept from the application: the stream is to be resumed elsewhere;
* the end of a connection without either is no end of the stream.
"""

from __future__ import annotations

import json

ELSEWHERE = frozenset({"handoff", "stream_taken", "engine_lost", "no_ready_node", "journal_behind", "too_many_streams"})
"""Error codes of a node that say nothing of the stream, only of this node or this moment."""

LAST_EVENTS = frozenset({b"response.completed", b"response.incomplete", b"response.failed", b"message_stop"})
"""Of the routes whose streams have no `[DONE]`."""

MAX_EVENT_BYTES = 16 * 1024 * 1024


class Continuity:
    """See the module.

    last_id: of the last event that the application got; over: nothing more is to come; moved: the code with which the
    node sent the stream elsewhere.
    """

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.last_id = ""
        self.over = False
        self.moved: str | None = None
        self._held = b""

    def is_done(self) -> bool:
        """Whether this connection has nothing more to say."""
        return self.over or self.moved is not None

    def begin_connection(self) -> None:
        """The bytes that follow are another connection's."""
        self._held = b""
        self.moved = None

    def feed(self, data: bytes) -> bytes:
        """The whole events in what came. Raises ValueError for an event beyond all bounds."""
        if self.is_done():
            return b""
        *blocks, self._held = (self._held + data).split(b"\n\n")
        if len(self._held) > MAX_EVENT_BYTES:
            raise ValueError("an event without end")
        out = []
        for block in blocks:
            if self._takes(block):
                out.append(block + b"\n\n")
            if self.is_done():
                break
        return b"".join(out)

    def _takes(self, block: bytes) -> bool:
        """Account for an event; whether it is the application's to see."""
        event_id, name, payload = "", b"", b""
        for line in block.split(b"\n"):
            if line.startswith(b"data: "):
                payload = line[6:]
            elif line.startswith(b"event: "):
                name = line[7:]
            elif line.startswith(b"id: "):
                event_id = line[4:].decode("latin-1")
        if payload == b"[DONE]" or name in LAST_EVENTS:
            self.over = True
        elif not event_id and payload.startswith(b'{"error"'):
            code = _code(payload)
            if code in ELSEWHERE:
                self.moved = code
                return False
            self.over = True
        if event_id:
            self.last_id = event_id
        return True


def _code(payload: bytes) -> str | None:
    try:
        code = json.loads(payload)["error"].get("code")
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
    return code if isinstance(code, str) else None
