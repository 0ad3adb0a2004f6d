"""Messages to one keeper: gathered while a batch is on its way, sent as the next one, acknowledged as a whole.

Rules kept here:

* no more than `IN_FLIGHT` batches are unacknowledged: under load batches grow, and their number does not;
* a message that is not acknowledged for `lag_s`, counted from when it was put, is overdue, whether it was sent or not;
* what is overdue is told once.

So a keeper costs one write and one answer for many streams' tokens, a lone token does not wait for company, and who
waits for a keeper needs no clock of his own.
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
    """told: how many of its receipts were told as overdue; since: when the first of the others was put."""

    since: float
    receipts: list[Any]
    reported: int = 0

    @property
    def has_unreported(self) -> bool:
        return self.reported < len(self.receipts)


class AckBatches:
    """See the module. Instants are seconds of any clock that does not go back."""

    def __init__(self, lag_s: float) -> None:
        self._lag_s = lag_s
        self._messages: list[bytes] = []
        self._open_batch = _Batch(0.0, [])
        self._in_flight: deque[_Batch] = deque()

    def add(self, message: bytes, receipt: object, now: float) -> bool:
        """Take a message; whether it is the first of its batch that waits, so that there is something new to see to."""
        waited = self._open_batch.has_unreported
        if not waited:
            self._open_batch.since = now
        self._messages.append(message)
        self._open_batch.receipts.append(receipt)
        return not waited

    @property
    def may_send(self) -> bool:
        return bool(self._messages) and len(self._in_flight) < IN_FLIGHT

    @property
    def queued_bytes(self) -> int:
        """Of messages that are not on their way."""
        return sum(map(len, self._messages))

    def next_batch(self) -> bytes:
        """The next batch, which is on its way from now on."""
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
        """The receipts of so many batches, the oldest first. Raises ValueError where fewer are on their way."""
        if batches > len(self._in_flight):
            raise ValueError("an acknowledgement of what was never sent")
        if batches == 1:
            return self._in_flight.popleft().receipts
        return [receipt for _ in range(batches) for receipt in self._in_flight.popleft().receipts]

    def overdue(self, now: float) -> list[Any]:
        """Receipts of what has become overdue since the last call."""
        receipts: list[Any] = []
        for batch in self._unacknowledged():
            if batch.has_unreported and now >= batch.since + self._lag_s:
                receipts += batch.receipts[batch.reported :]
                batch.reported = len(batch.receipts)
        return receipts

    @property
    def is_lagging(self) -> bool:
        """Whether something is overdue and still not acknowledged."""
        return any(batch.reported for batch in self._unacknowledged())

    def next_deadline(self) -> float | None:
        """When something will be overdue, if nothing is acknowledged until then; None where nothing waits."""
        waiting = [batch.since for batch in self._unacknowledged() if batch.has_unreported]
        return min(waiting) + self._lag_s if waiting else None

    def _unacknowledged(self) -> list[_Batch]:
        return [*self._in_flight, self._open_batch] if self._messages else list(self._in_flight)
