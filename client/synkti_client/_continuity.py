"""One stream over several connections, as a machine without any I/O: bytes of nodes in, whole events out.

Rules kept here:

* the application gets whole events only, each once, in their order;
* it gets them as an engine sends them, without ids and comments, unless it uses ids itself;
* the stream is over with `[DONE]`, with the last event of its route, or with an error that another node would answer,
  too;
* an error that only means "not here" is kept from the application: the stream is to be resumed elsewhere;
* the end of a connection without either is no end of the stream.
"""

from __future__ import annotations

from synkti_client._answers import ENGINE_LOST, NOT_HERE, error_code

LAST_EVENTS = frozenset({b"response.completed", b"response.incomplete", b"response.failed", b"message_stop"})
"""Of the routes whose streams have no `[DONE]`."""

ELSEWHERE = NOT_HERE | {ENGINE_LOST}
MAX_EVENT_BYTES = 16 * 1024 * 1024
_ERRORS = (b'{"error"', b'{"type":"error"')


class ResumableSse:
    """See the module.

    last_id: of the last event that the application got; over: nothing more is to come; moved: the code with which the
    node sent the stream elsewhere.
    """

    def __init__(self, stream: str, *, uses_ids: bool = True, last_id: str = "") -> None:
        self.stream = stream
        self.last_id = last_id
        self.over = False
        self.moved: str | None = None
        self._uses_ids = uses_ids
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
            out.append(self._take(block))
            if self.is_done():
                break
        return b"".join(out)

    def _take(self, block: bytes) -> bytes:
        """Account for an event; what the application gets of it."""
        event_id, name, payload = "", b"", b""
        shown = []
        for line in block.split(b"\n"):
            if line.startswith(b"data:"):
                payload = line[5:].lstrip(b" ")
                shown.append(line)
            elif line.startswith(b"event:"):
                name = line[6:].strip()
                shown.append(line)
            elif line.startswith(b"id:"):
                event_id = line[3:].strip().decode("latin-1")
        if payload == b"[DONE]" or name in LAST_EVENTS:
            self.over = True
        elif not event_id and (name == b"error" or payload.startswith(_ERRORS)):
            code = error_code(payload)
            if code in ELSEWHERE:
                self.moved = code
                return b""
            self.over = True
        if event_id:
            self.last_id = event_id
        if self._uses_ids:
            return block + b"\n\n"
        return b"\n".join(shown) + b"\n\n" if shown else b""
