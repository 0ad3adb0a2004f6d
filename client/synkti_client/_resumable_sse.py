"""Parse one event stream that arrives over several connections. Without I/O: bytes in, whole events out.

Invariants:

* the application receives whole events only, each once, in order;
* it receives them as an engine sends them, without ids and comments, unless it uses ids itself;
* the stream ends with `[DONE]`, with its route's terminal event, or with an error that every node would return;
* an error that depends on the node is not passed to the application: the stream is resumed at another node;
* a connection that ends without any of these does not end the stream.
"""

from __future__ import annotations

from synkti_client._responses import ENGINE_LOST, RETRYABLE_CODES, error_code

TERMINAL_EVENTS = frozenset({b"response.completed", b"response.incomplete", b"response.failed", b"message_stop"})
"""The terminal events of routes whose streams have no `[DONE]`."""

RETRY_ELSEWHERE_CODES = RETRYABLE_CODES | {ENGINE_LOST}
MAX_EVENT_BYTES = 16 * 1024 * 1024
_ERROR_PREFIXES = (b'{"error"', b'{"type":"error"')


class ResumableSse:
    """The state of one stream. stream: its id; uses_event_ids: True where the application reads the events' ids."""

    def __init__(self, stream: str, *, uses_event_ids: bool = True, last_event_id: str = "") -> None:
        self.stream = stream
        self.last_event_id = last_event_id
        """The id of the last event that the application received."""
        self.is_over = False
        """True when the stream has ended."""
        self.redirect_code: str | None = None
        """The error code because of which the stream is resumed at another node."""
        self._uses_event_ids = uses_event_ids
        self._buffer = b""

    def is_connection_done(self) -> bool:
        """Return True where nothing more is expected on this connection."""
        return self.is_over or self.redirect_code is not None

    def begin_connection(self) -> None:
        """Reset the parser: the next bytes are from another connection."""
        self._buffer = b""
        self.redirect_code = None

    def feed(self, data: bytes) -> bytes:
        """Return the whole events for the application. Raises ValueError for an event above MAX_EVENT_BYTES."""
        if self.is_connection_done():
            return b""
        *blocks, self._buffer = (self._buffer + data).split(b"\n\n")
        if len(self._buffer) > MAX_EVENT_BYTES:
            raise ValueError("an event without end")
        out = []
        for block in blocks:
            out.append(self._process(block))
            if self.is_connection_done():
                break
        return b"".join(out)

    def _process(self, block: bytes) -> bytes:
        """Process an event; return the bytes that the application receives of it."""
        event_id, name, payload = "", b"", b""
        lines = []
        for line in block.split(b"\n"):
            if line.startswith(b"data:"):
                payload = line[5:].lstrip(b" ")
                lines.append(line)
            elif line.startswith(b"event:"):
                name = line[6:].strip()
                lines.append(line)
            elif line.startswith(b"id:"):
                event_id = line[3:].strip().decode("latin-1")
        if payload == b"[DONE]" or name in TERMINAL_EVENTS:
            self.is_over = True
        elif not event_id and (name == b"error" or payload.startswith(_ERROR_PREFIXES)):
            code = error_code(payload)
            if code in RETRY_ELSEWHERE_CODES:
                self.redirect_code = code
                return b""
            self.is_over = True
        if event_id:
            self.last_event_id = event_id
        if self._uses_event_ids:
            return block + b"\n\n"
        return b"\n".join(lines) + b"\n\n" if lines else b""
