"""What each client has in a keeper's room, and what of it was abandoned: who gives way when the room is needed.

Rules kept here:

* of what was abandoned, the client that has most gives first, its oldest journal first: one that fills the room with
  streams that it breaks off pushes out its own;
* a client that has nothing here any more is not remembered.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field


@dataclass
class StoreShares:
    """Bytes by client, and the streams that each has abandoned, in the order in which it did."""

    _bytes: Counter[str] = field(default_factory=Counter)
    _abandoned: dict[str, OrderedDict[str, None]] = field(default_factory=dict)

    def bytes_of(self, client: str) -> int:
        """Its bytes."""
        return self._bytes.get(client, 0)

    def add_bytes(self, client: str, more: int) -> None:
        """It has so many bytes more, or less."""
        self._bytes[client] += more
        if self._bytes[client] <= 0:
            del self._bytes[client]

    def mark_abandoned(self, client: str, stream: str) -> None:
        """The client left this stream."""
        self._abandoned.setdefault(client, OrderedDict())[stream] = None

    def unmark_abandoned(self, client: str, stream: str) -> None:
        """It came back to it, or the journal is gone. Only after `abandoned`."""
        streams = self._abandoned[client]
        del streams[stream]
        if not streams:
            del self._abandoned[client]

    def oldest_abandoned(self, client: str, but: str) -> str | None:
        """The stream that this client abandoned first, and that is not `but`; None where there is none."""
        return next((stream for stream in self._abandoned.get(client, ()) if stream != but), None)

    def next_victim(self, but: str) -> str | None:
        """The stream that gives way first, and is not `but`; None where none was abandoned."""
        for client in sorted(self._abandoned, key=self.bytes_of, reverse=True):
            if (stream := self.oldest_abandoned(client, but)) is not None:
                return stream
        return None
