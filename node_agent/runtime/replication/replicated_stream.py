"""Hold a stream's events back until their records are replicated, then deliver them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from node_agent.contract.errors import StaleEpoch
from node_agent.core.node.status import Pool
from node_agent.core.replication.replicated_log import CloseReason, Replica, ReplicatedLog

CONFIRM_TIMEOUT_S = 2.0
"""How long a new owner waits for one replica's ack before it sends the client anything."""


MAX_WAIT_S = 1.0
"""How long events wait for a first replica in sync."""


class StreamReplicator(Protocol):
    """Sends a stream's records to its replicas: the replication manager, as one stream uses it."""

    def append(self, stream: ReplicatedStream, first: int, lines: bytes | bytearray, seq: int) -> None:
        """Send the records `first` to `seq`, which are `lines`."""
        ...

    def close_stream(self, stream: ReplicatedStream, reason: CloseReason) -> None:
        """End the stream at its replicas."""
        ...


class ReplicatedStream:
    """One stream of this node, with its log and the events that wait for it."""

    def __init__(self, manager: StreamReplicator, log: ReplicatedLog, handle: int, engine: Pool | None) -> None:
        self.log = log
        self.handle = handle
        self.engine = engine
        """The pool of the node that generates; it may change."""

        self.deliver: Callable[[bytes], None] = _unset
        """Sends committed events to the client."""

        self.on_fenced: Callable[[], None] = _nothing
        """Called when a newer owner has the stream."""

        self.on_replication_stopped: Callable[[], None] = _nothing
        """Called when the journal became too large for any replica."""

        self.counted_unreplicated = 0
        self.is_stop_reported = False
        self._manager = manager
        self._sent = len(log.lines)  # bytes of the log that were sent to the replicas
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._wait_limit: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def write(self, seq: int, out: bytes) -> None:
        """Replicate the new records up to number `seq`; deliver their events `out` once they are committed."""
        log = self.log
        if log.is_fenced:
            return
        awaits_replicas = seq > log.seq and bool(log.replicas)
        if awaits_replicas:
            self._manager.append(self, log.seq + 1, log.lines[self._sent :], seq)
        self._sent = len(log.lines)
        log.seq = seq
        if awaits_replicas or self._waiting:
            self._waiting.append((seq, out))
            if not awaits_replicas:
                self.release()
        else:
            log.commit(seq)
            self.deliver(out)

    def release(self) -> None:
        """Deliver the events up to the commit limit; called whenever that may have changed."""
        log, waiting = self.log, self._waiting
        if log.is_fenced:
            self._fence()
        elif waiting and waiting[0][0] <= (upto := log.commit_limit()):
            seq, out = waiting.popleft()
            if waiting and waiting[0][0] <= upto:
                parts = [out]
                while waiting and waiting[0][0] <= upto:
                    seq, out = waiting.popleft()
                    parts.append(out)
                out = b"".join(parts)
            log.commit(seq)
            self.deliver(out)
        elif waiting:
            self._limit_wait()
        if self._waiter is not None:
            self._wake()

    def overdue(self, replica: Replica, seq: int) -> None:
        """Handle that a replica did not acknowledge record `seq` in time."""
        self.log.overdue(replica, seq)
        self.release()

    def _limit_wait(self) -> None:
        """Limit how long events wait where no replica is in sync: the last one may be lost after it was overdue."""
        if self._wait_limit is None and self.log.waits_for_any:
            self._wait_limit = self._loop.call_later(MAX_WAIT_S, self._stop_waiting, self.log.sync_count)

    def _stop_waiting(self, sync_count: int) -> None:
        self._wait_limit = None
        if self.log.stop_waiting(sync_count):
            self.release()
        else:
            self._limit_wait()

    async def wait_until_delivered(self) -> None:
        """Wait until all events are delivered. Raises StaleEpoch where the stream is fenced."""
        while self._waiting and not self.log.is_fenced:
            await self._wait(None)
        self._check_owner()

    async def confirm_ownership(self) -> None:
        """Wait until a replica has acknowledged this owner, where there are replicas. Raises StaleEpoch."""
        give_up_at = self._loop.time() + CONFIRM_TIMEOUT_S
        log = self.log
        while not log.is_fenced and log.replicas and not log.in_sync and self._loop.time() < give_up_at:
            await self._wait(give_up_at)
        self._check_owner()

    def _check_owner(self) -> None:
        if self.log.is_fenced:
            raise StaleEpoch("another node owns this stream now")

    async def _wait(self, until: float | None) -> None:
        self._waiter = self._loop.create_future()
        timer = self._loop.call_at(until, self._wake) if until is not None else None
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fence(self) -> None:
        """Stop delivering: another owner takes the stream over."""
        self.log.is_fenced = True
        self._fence()

    def _fence(self) -> None:
        self._waiting.clear()
        callback, self.on_fenced = self.on_fenced, _nothing
        callback()
        self._wake()

    def close(self, reason: CloseReason) -> None:
        """End the stream at this node; no callback is called from now on."""
        self._manager.close_stream(self, reason)
        if self._wait_limit is not None:
            self._wait_limit.cancel()
        self.deliver, self.on_fenced, self.on_replication_stopped = _discard, _nothing, _nothing


def _nothing() -> None:
    """Ignore the call: no callback was set, or the stream is closed."""


def _unset(out: bytes) -> None:
    raise AssertionError("deliver was not set")


def _discard(out: bytes) -> None:
    """Drop events of a closed stream: its client is gone, or has all of it."""
