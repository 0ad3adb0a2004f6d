"""Replicate the journals of this node's streams to peers, over one connection to each replica node.

`core/replication/replicated_log` decides for each stream; this module has the connections and the timer.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from node_agent.core.common.address import parse_address
from node_agent.core.node.status import Pool
from node_agent.core.replication.link_loss import LinkLossReason
from node_agent.core.replication.placement import Candidates
from node_agent.core.replication.protocol import APPEND, DROP, FINISH, encode
from node_agent.core.replication.reconnects import ReconnectBackoff
from node_agent.core.replication.refusal import RefusalReason, ReplicaRefused
from node_agent.core.replication.replica_store import (
    MAX_HEADER_BYTES,
    EndReason,
    ReplicaStore,
)
from node_agent.core.replication.replicated_log import (
    REPLICATION_FACTOR,
    CloseReason,
    Command,
    DropReplica,
    OpenReplica,
    Replica,
    ReplicatedLog,
    StopReason,
)
from node_agent.ports import ReplicaLink, ReplicaLinks
from node_agent.runtime.common.batches import batches
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.replication.journal_copier import JournalCopier, open_message
from node_agent.runtime.replication.replicated_stream import ReplicatedStream
from node_agent.runtime.replication.stream_recorder import StreamRecorder

RECONCILE_EVERY_S = 0.25
_STREAMS_PER_TURN = 32
"""Streams that are reconciled in one turn of the event loop: a millisecond or two."""

_RETRY_FULL_EVERY = 40
"""Reconciliations until a node whose store was full is tried again: what it is sent then may be megabytes."""

_UNREACHABLE_S = 5.0
"""How long a peer whose link broke is chosen last: a network may be cut between only two nodes of a fleet."""

_log = logging.getLogger(__name__)


def _half() -> float:
    return 0.5


class _Receipt(NamedTuple):
    """Sent with a message: once it is acknowledged, the replica has all records up to `seq`."""

    stream: ReplicatedStream
    replica: Replica
    seq: int


class _ReplicaConnection:
    """The link to one peer that has replicas of this node's journals. A LinkListener."""

    def __init__(self, manager: ReplicationManager, name: str, links: ReplicaLinks, address: str) -> None:
        self._manager = manager
        self._name = name
        self._opened_at = asyncio.get_running_loop().time()
        self._has_worked = False
        self.link: ReplicaLink = links.connect(parse_address(address), self)

    def acknowledged(self, receipts: Sequence[_Receipt | asyncio.Future[None] | None]) -> None:
        self._has_worked = True
        for receipt in receipts:
            if type(receipt) is _Receipt:
                stream, replica, seq = receipt
                stream.log.acknowledged(replica, seq)
                stream.release()
            elif isinstance(receipt, asyncio.Future) and not receipt.done():
                receipt.set_result(None)

    def overdue(self, receipts: Sequence[_Receipt | asyncio.Future[None] | None]) -> None:
        _log.info("replica %s lags", self._name)
        for receipt in receipts:
            if isinstance(receipt, _Receipt):
                receipt.stream.overdue(receipt.replica, receipt.seq)
        self._manager.replace_replicas({receipt.stream for receipt in receipts if isinstance(receipt, _Receipt)})

    def refused(self, handle: int, reason: RefusalReason) -> None:
        self._manager.refused(self._name, handle, reason)

    def lost(self, reason: LinkLossReason) -> None:
        open_s = asyncio.get_running_loop().time() - self._opened_at
        self._manager.lost(self._name, reason, worked_s=open_s if self._has_worked else 0.0)


class ReplicationManager:
    """All streams that this node owns, and their replicas.

    Args:
        node: this node and its view of the fleet.
        links: opens connections to peers.
        store: this node's replicas of other nodes' journals.
        replication_factor: replicas of each stream, 0 for none.
        chance: uniform in [0, 1), for reconnect waits.
        recorder: records which streams this node owns; None where nothing does.
    """

    def __init__(
        self,
        node: NodeContext,
        links: ReplicaLinks,
        store: ReplicaStore,
        replication_factor: int = REPLICATION_FACTOR,
        chance: Callable[[], float] = _half,
        recorder: StreamRecorder | None = None,
    ) -> None:
        self.node = node
        self.store = store
        self._links = links
        self._replication_factor = replication_factor
        self._handles = itertools.count(1)
        self._streams: dict[int, ReplicatedStream] = {}
        self._is_closed = False
        self._connections: dict[str, _ReplicaConnection] = {}
        self._lost_at: dict[str, float] = {}  # when each peer's link last broke, in loop time
        self._reconnects = ReconnectBackoff()
        self._chance = chance
        self._recorder = recorder
        self._until_retry = _RETRY_FULL_EVERY  # reconciliations
        self.copier = JournalCopier(node, store, self._candidates, self._send_copy)

    def open_stream(self, log: ReplicatedLog, engine: Pool | None, *, durable: bool = True) -> ReplicatedStream:
        """Start to replicate a stream's journal. durable: whether the client wants copies."""
        log.replication_factor = self._replication_factor if durable else 0
        stream = ReplicatedStream(self, log, next(self._handles), engine)
        self._streams[stream.handle] = stream
        if self._recorder is not None:
            self._recorder.opened(log)
        if log.replication_factor and len(log.header) > MAX_HEADER_BYTES:
            self._execute(stream, log.stop_replication(StopReason.HEADER_TOO_LARGE))
        self._reconcile(stream, self._candidates())
        return stream

    def _report_stopped(self, stream: ReplicatedStream, reason: StopReason) -> None:
        """Report once, to the log, the metrics and the client, that the stream has no replicas from now on."""
        log, stream.is_stop_reported = stream.log, True
        self.node.metrics.streams_unreplicated.labels(reason.value).inc()
        size = len(log.header) + len(log.lines)
        _log.info("stream %s: has no replicas: %s, %d bytes", log.stream, reason, size)
        stream.on_replication_stopped()

    async def run(self) -> None:
        """Reconcile all replicas, and expire old journals of others, until cancelled."""
        while True:
            await asyncio.sleep(RECONCILE_EVERY_S)
            await self._reconcile_all()
            await self.copier.copy_orphans(self._replication_factor)
            self.store.expire(self.node.wall_clock())
            self.node.metrics.replica_bytes.set(self.store.held_bytes)

    async def _reconcile_all(self) -> None:
        """Reconcile the streams whose replicas are too few, too many, lagging, or at peers that are not eligible."""
        self._until_retry = self._until_retry - 1 if self._until_retry else _RETRY_FULL_EVERY
        retries_full = not self._until_retry
        for batch in batches(list(self._streams.values()), _STREAMS_PER_TURN):
            candidates = self._candidates()
            for stream in batch:
                if stream.handle in self._streams:
                    self._review(stream, candidates, retries_full=retries_full)
            await asyncio.sleep(0)

    def _review(self, stream: ReplicatedStream, candidates: Candidates, *, retries_full: bool) -> None:
        self._count_unreplicated(stream)
        if retries_full:
            stream.log.retry_full_replicas()
        if not (stream.log.is_settled and candidates.eligible >= stream.log.replicas.keys()):
            self._reconcile(stream, candidates)

    def _reconcile(self, stream: ReplicatedStream, candidates: Candidates) -> None:
        log = stream.log
        if log.replication_factor:
            ranked = candidates.for_stream(log.stream, log.replicas, stream.engine)
            self._execute(stream, log.reconcile(ranked, candidates.eligible))
            stream.release()

    def _candidates(self) -> Candidates:
        """Return the peers that may replicate a journal now."""
        now, may_connect = asyncio.get_running_loop().time(), self._reconnects.may_connect
        connected = self._connections
        reachable = [
            peer for peer in self.node.present if peer.instance_id in connected or may_connect(peer.instance_id, now)
        ]
        self._lost_at = {name: at for name, at in self._lost_at.items() if now - at < _UNREACHABLE_S}
        lagging = (name for name, connection in connected.items() if connection.link.is_late)
        return Candidates(self.node.pool, reachable, frozenset({*self.node.suspects, *self._lost_at, *lagging}))

    def _count_unreplicated(self, stream: ReplicatedStream) -> None:
        """Count the events that were sent while no replica had them."""
        unreplicated = stream.log.unreplicated - stream.counted_unreplicated
        if unreplicated:
            stream.counted_unreplicated += unreplicated
            self.node.metrics.unreplicated_events.inc(unreplicated)
            _log.debug("stream %s: %d events are at no replica", stream.log.stream, unreplicated)

    def replace_replicas(self, streams: Iterable[ReplicatedStream]) -> None:
        """Reconcile streams whose replicas lag or are lost: those without a replica now, the others in turns."""
        affected = list(streams)
        self._reconcile_some([stream for stream in affected if not stream.log.replicas])
        self._reconcile_in_turns([stream for stream in affected if stream.log.replicas])

    def _reconcile_in_turns(self, streams: Sequence[ReplicatedStream]) -> None:
        self._reconcile_some(streams[:_STREAMS_PER_TURN])
        if rest := streams[_STREAMS_PER_TURN:]:
            asyncio.get_running_loop().call_soon(self._reconcile_in_turns, rest)

    def _reconcile_some(self, streams: Sequence[ReplicatedStream]) -> None:
        if not streams:
            return
        candidates = self._candidates()
        for stream in streams:
            if stream.handle in self._streams:
                self._reconcile(stream, candidates)

    # replicas

    def append(self, stream: ReplicatedStream, first: int, lines: bytes | bytearray, seq: int) -> None:
        """Send new records, number `first` to `seq`, to all replicas of a stream."""
        message = encode(APPEND, stream.handle, first, lines)
        for name, replica in stream.log.replicas.items():
            connection = self._connections.get(name)
            if connection is not None:
                connection.link.send(message, _Receipt(stream, replica, seq))
            else:
                self._send(name, message, _Receipt(stream, replica, seq))

    def _execute(self, stream: ReplicatedStream, commands: Iterable[Command]) -> None:
        stop_reason = stream.log.stop_reason
        if stop_reason is not None and not stream.is_stop_reported:
            self._report_stopped(stream, stop_reason)
        for command in commands:
            _log.debug("stream %s: %s, of %s", stream.log.stream, command, list(stream.log.replicas))
            match command:
                case OpenReplica(replica):
                    log = stream.log
                    self._send(
                        replica.instance_id, open_message(stream.handle, log), _Receipt(stream, replica, log.seq)
                    )
                case DropReplica(replica_id):
                    self._send(replica_id, encode(DROP, stream.handle))

    def _send(self, replica_id: str, message: bytes, receipt: object = None) -> None:
        connection = self._connections.get(replica_id)
        if connection is None and (receipt is None or self._is_closed):
            return  # not connected: it has nothing of the stream; or this node ends
        if connection is None:
            peer = self.node.member(replica_id)
            if peer is None:
                asyncio.get_running_loop().call_soon(self.lost, replica_id, LinkLossReason.UNKNOWN)
                return
            connection = self._connections[replica_id] = _ReplicaConnection(
                self, replica_id, self._links, peer.status.peer_address
            )
        connection.link.send(message, receipt)

    def refused(self, replica_id: str, handle: int, reason: RefusalReason) -> None:
        """Handle a replica's refusal of a message of this stream."""
        stream = self._streams.get(handle)
        if stream is None:
            return
        _log.info("stream %s: replica %s refuses: %s", stream.log.stream, replica_id, reason)
        self._execute(stream, stream.log.refused(replica_id, reason))
        stream.release()

    def lost(self, replica_id: str, reason: LinkLossReason, worked_s: float = 0.0) -> None:
        """Replace the replicas of a node whose link broke. worked_s: as `ReconnectBackoff.ended`."""
        self._connections.pop(replica_id, None)
        _log.info("replica %s is lost: %s", replica_id, reason)
        self.node.metrics.replica_losses.labels(reason.value).inc()
        self._lost_at[replica_id] = now = asyncio.get_running_loop().time()
        self._reconnects.ended(replica_id, now, worked_s=worked_s, chance=self._chance())
        self.node.on_connection_lost(replica_id, reason.loss_reason)
        affected = [stream for stream in self._streams.values() if replica_id in stream.log.replicas]
        for stream in affected:
            stream.log.lost(replica_id)
        self.replace_replicas(affected)

    # the ends of streams

    def close_stream(self, stream: ReplicatedStream, reason: CloseReason) -> None:
        """End a stream. Where no replica has its whole journal, or its client may come back, this node stores it."""
        if self._streams.pop(stream.handle, None) is None:
            return
        log = stream.log
        if self._recorder is not None:
            self._recorder.closed(log, reason)
        self._count_unreplicated(stream)
        if (end := _end_message(stream.handle, reason)) is not None:
            for replica_id in log.replicas:
                self._send(replica_id, end)
        if _should_store_locally(log, reason):
            self._store_locally(log, reason)

    def _store_locally(self, log: ReplicatedLog, reason: CloseReason) -> None:
        store, stream, epoch = self.store, log.stream, log.epoch
        try:
            store.open(stream, epoch, log.header, log.seq, bytes(log.lines), self.node.wall_clock(), log.client)
        except ReplicaRefused as refused:
            _log.info("stream %s: not stored here: %s", stream, refused.reason)
            return
        store.mark_copied(stream, epoch, log.in_sync)
        if reason in _END_REASONS:
            store.end(stream, epoch, _END_REASONS[reason])

    def _send_copy(self, name: str, log: ReplicatedLog) -> asyncio.Future[None]:
        """Send a journal that this node stores to a peer. Returns its ack."""
        receipt: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._send(name, open_message(next(self._handles), log), receipt)
        return receipt

    def close(self) -> None:
        """Close all connections, and open no other: a stream may still write until its task has ended."""
        self._is_closed = True
        for connection in self._connections.values():
            connection.link.close()
        self._connections.clear()


_END_REASONS = {CloseReason.FINISHED: EndReason.FINISHED, CloseReason.ABANDONED: EndReason.ABANDONED}


def _end_message(handle: int, reason: CloseReason) -> bytes | None:
    """Return the message to a stream's replicas at its end; None where there is none."""
    if reason is CloseReason.NEVER_ANNOUNCED:
        return encode(DROP, handle)
    return encode(FINISH, handle, _END_REASONS[reason].value) if reason in _END_REASONS else None


def _should_store_locally(log: ReplicatedLog, reason: CloseReason) -> bool:
    """Return whether this node has to store the journal of a stream that ended here."""
    has_stopped = log.stop_reason is not None
    if log.is_fenced or reason is CloseReason.NEVER_ANNOUNCED or (has_stopped and reason is not CloseReason.MOVED):
        return False
    copies = {CloseReason.FINISHED: 1, CloseReason.ABANDONED: REPLICATION_FACTOR}.get(reason)
    return copies is None or len(log.in_sync) < copies
