"""The owner's side of all journals: this node's streams, their copies at peers, and one connection to each keeper.

The decisions are `core/replication/replicated_log`'s for each stream; here are the connections and the timer.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from node_agent.contract.states import NodeState
from node_agent.core.common.address import parse_address
from node_agent.core.node.status import NodeStatus, Pool
from node_agent.core.replication.placement import choose_replicas
from node_agent.core.replication.protocol import APPEND, DROP, FINISH, OpenMessage, encode, encode_open
from node_agent.core.replication.reconnects import ReconnectBackoff
from node_agent.core.replication.replica_store import (
    MAX_HEADER_BYTES,
    REASONS,
    UNREADABLE,
    EndReason,
    JournalReplica,
    ReplicaRefused,
    ReplicaStore,
)
from node_agent.core.replication.replicated_log import (
    HEADER_TOO_LARGE,
    REPLICATION_FACTOR,
    CloseReason,
    Command,
    DropReplica,
    OpenReplica,
    Replica,
    ReplicatedLog,
)
from node_agent.ports import ReplicaLink, ReplicaLinks
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.replication.replicated_stream import ReplicatedStream

RECONCILE_EVERY_S = 0.25
_ELIGIBLE = frozenset({NodeState.READY, NodeState.STARTING})
"""States of peers that may stay keepers."""

_RETRY_FULL_EVERY = 40
"""Reviews: so often is a keeper that had no room for a stream asked again. What it is sent then may be megabytes."""

_UNREACHABLE_S = 5.0
"""How long a peer whose link broke is not asked to keep anything, where another can: a network may be cut between two
nodes that all others reach."""

_log = logging.getLogger(__name__)


def _half() -> float:
    return 0.5


class _Receipt(NamedTuple):
    """The copy has all lines up to `seq` once its keeper has dealt with the message."""

    stream: ReplicatedStream
    replica: Replica
    seq: int


class _ReplicaConnection:
    """A peer that keeps journals of this node, and the link to it. A LinkListener."""

    def __init__(self, keepers: ReplicationManager, name: str, links: ReplicaLinks, address: str) -> None:
        self._manager = keepers
        self._name = name
        self._opened_at = asyncio.get_running_loop().time()
        self._has_worked = False
        self.link: ReplicaLink = links.connect(parse_address(address), self)

    def acknowledged(self, receipts: Sequence[_Receipt | asyncio.Future[None] | None]) -> None:
        self._has_worked = True
        for receipt in receipts:
            if type(receipt) is _Receipt:
                stream, copy, seq = receipt
                stream.log.acknowledged(copy, seq)
                stream.release()
            elif isinstance(receipt, asyncio.Future) and not receipt.done():
                receipt.set_result(None)

    def overdue(self, receipts: Sequence[_Receipt | asyncio.Future[None] | None]) -> None:
        _log.info("keeper %s lags", self._name)
        for receipt in receipts:
            if isinstance(receipt, _Receipt):
                receipt.stream.log.overdue(receipt.replica, receipt.seq)
                receipt.stream.release()
        self._manager.replace_lagging({receipt.stream for receipt in receipts if isinstance(receipt, _Receipt)})

    def refused(self, handle: int, why: str) -> None:
        self._manager.refused(self._name, handle, why)

    def lost(self, why: str) -> None:
        asked_s = asyncio.get_running_loop().time() - self._opened_at
        self._manager.lost(self._name, why, worked_s=asked_s if self._has_worked else 0.0)


class ReplicationManager:
    """All streams that this node owns. wanted: copies of each, 0 for none; chance: uniform in [0, 1)."""

    def __init__(
        self,
        node: NodeContext,
        links: ReplicaLinks,
        own: ReplicaStore,
        wanted: int = REPLICATION_FACTOR,
        chance: Callable[[], float] = _half,
    ) -> None:
        self.node = node
        self.store = own
        self._links = links
        self._replication_factor = wanted
        self._handles = itertools.count(1)
        self._streams: dict[int, ReplicatedStream] = {}
        self._connections: dict[str, _ReplicaConnection] = {}
        self._lost_at: dict[str, float] = {}  # peers whose link broke lately, by loop time
        self._reconnects = ReconnectBackoff()
        self._chance = chance
        self._until_retry = _RETRY_FULL_EVERY  # reviews

    def open_stream(self, ahead: ReplicatedLog, engine: Pool | None, *, durable: bool = True) -> ReplicatedStream:
        """Take a stream's journal in, and send it to its keepers. durable: whether the client wants copies."""
        ahead.replication_factor = self._replication_factor if durable else 0
        stream = ReplicatedStream(self, ahead, next(self._handles), engine)
        self._streams[stream.handle] = stream
        if ahead.replication_factor and len(ahead.header) > MAX_HEADER_BYTES:
            self._execute(stream, ahead.stop_replication(HEADER_TOO_LARGE))
        self._reconcile(stream)
        return stream

    def _report_stopped(self, stream: ReplicatedStream) -> None:
        """No keeper is to have it: that is said once, to its client, too."""
        ahead, stream.is_stop_reported = stream.log, True
        self.node.metrics.unkept.labels(ahead.stop_reason).inc()
        size = len(ahead.header) + len(ahead.lines)
        _log.info("stream %s: is kept by no peer: %s, %d bytes", ahead.stream, ahead.stop_reason, size)
        stream.on_replication_stopped()

    async def run(self) -> None:
        """Look after all copies, and let old journals of others go; until cancelled."""
        while True:
            await asyncio.sleep(RECONCILE_EVERY_S)
            self._reconcile_all()
            self._replicate_orphans()
            self.store.expire(self.node.clock())
            self.node.metrics.kept_bytes.set(self.store.held_bytes)

    def _reconcile_all(self) -> None:
        """Those streams whose copies are not as they should be, or are at peers that should not have them any more."""
        peers = self._reachable()
        fit = {peer.instance_id for peer in peers if peer.state in _ELIGIBLE}
        self._until_retry = self._until_retry - 1 if self._until_retry else _RETRY_FULL_EVERY
        for stream in list(self._streams.values()):
            self._count_unreplicated(stream)
            if not self._until_retry:
                stream.log.retry_full_replicas()
            if not (stream.log.is_settled and fit >= stream.log.replicas.keys()):
                self._reconcile(stream, peers)

    def _reconcile(self, stream: ReplicatedStream, peers: Sequence[NodeStatus] | None = None) -> None:
        ahead = stream.log
        if not ahead.replication_factor:
            return
        if peers is None:
            peers = self._reachable()
        fit = [p.instance_id for p in peers if p.state in _ELIGIBLE]
        staying = [p.pool for p in peers if p.instance_id in ahead.replicas and p.instance_id in fit]
        chosen = choose_replicas(ahead.stream, peers, [self.node.pool, *staying], stream.engine, self._deprioritized())
        self._execute(stream, ahead.reconcile([peer.instance_id for peer in chosen], fit))
        stream.release()

    def _reachable(self) -> list[NodeStatus]:
        """Peers that may be asked to keep something: one that was out of reach is asked again, but not at once."""
        now, may = asyncio.get_running_loop().time(), self._reconnects.may_connect
        return [p for p in self.node.present if p.instance_id in self._connections or may(p.instance_id, now)]

    def _deprioritized(self) -> set[str]:
        """Peers that are chosen last: suspected, late, or out of reach a moment ago."""
        now = asyncio.get_running_loop().time()
        self._lost_at = {name: at for name, at in self._lost_at.items() if now - at < _UNREACHABLE_S}
        late = (name for name, keeper in self._connections.items() if keeper.link.is_late)
        return {*self.node.suspects, *self._lost_at, *late}

    def _count_unreplicated(self, stream: ReplicatedStream) -> None:
        """Events that went out although no keeper had them."""
        gaps = stream.log.unreplicated - stream.counted_unreplicated
        if gaps:
            stream.counted_unreplicated += gaps
            self.node.metrics.gaps.inc(gaps)
            _log.debug("stream %s: %d events are at no keeper", stream.log.stream, gaps)

    def replace_lagging(self, streams: Iterable[ReplicatedStream]) -> None:
        """Some copies of these are late."""
        peers = self._reachable()
        for stream in streams:
            if stream.handle in self._streams:
                self._reconcile(stream, peers)

    # keepers

    def append(self, stream: ReplicatedStream, first: int, lines: bytes | bytearray, seq: int) -> None:
        """Send new lines, number `first` to `seq`, to all copies of a stream."""
        message = encode(APPEND, stream.handle, first, lines)
        for name, copy in stream.log.replicas.items():
            keeper = self._connections.get(name)
            if keeper is not None:
                keeper.link.send(message, _Receipt(stream, copy, seq))
            else:
                self._send(name, message, _Receipt(stream, copy, seq))

    def _execute(self, stream: ReplicatedStream, instructions: Iterable[Command]) -> None:
        if stream.log.stop_reason and not stream.is_stop_reported:
            self._report_stopped(stream)
        for instruction in instructions:
            _log.debug("stream %s: %s, of %s", stream.log.stream, instruction, list(stream.log.replicas))
            match instruction:
                case OpenReplica(copy):
                    ahead = stream.log
                    self._send(copy.instance_id, _open_message(stream.handle, ahead), _Receipt(stream, copy, ahead.seq))
                case DropReplica(keeper):
                    self._send(keeper, encode(DROP, stream.handle))

    def _send(self, keeper: str, message: bytes, receipt: object = None) -> None:
        open_ = self._connections.get(keeper)
        if open_ is None and receipt is None:
            return  # it has nothing of the stream any more
        if open_ is None:
            peer = self.node.member(keeper)
            if peer is None:
                asyncio.get_running_loop().call_soon(self.lost, keeper, "unknown")
                return
            open_ = self._connections[keeper] = _ReplicaConnection(self, keeper, self._links, peer.status.peer_address)
        open_.link.send(message, receipt)

    def refused(self, keeper: str, handle: int, why: str) -> None:
        """The keeper would not take something of this stream."""
        stream = self._streams.get(handle)
        if stream is None:
            return
        why = why if why in REASONS else UNREADABLE  # of a later version
        _log.info("stream %s: keeper %s refuses: %s", stream.log.stream, keeper, why)
        self._execute(stream, stream.log.refused(keeper, why))
        stream.release()

    def lost(self, keeper: str, why: str, worked_s: float = 0.0) -> None:
        """The link to the keeper is gone: its copies are to be had elsewhere. worked_s: as `ReconnectBackoff.ended`."""
        self._connections.pop(keeper, None)
        _log.info("keeper %s is lost: %s", keeper, why)
        self.node.metrics.keeper_losses.labels(why).inc()
        self._lost_at[keeper] = now = asyncio.get_running_loop().time()
        self._reconnects.ended(keeper, now, worked_s=worked_s, chance=self._chance())
        self.node.lost(keeper, why)
        for stream in list(self._streams.values()):
            if keeper in stream.log.replicas:
                stream.log.lost(keeper)
                self._reconcile(stream)

    # the ends of streams

    def close_stream(self, stream: ReplicatedStream, how: CloseReason) -> None:
        """See ReplicatedStream. Where no keeper has all of it, or its client may come back, this node keeps it, too."""
        if self._streams.pop(stream.handle, None) is None:
            return
        ahead = stream.log
        self._count_unreplicated(stream)
        if (said := _end_message(stream.handle, how)) is not None:
            for keeper in ahead.replicas:
                self._send(keeper, said)
        if _should_store_locally(ahead, how):
            self._store_locally(ahead, how)

    def _store_locally(self, ahead: ReplicatedLog, how: CloseReason) -> None:
        own, stream, epoch = self.store, ahead.stream, ahead.epoch
        try:
            own.open(stream, epoch, ahead.header, ahead.seq, bytes(ahead.lines), self.node.clock(), ahead.client)
        except ReplicaRefused as refused:
            _log.info("stream %s: not kept here: %s", stream, refused.reason)
            return
        own.mark_copied(stream, epoch, ahead.in_sync)
        if how in _END_REASONS:
            own.end(stream, epoch, _END_REASONS[how])

    async def evacuate(self, within_s: float) -> None:
        """This node goes: each journal that somebody may still need gets a copy elsewhere in its place."""
        unfinished = self.store.unfinished()
        sent = [receipt for name, journal in unfinished for receipt in self._replicate_to(name, journal, 1)]
        if sent:
            await asyncio.wait(sent, timeout=within_s)

    def _replicate_orphans(self) -> None:
        for name, journal in self.store.orphans(self.node.clock()):
            alive = {peer.instance_id for peer in self.node.present}
            self._replicate_to(name, journal, self._replication_factor - len(journal.copied_to & alive))

    def _replicate_to(self, name: str, journal: JournalReplica, copies: int) -> list[asyncio.Future[None]]:
        """Send a journal that is kept here to the best peers that have it not from here; their receipts."""
        peers = self._reachable()
        having = [peer.pool for peer in peers if peer.instance_id in journal.copied_to]
        new = [peer for peer in peers if peer.instance_id not in journal.copied_to]
        ahead = ReplicatedLog(
            name, journal.written_epoch, journal.header, lines=journal.lines, seq=journal.seq, client=journal.client
        )
        receipts = []
        chosen = choose_replicas(name, new, [self.node.pool, *having], None, self._deprioritized())
        for peer in chosen[: max(0, copies)]:
            journal.copied_to.add(peer.instance_id)
            receipts.append(asyncio.get_running_loop().create_future())
            self._send(peer.instance_id, _open_message(next(self._handles), ahead), receipts[-1])
        return receipts

    def close(self) -> None:
        for keeper in self._connections.values():
            keeper.link.close()
        self._connections.clear()


_END_REASONS = {CloseReason.FINISHED: EndReason.FINISHED, CloseReason.ABANDONED: EndReason.ABANDONED}


def _end_message(handle: int, how: CloseReason) -> bytes | None:
    """What the keepers of a stream are sent at its end."""
    if how is CloseReason.NEVER_ANNOUNCED:
        return encode(DROP, handle)
    return encode(FINISH, handle, _END_REASONS[how].value) if how in _END_REASONS else None


def _should_store_locally(ahead: ReplicatedLog, how: CloseReason) -> bool:
    """Whether the journal of a stream that has ended here is to be kept here."""
    if ahead.is_fenced or how is CloseReason.NEVER_ANNOUNCED or (ahead.stop_reason and how is not CloseReason.MOVED):
        return False
    copies = {CloseReason.FINISHED: 1, CloseReason.ABANDONED: REPLICATION_FACTOR}.get(how)
    return copies is None or len(ahead.in_sync) < copies


def _open_message(handle: int, ahead: ReplicatedLog) -> bytes:
    opened = OpenMessage(ahead.stream, ahead.epoch, ahead.client, ahead.header, bytes(ahead.lines))
    return encode_open(handle, opened, ahead.seq)
