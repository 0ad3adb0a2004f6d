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
    copy: Replica
    seq: int


class _ReplicaConnection:
    """A peer that keeps journals of this node, and the link to it. A LinkListener."""

    def __init__(self, keepers: ReplicationManager, name: str, links: ReplicaLinks, address: str) -> None:
        self._keepers = keepers
        self._name = name
        self._asked_at = asyncio.get_running_loop().time()
        self._has_worked = False
        self.link: ReplicaLink = links.connect(parse_address(address), self)

    def acknowledged(self, receipts: Sequence[_Receipt | asyncio.Future[None] | None]) -> None:
        self._has_worked = True
        for receipt in receipts:
            if type(receipt) is _Receipt:
                stream, copy, seq = receipt
                stream.ahead.acknowledged(copy, seq)
                stream.release()
            elif isinstance(receipt, asyncio.Future) and not receipt.done():
                receipt.set_result(None)

    def overdue(self, receipts: Sequence[_Receipt | asyncio.Future[None] | None]) -> None:
        _log.info("keeper %s lags", self._name)
        for receipt in receipts:
            if isinstance(receipt, _Receipt):
                receipt.stream.ahead.overdue(receipt.copy, receipt.seq)
                receipt.stream.release()
        self._keepers.replace_late({receipt.stream for receipt in receipts if isinstance(receipt, _Receipt)})

    def refused(self, handle: int, why: str) -> None:
        self._keepers.refused(self._name, handle, why)

    def lost(self, why: str) -> None:
        asked_s = asyncio.get_running_loop().time() - self._asked_at
        self._keepers.lost(self._name, why, worked_s=asked_s if self._has_worked else 0.0)


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
        self.own = own
        self._links = links
        self._wanted = wanted
        self._handles = itertools.count(1)
        self._streams: dict[int, ReplicatedStream] = {}
        self._open: dict[str, _ReplicaConnection] = {}
        self._lost_at: dict[str, float] = {}  # peers whose link broke lately, by loop time
        self._redials = ReconnectBackoff()
        self._chance = chance
        self._until_room = _RETRY_FULL_EVERY  # reviews

    def begin(self, ahead: ReplicatedLog, engine: Pool | None, *, durable: bool = True) -> ReplicatedStream:
        """Take a stream's journal in, and send it to its keepers. durable: whether the client wants copies."""
        ahead.wanted = self._wanted if durable else 0
        stream = ReplicatedStream(self, ahead, next(self._handles), engine)
        self._streams[stream.handle] = stream
        if ahead.wanted and len(ahead.opening) > MAX_HEADER_BYTES:
            self._perform(stream, ahead.keep_nowhere(HEADER_TOO_LARGE))
        self._review(stream)
        return stream

    def _count_unkept(self, stream: ReplicatedStream) -> None:
        """No keeper is to have it: that is said once, to its client, too."""
        ahead, stream.is_said_unkept = stream.ahead, True
        self.node.metrics.unkept.labels(ahead.unkept).inc()
        size = len(ahead.opening) + len(ahead.log)
        _log.info("stream %s: is kept by no peer: %s, %d bytes", ahead.stream, ahead.unkept, size)
        stream.unkept()

    async def run(self) -> None:
        """Look after all copies, and let old journals of others go; until cancelled."""
        while True:
            await asyncio.sleep(RECONCILE_EVERY_S)
            self._review_all()
            self._copy_orphans()
            self.own.expire(self.node.clock())
            self.node.metrics.kept_bytes.set(self.own.held_bytes)

    def _review_all(self) -> None:
        """Those streams whose copies are not as they should be, or are at peers that should not have them any more."""
        peers = self._reachable()
        fit = {peer.instance_id for peer in peers if peer.state in _ELIGIBLE}
        self._until_room = self._until_room - 1 if self._until_room else _RETRY_FULL_EVERY
        for stream in list(self._streams.values()):
            self._count_gaps(stream)
            if not self._until_room:
                stream.ahead.look_for_room()
            if not (stream.ahead.is_settled and fit >= stream.ahead.copies.keys()):
                self._review(stream, peers)

    def _review(self, stream: ReplicatedStream, peers: Sequence[NodeStatus] | None = None) -> None:
        ahead = stream.ahead
        if not ahead.wanted:
            return
        if peers is None:
            peers = self._reachable()
        fit = [p.instance_id for p in peers if p.state in _ELIGIBLE]
        staying = [p.pool for p in peers if p.instance_id in ahead.copies and p.instance_id in fit]
        chosen = choose_replicas(ahead.stream, peers, [self.node.pool, *staying], stream.engine, self._doubtful())
        self._perform(stream, ahead.review([peer.instance_id for peer in chosen], fit))
        stream.release()

    def _reachable(self) -> list[NodeStatus]:
        """Peers that may be asked to keep something: one that was out of reach is asked again, but not at once."""
        now, may = asyncio.get_running_loop().time(), self._redials.may
        return [p for p in self.node.present if p.instance_id in self._open or may(p.instance_id, now)]

    def _doubtful(self) -> set[str]:
        """Peers that are chosen last: suspected, late, or out of reach a moment ago."""
        now = asyncio.get_running_loop().time()
        self._lost_at = {name: at for name, at in self._lost_at.items() if now - at < _UNREACHABLE_S}
        late = (name for name, keeper in self._open.items() if keeper.link.is_late)
        return {*self.node.suspects, *self._lost_at, *late}

    def _count_gaps(self, stream: ReplicatedStream) -> None:
        """Events that went out although no keeper had them."""
        gaps = stream.ahead.gaps - stream.counted_gaps
        if gaps:
            stream.counted_gaps += gaps
            self.node.metrics.gaps.inc(gaps)
            _log.debug("stream %s: %d events are at no keeper", stream.ahead.stream, gaps)

    def replace_late(self, streams: Iterable[ReplicatedStream]) -> None:
        """Some copies of these are late."""
        peers = self._reachable()
        for stream in streams:
            if stream.handle in self._streams:
                self._review(stream, peers)

    # keepers

    def append(self, stream: ReplicatedStream, first: int, lines: bytes | bytearray, seq: int) -> None:
        """Send new lines, number `first` to `seq`, to all copies of a stream."""
        message = encode(APPEND, stream.handle, first, lines)
        for name, copy in stream.ahead.copies.items():
            keeper = self._open.get(name)
            if keeper is not None:
                keeper.link.send(message, _Receipt(stream, copy, seq))
            else:
                self._send(name, message, _Receipt(stream, copy, seq))

    def _perform(self, stream: ReplicatedStream, instructions: Iterable[Command]) -> None:
        if stream.ahead.unkept and not stream.is_said_unkept:
            self._count_unkept(stream)
        for instruction in instructions:
            _log.debug("stream %s: %s, of %s", stream.ahead.stream, instruction, list(stream.ahead.copies))
            match instruction:
                case OpenReplica(copy):
                    ahead = stream.ahead
                    self._send(copy.keeper, _open_message(stream.handle, ahead), _Receipt(stream, copy, ahead.seq))
                case DropReplica(keeper):
                    self._send(keeper, encode(DROP, stream.handle))

    def _send(self, keeper: str, message: bytes, receipt: object = None) -> None:
        open_ = self._open.get(keeper)
        if open_ is None and receipt is None:
            return  # it has nothing of the stream any more
        if open_ is None:
            peer = self.node.member(keeper)
            if peer is None:
                asyncio.get_running_loop().call_soon(self.lost, keeper, "unknown")
                return
            open_ = self._open[keeper] = _ReplicaConnection(self, keeper, self._links, peer.status.peer)
        open_.link.send(message, receipt)

    def refused(self, keeper: str, handle: int, why: str) -> None:
        """The keeper would not take something of this stream."""
        stream = self._streams.get(handle)
        if stream is None:
            return
        why = why if why in REASONS else UNREADABLE  # of a later version
        _log.info("stream %s: keeper %s refuses: %s", stream.ahead.stream, keeper, why)
        self._perform(stream, stream.ahead.refused(keeper, why))
        stream.release()

    def lost(self, keeper: str, why: str, worked_s: float = 0.0) -> None:
        """The link to the keeper is gone: its copies are to be had elsewhere. worked_s: as `ReconnectBackoff.ended`."""
        self._open.pop(keeper, None)
        _log.info("keeper %s is lost: %s", keeper, why)
        self.node.metrics.keeper_losses.labels(why).inc()
        self._lost_at[keeper] = now = asyncio.get_running_loop().time()
        self._redials.ended(keeper, now, worked_s=worked_s, chance=self._chance())
        self.node.lost(keeper, why)
        for stream in list(self._streams.values()):
            if keeper in stream.ahead.copies:
                stream.ahead.lost(keeper)
                self._review(stream)

    # the ends of streams

    def close(self, stream: ReplicatedStream, how: CloseReason) -> None:
        """See ReplicatedStream. Where no keeper has all of it, or its client may come back, this node keeps it, too."""
        if self._streams.pop(stream.handle, None) is None:
            return
        ahead = stream.ahead
        self._count_gaps(stream)
        if (said := _end_message(stream.handle, how)) is not None:
            for keeper in ahead.copies:
                self._send(keeper, said)
        if _should_store_locally(ahead, how):
            self._keep_here(ahead, how)

    def _keep_here(self, ahead: ReplicatedLog, how: CloseReason) -> None:
        own, stream, epoch = self.own, ahead.stream, ahead.epoch
        try:
            own.open(stream, epoch, ahead.opening, ahead.seq, bytes(ahead.log), self.node.clock(), ahead.client)
        except ReplicaRefused as refused:
            _log.info("stream %s: not kept here: %s", stream, refused.why)
            return
        own.copied(stream, epoch, ahead.synced)
        if how in _END_REASONS:
            own.end(stream, epoch, _END_REASONS[how])

    async def send_away(self, within_s: float) -> None:
        """This node goes: each journal that somebody may still need gets a copy elsewhere in its place."""
        sent = [receipt for name, journal in self.own.unfinished() for receipt in self._copy_on(name, journal, 1)]
        if sent:
            await asyncio.wait(sent, timeout=within_s)

    def _copy_orphans(self) -> None:
        for name, journal in self.own.orphans(self.node.clock()):
            alive = {peer.instance_id for peer in self.node.present}
            self._copy_on(name, journal, self._wanted - len(journal.copied_to & alive))

    def _copy_on(self, name: str, journal: JournalReplica, copies: int) -> list[asyncio.Future[None]]:
        """Send a journal that is kept here to the best peers that have it not from here; their receipts."""
        peers = self._reachable()
        having = [peer.pool for peer in peers if peer.instance_id in journal.copied_to]
        new = [peer for peer in peers if peer.instance_id not in journal.copied_to]
        ahead = ReplicatedLog(
            name, journal.written_in, journal.opening, log=journal.lines, seq=journal.seq, client=journal.client
        )
        receipts = []
        for peer in choose_replicas(name, new, [self.node.pool, *having], None, self._doubtful())[: max(0, copies)]:
            journal.copied_to.add(peer.instance_id)
            receipts.append(asyncio.get_running_loop().create_future())
            self._send(peer.instance_id, _open_message(next(self._handles), ahead), receipts[-1])
        return receipts

    def shut(self) -> None:
        for keeper in self._open.values():
            keeper.link.close()
        self._open.clear()


_END_REASONS = {CloseReason.FINISHED: EndReason.FINISHED, CloseReason.ABANDONED: EndReason.ABANDONED}


def _end_message(handle: int, how: CloseReason) -> bytes | None:
    """What the keepers of a stream are sent at its end."""
    if how is CloseReason.UNHEARD_OF:
        return encode(DROP, handle)
    return encode(FINISH, handle, _END_REASONS[how].value) if how in _END_REASONS else None


def _should_store_locally(ahead: ReplicatedLog, how: CloseReason) -> bool:
    """Whether the journal of a stream that has ended here is to be kept here."""
    if ahead.fenced or how is CloseReason.UNHEARD_OF or (ahead.unkept and how is not CloseReason.MOVES):
        return False
    copies = {CloseReason.FINISHED: 1, CloseReason.ABANDONED: REPLICATION_FACTOR}.get(how)
    return copies is None or len(ahead.synced) < copies


def _open_message(handle: int, ahead: ReplicatedLog) -> bytes:
    opened = OpenMessage(ahead.stream, ahead.epoch, ahead.client, ahead.opening, bytes(ahead.log))
    return encode_open(handle, opened, ahead.seq)
