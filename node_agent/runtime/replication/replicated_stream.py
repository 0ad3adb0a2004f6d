"""One stream's journal at its owner: what waits for its lines to be kept, and who is told when it may go out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from node_agent.contract.errors import StaleEpoch
from node_agent.core.node.status import Pool
from node_agent.core.replication.replicated_log import CloseReason, ReplicatedLog

if TYPE_CHECKING:
    from node_agent.runtime.replication.manager import ReplicationManager

CONFIRM_TIMEOUT_S = 2.0
"""How long a new owner waits for one keeper to take its word, before it tells the client anything."""


class ReplicatedStream:
    """deliver: what a client is sent, once that is allowed; fenced: called when the stream is somebody else's.

    unkept: called when no keeper has it any more, and none will, because it has become too large.

    engine: the pool of the node that generates, as it changes.
    """

    def __init__(self, keepers: ReplicationManager, ahead: ReplicatedLog, handle: int, engine: Pool | None) -> None:
        self.log = ahead
        self.handle = handle
        self.engine = engine
        self.deliver: Callable[[bytes], None] = _unset
        self.on_fenced: Callable[[], None] = _nothing
        self.on_replication_stopped: Callable[[], None] = _nothing
        self.counted_unreplicated = 0
        self.is_stop_reported = False
        self._manager = keepers
        self._sent = len(ahead.lines)  # how much of the log is at the copies, or on its way
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()

    def write(self, seq: int, out: bytes) -> None:
        """The log has lines up to number `seq`; `out`, their events, is delivered once that is allowed."""
        ahead = self.log
        if ahead.is_fenced:
            return
        awaits_copies = seq > ahead.seq and bool(ahead.replicas)
        if awaits_copies:
            self._manager.append(self, ahead.seq + 1, ahead.lines[self._sent :], seq)
        self._sent = len(ahead.lines)
        ahead.seq = seq
        if awaits_copies or self._waiting:
            self._waiting.append((seq, out))
            if not awaits_copies:
                self.release()
        else:
            ahead.commit(seq)
            self.deliver(out)

    def release(self) -> None:
        """Deliver what may be delivered; called whenever that may have changed."""
        ahead, waiting = self.log, self._waiting
        if ahead.is_fenced:
            self._fence()
        elif waiting and waiting[0][0] <= (upto := ahead.commit_limit()):
            seq, out = waiting.popleft()
            if waiting and waiting[0][0] <= upto:
                parts = [out]
                while waiting and waiting[0][0] <= upto:
                    seq, out = waiting.popleft()
                    parts.append(out)
                out = b"".join(parts)
            ahead.commit(seq)
            self.deliver(out)
        if self._waiter is not None:
            self._wake()

    async def wait_until_delivered(self) -> None:
        """Wait until everything was delivered. Raises StaleEpoch when it never may be."""
        while self._waiting and not self.log.is_fenced:
            await self._wait(None)
        self._check_owner()

    async def confirm_ownership(self) -> None:
        """Wait until a keeper takes this owner's word, where there is any. Raises StaleEpoch."""
        give_up_at = self._loop.time() + CONFIRM_TIMEOUT_S
        ahead = self.log
        while not ahead.is_fenced and ahead.replicas and not ahead.in_sync and self._loop.time() < give_up_at:
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
        """Somebody else takes the stream over."""
        self.log.is_fenced = True
        self._fence()

    def _fence(self) -> None:
        self._waiting.clear()
        told, self.on_fenced = self.on_fenced, _nothing
        told()
        self._wake()

    def close(self, how: CloseReason) -> None:
        """This node is done with the stream, and calls nobody any more."""
        self._manager.close_stream(self, how)
        self.deliver, self.on_fenced, self.on_replication_stopped = _discard, _nothing, _nothing


def _nothing() -> None:
    """Nobody wants to hear of it."""


def _unset(out: bytes) -> None:
    raise AssertionError("nobody was named who gets what is delivered")


def _discard(out: bytes) -> None:
    """The stream is closed: its client is gone, or has all of it."""
