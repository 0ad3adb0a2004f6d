"""A client's request in memory, in place of one on a connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(eq=False)
class MemoryRequest:
    """A client's request that stores its response. status: 0 before a response."""

    method: str = "GET"
    target: str = "/"
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    address: str = "192.0.2.1"
    peer: str = ""
    status: int = 0
    content_type: bytes = b""
    response_headers: dict[bytes, bytes] = field(default_factory=dict)
    sent: list[bytes] = field(default_factory=list)
    accepted: list[dict[bytes, bytes]] = field(default_factory=list)
    is_ended: bool = False
    is_gone: bool = False
    is_congested: bool = False
    _gone: Callable[[], None] | None = None
    _congested: Callable[[bool], None] | None = None

    @property
    def path(self) -> str:
        """The target without its query; it is not percent-decoded."""
        return self.target.partition("?")[0]

    @property
    def answer(self) -> bytes:
        """All bytes sent after the head."""
        return b"".join(self.sent)

    def when_gone(self, call: Callable[[], None]) -> None:
        """Set the callback of `disconnect`; where the client is gone already, it is not called, unlike the port's."""
        self._gone = call

    def when_congested(self, call: Callable[[bool], None]) -> None:
        """Set the callback of `set_congested`; it is called at the next change, never at once, unlike the port's."""
        self._congested = call

    def disconnect(self) -> None:
        """Close the client's connection."""
        self.is_gone = True
        if self._gone is not None:
            self._gone()

    def set_congested(self, is_congested: bool) -> None:
        """Set whether the client reads too slowly."""
        self.is_congested = is_congested
        if self._congested is not None:
            self._congested(is_congested)

    def forget_body(self) -> None:
        """Set `body` to b""."""
        self.body = b""

    def add_headers(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Add headers to `response_headers`, in place of earlier ones of the same names."""
        self.response_headers |= dict(headers)

    def accept(self, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Append the interim response's headers to `accepted`; nothing happens once the response has begun."""
        if not self.status:
            self.accepted.append(dict(more))

    def respond(
        self,
        status: int,
        body: bytes,
        content_type: bytes = b"application/json",
        more: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """Store the whole response. Raises RuntimeError for a second one."""
        self.begin(status, content_type, more)
        self.end(body)

    def begin(self, status: int, content_type: bytes, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Store the head of the response. Raises RuntimeError for a second one."""
        if self.status:
            raise RuntimeError("a request is answered once")
        self.status, self.content_type, self.response_headers = (
            status,
            content_type,
            {**self.response_headers, **dict(more)},
        )

    def write(self, data: bytes) -> None:
        """Append a part of the body to `sent`; an empty one is left out, as it would end a chunked body."""
        if data:
            self.sent.append(data)

    def end(self, last: bytes = b"") -> None:
        """Append the last part, and set `is_ended`."""
        self.write(last)
        self.is_ended = True
