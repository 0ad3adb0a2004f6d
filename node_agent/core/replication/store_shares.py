"""Account each client's bytes in a replica store, and choose which abandoned journal is evicted first.

Rules kept here:

* of the abandoned journals, those of the client that has most bytes go first, its oldest first: a client that fills the
  store with streams that it aborts evicts its own;
* a client that has nothing in the store has no entry.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field


@dataclass
class StoreShares:
    """Bytes by client, and each client's abandoned streams in the order of abandonment."""

    _bytes: Counter[str] = field(default_factory=Counter)
    _abandoned: dict[str, OrderedDict[str, None]] = field(default_factory=dict)

    def bytes_of(self, client: str) -> int:
        """Return the client's bytes."""
        return self._bytes.get(client, 0)

    def add_bytes(self, client: str, more: int) -> None:
        """Add bytes to the client's, or subtract them where `more` is negative."""
        self._bytes[client] += more
        if self._bytes[client] <= 0:
            del self._bytes[client]

    def mark_abandoned(self, client: str, stream: str) -> None:
        """Record that the client left this stream."""
        self._abandoned.setdefault(client, OrderedDict())[stream] = None

    def unmark_abandoned(self, client: str, stream: str) -> None:
        """Undo `mark_abandoned`, which must have been called: the client came back, or the journal was removed."""
        streams = self._abandoned[client]
        del streams[stream]
        if not streams:
            del self._abandoned[client]

    def oldest_abandoned(self, client: str, excluding: str) -> str | None:
        """Return the stream that this client abandoned first, `excluding` apart; None where there is none."""
        return next((stream for stream in self._abandoned.get(client, ()) if stream != excluding), None)

    def next_victim(self, excluding: str) -> str | None:
        """Return the stream to evict first, `excluding` apart; None where none was abandoned."""
        for client in sorted(self._abandoned, key=self.bytes_of, reverse=True):
            if (stream := self.oldest_abandoned(client, excluding)) is not None:
                return stream
        return None
