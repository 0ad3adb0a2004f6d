"""Batch the messages to one replica: collect them while a batch is in flight, send them as the next, acked as a whole.

Rules kept here:

* no more than `IN_FLIGHT` batches are unacknowledged: under load batches grow, and their number does not;
* a message that is not acknowledged within `lag_s` of being added is overdue, whether it was sent or not;
* an overdue message is reported once.

So a replica costs one write and one ack for many streams' tokens, a single token is sent at once, and a stream that
waits for a replica needs no timer of its own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

LAG_S = 0.05
IN_FLIGHT = 1
MAX_BATCH_BYTES = 1024 * 1024
"""A batch of one message may be larger."""


@dataclass(eq=False, slots=True)
class _Batch:
    """The receipts of the messages that are sent together."""

    since: float
    """When the first receipt that is not reported as overdue was added."""

    receipts: list[Any]
    reported: int = 0
    """How many receipts, from the first on, were reported as overdue."""

    @property
    def has_unreported(self) -> bool:
        return self.reported < len(self.receipts)


class AckBatches:
    """Collect messages into batches and track their acks. Instants: seconds of any clock that does not go back."""

    def __init__(self, lag_s: float) -> None:
        self._lag_s = lag_s
        self._messages: list[bytes] = []
        self._open_batch = _Batch(0.0, [])
        self._in_flight: deque[_Batch] = deque()

    def add(self, message: bytes, receipt: object, now: float) -> bool:
        """Add a message. Returns whether its batch had none unreported: then `next_deadline` is new."""
        had_unreported = self._open_batch.has_unreported
        if not had_unreported:
            self._open_batch.since = now
        self._messages.append(message)
        self._open_batch.receipts.append(receipt)
        return not had_unreported

    @property
    def may_send(self) -> bool:
        """True where a message waits and fewer than IN_FLIGHT batches are unacknowledged: `next_batch` may be sent."""
        return bool(self._messages) and len(self._in_flight) < IN_FLIGHT

    @property
    def queued_bytes(self) -> int:
        """The bytes of the messages that are not sent yet."""
        return sum(map(len, self._messages))

    def next_batch(self) -> bytes:
        """Return the next batch, which counts as in flight from now on."""
        count, size = 0, 0
        for message in self._messages:
            if count and size + len(message) > MAX_BATCH_BYTES:
                break
            count, size = count + 1, size + len(message)
        batch = self._open_batch
        messages, self._messages = self._messages[:count], self._messages[count:]
        self._open_batch = _Batch(batch.since, batch.receipts[count:], max(0, batch.reported - count))
        del batch.receipts[count:]
        batch.reported = min(batch.reported, count)
        self._in_flight.append(batch)
        return b"".join(messages)

    def acknowledged(self, batches: int) -> list[Any]:
        """Remove the oldest `batches` in flight. Returns their receipts; raises ValueError where fewer are."""
        if batches > len(self._in_flight):
            raise ValueError("an acknowledgement of more batches than are in flight")
        if batches == 1:
            return self._in_flight.popleft().receipts
        return [receipt for _ in range(batches) for receipt in self._in_flight.popleft().receipts]

    def overdue(self, now: float) -> list[Any]:
        """Return the receipts that became overdue since the last call."""
        receipts: list[Any] = []
        for batch in self._unacknowledged():
            if batch.has_unreported and now >= batch.since + self._lag_s:
                receipts += batch.receipts[batch.reported :]
                batch.reported = len(batch.receipts)
        return receipts

    @property
    def is_lagging(self) -> bool:
        """True while an overdue message is not acknowledged."""
        return any(batch.reported for batch in self._unacknowledged())

    def next_deadline(self) -> float | None:
        """Return when the next message becomes overdue; None where none can."""
        unreported = [batch.since for batch in self._unacknowledged() if batch.has_unreported]
        return min(unreported) + self._lag_s if unreported else None

    def _unacknowledged(self) -> list[_Batch]:
        return [*self._in_flight, self._open_batch] if self._messages else list(self._in_flight)
