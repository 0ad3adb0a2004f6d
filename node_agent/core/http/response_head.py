"""Collect the head of a response from what a parser finds in it.

Rules kept here:

* an interim response (1xx) is no head; with SIGNS_HEADER it announces keep-alives;
* the last value of a header counts, over the heads of interim responses too; trailers are dropped;
* the bytes of a head are bounded, with the interim responses before it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from node_agent.contract.names import SIGNS_HEADER

MAX_HEAD_BYTES = 64 * 1024
"""With the interim responses before it: keep-alives for twenty minutes."""


@dataclass(slots=True)
class ResponseHead:
    """The head of one response."""

    status: int = 0
    """The last one, an interim response's too; 0 before any."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    """By names in lower case."""

    is_complete: bool = False

    keeps_alive: bool = False
    """Whether the connection can be reused after the response."""

    announces_keepalives: bool = False
    """Whether an interim response announced keep-alives."""

    _unfinished_bytes: int = 0

    def add_header(self, name: bytes, value: bytes) -> None:
        """Store a header of this head, or of an interim response before it; drop a trailer."""
        if not self.is_complete:
            self.headers[name.lower()] = value

    def end(self, status: int, *, keeps_alive: bool) -> None:
        """End the head, or an interim response before it, whose headers are not the response's."""
        self.status, self.keeps_alive = status, keeps_alive
        self.is_complete = status >= 200
        if not self.is_complete:
            self.announces_keepalives = self.announces_keepalives or SIGNS_HEADER in self.headers
            self.headers.clear()

    def fits(self, size: int) -> bool:
        """Count `size` more bytes after which the head is incomplete; return whether it is within its bound."""
        self._unfinished_bytes += size
        return self._unfinished_bytes <= MAX_HEAD_BYTES

    @property
    def is_event_stream(self) -> bool:
        """Whether the content type is that of server-sent events."""
        return self.headers.get(b"content-type", b"").startswith(b"text/event-stream")
