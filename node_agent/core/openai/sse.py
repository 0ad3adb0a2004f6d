"""Parse and encode server-sent events.

Rules:

* a line ends with LF, CR or CRLF and with nothing else: U+2028 inside JSON is text;
* an event is complete only after its blank line: a partial event at the end of a stream is dropped;
* comments and unknown fields are dropped; an event without data is dropped;
* the size of an event is bounded, also while it is incomplete.

Source: the WHATWG HTML standard, section "Server-sent events".
"""

from __future__ import annotations

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""A chunk is below a kilobyte; one with prompt ids and logprobs of a long context may reach megabytes."""

Event = tuple[bytes, bytes]
"""(name, data); the name is empty for an ordinary message."""

DONE = b"[DONE]"


class EventTooLarge(ValueError):
    """An event exceeded its bound: the sender is broken."""


class SseParser:
    """Parse events from received bytes, split anywhere. buffered: the bytes of the incomplete event."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.buffered = b""
        self._max = max_event_bytes
        self._skip_lf = False

    def feed(self, data: bytes) -> list[Event]:
        """Add `data`; return the events that it completes, in order. Raises EventTooLarge."""
        if b"\r" in data or self._skip_lf:
            data = self._fold_line_ends(data)
        *blocks, self.buffered = (self.buffered + data).split(b"\n\n")
        if len(self.buffered) > self._max:
            raise EventTooLarge(f"an event of more than {self._max} bytes")
        events = []
        for block in blocks:
            if block.startswith(b"data: ") and b"\n" not in block:  # what an engine sends
                events.append((b"", block[6:]))
            elif (event := _parse_block(block)) is not None:
                events.append(event)
        return events

    def _fold_line_ends(self, data: bytes) -> bytes:
        if self._skip_lf and data.startswith(b"\n"):
            data = data[1:]
        self._skip_lf = data.endswith(b"\r")  # its LF may be the first byte of the next read
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _parse_block(block: bytes) -> Event | None:
    name, data = b"", []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
    return (name, b"\n".join(data)) if data else None


def message(data: bytes, event_id: bytes = b"") -> bytes:
    """Encode an event without a name. data: without line ends, such as JSON on one line."""
    return b"id: %b\ndata: %b\n\n" % (event_id, data) if event_id else b"data: %b\n\n" % data


def named_event(name: bytes, data: bytes) -> bytes:
    """Encode an event with a name. data: without line ends."""
    return b"event: %b\ndata: %b\n\n" % (name, data)


def comment(text: str) -> bytes:
    """Return a comment to send before the next event; every SSE client ignores it. Line ends in `text` become spaces.

    It has no blank line: OpenAI's Python SDK (3.54) keeps the last `id:`, parses a comment with a blank line after it
    as an event, and fails on its empty data.
    """
    return b": %b\n" % " ".join(text.split()).encode()
