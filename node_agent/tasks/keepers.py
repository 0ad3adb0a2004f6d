"""The owner's side of all journals: this node's streams, their copies at peers, and one connection to each keeper.

The decisions are `core/write_ahead`'s for each stream; here are the connections and the timer.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import orjson

from node_agent.contract.states import NodeState
from node_agent.core.addresses import parse_address
from node_agent.core.journal_wire import APPEND, FINISH, FORGET, OPEN, encode
from node_agent.core.keeper import Keeper, KeptJournal, Refused
from node_agent.core.nodes import NodeStatus, Pool
from node_agent.core.placement import choose_keepers
from node_agent.core.write_ahead import WANTED, Copy, Forget, Instruction, Open, WriteAhead
from node_agent.ports import JournalLink, JournalLinks
from node_agent.tasks.kept_stream import KeptStream
from node_agent.tasks.node import Node

REVIEW_EVERY_S = 0.25
_FIT = frozenset({NodeState.READY, NodeState.STARTING})
"""States of peers that may stay keepers."""

_NOT_MADE = frozenset({"refused", "unreachable", "unknown"})
_AGAIN_S = 1.0
"""Between two tries to reach a peer that refused: it does so in no time, and would be asked all the time. A link that
only broke is made anew at once."""

_OUT_OF_REACH_S = 5.0
"""How long a peer whose link broke is not asked to keep anything, where another can: a network may be cut between two
nodes that all others reach."""

_log = logging.getLogger(__name__)


class _Receipt(NamedTuple):
    """The copy has all lines up to `seq` once its keeper has dealt with the message."""

    stream: KeptStream
    copy: Copy
    seq: int


class _Keeper:
    """A peer that keeps journals of this node, and the link to it. A LinkOwner."""

    def __init__(self, keepers: Keepers, name: str, links: JournalLinks, address: str) -> None:
        self._keepers = keepers
        self._name = name
        self.link: JournalLink = links.connect(parse_address(address), self)

    def acknowledged(self, receipts: Sequence[_Receipt | asyncio.Future[None] | None]) -> None:
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
        self._keepers.lost(self._name, why)


class Keepers:
    """All streams that this node owns. wanted: copies of each, 0 for none."""

    def __init__(self, node: Node, links: JournalLinks, own: Keeper, wanted: int = WANTED) -> None:
        self.node = node
        self.own = own
        self._links = links
        self._wanted = wanted
        self._handles = itertools.count(1)
        self._streams: dict[int, KeptStream] = {}
        self._open: dict[str, _Keeper] = {}
        self._lost_at: dict[str, float] = {}  # peers whose link broke lately, by loop time
        self._refused_at: dict[str, float] = {}  # those of them to which none could be made

    def begin(self, ahead: WriteAhead, engine: Pool | None, *, durable: bool = True) -> KeptStream:
        """Take a stream's journal in, and send it to its keepers. durable: whether the client wants copies."""
        ahead.wanted = self._wanted if durable else 0
        stream = KeptStream(self, ahead, next(self._handles), engine)
        self._streams[stream.handle] = stream
        self._review(stream)
        return stream

    async def run(self) -> None:
        """Look after all copies, and let old journals of others go; until cancelled."""
        while True:
            await asyncio.sleep(REVIEW_EVERY_S)
            self._review_all()
            self._copy_orphans()
            self.own.expire(self.node.clock())
            self.node.metrics.kept_bytes.set(self.own.held_bytes)

    def _review_all(self) -> None:
        """Those streams whose copies are not as they should be, or are at peers that should not have them any more."""
        peers = self._reachable()
        fit = {peer.instance_id for peer in peers if peer.state in _FIT}
        for stream in list(self._streams.values()):
            self._count_gaps(stream)
            if not (stream.ahead.is_settled and fit >= stream.ahead.copies.keys()):
                self._review(stream, peers)

    def _review(self, stream: KeptStream, peers: Sequence[NodeStatus] | None = None) -> None:
        ahead = stream.ahead
        if not ahead.wanted:
            return
        if peers is None:
            peers = self._reachable()
        fit = [p.instance_id for p in peers if p.state in _FIT]
        staying = [p.pool for p in peers if p.instance_id in ahead.copies and p.instance_id in fit]
        chosen = choose_keepers(ahead.stream, peers, [self.node.pool, *staying], stream.engine, self._doubtful())
        self._perform(stream, ahead.review([peer.instance_id for peer in chosen], fit))
        stream.release()

    def _reachable(self) -> list[NodeStatus]:
        """Peers that may be asked to keep something: one that was out of reach is asked again, but not at once."""
        now = asyncio.get_running_loop().time()
        self._refused_at = {name: at for name, at in self._refused_at.items() if now - at < _AGAIN_S}
        return [peer for peer in self.node.present if peer.instance_id not in self._refused_at]

    def _doubtful(self) -> set[str]:
        """Peers that are chosen last: suspected, late, or out of reach a moment ago."""
        now = asyncio.get_running_loop().time()
        self._lost_at = {name: at for name, at in self._lost_at.items() if now - at < _OUT_OF_REACH_S}
        late = (name for name, keeper in self._open.items() if keeper.link.is_late)
        return {*self.node.suspects, *self._lost_at, *late}

    def _count_gaps(self, stream: KeptStream) -> None:
        """Events that went out although no keeper had them."""
        gaps = stream.ahead.gaps - stream.counted_gaps
        if gaps:
            stream.counted_gaps += gaps
            self.node.metrics.gaps.inc(gaps)
            _log.debug("stream %s: %d events are at no keeper", stream.ahead.stream, gaps)

    def replace_late(self, streams: Iterable[KeptStream]) -> None:
        """Some copies of these are late."""
        peers = self._reachable()
        for stream in streams:
            if stream.handle in self._streams:
                self._review(stream, peers)

    # keepers

    def append(self, stream: KeptStream, first: int, lines: bytes | bytearray, seq: int) -> None:
        """Send new lines, number `first` to `seq`, to all copies of a stream."""
        message = encode(APPEND, stream.handle, first, lines)
        for name, copy in stream.ahead.copies.items():
            keeper = self._open.get(name)
            if keeper is not None:
                keeper.link.send(message, _Receipt(stream, copy, seq))
            else:
                self._send(name, message, _Receipt(stream, copy, seq))

    def _perform(self, stream: KeptStream, instructions: Iterable[Instruction]) -> None:
        for instruction in instructions:
            _log.debug("stream %s: %s, of %s", stream.ahead.stream, instruction, list(stream.ahead.copies))
            match instruction:
                case Open(copy):
                    ahead = stream.ahead
                    self._send(copy.keeper, _opened(stream.handle, ahead), _Receipt(stream, copy, ahead.seq))
                case Forget(keeper):
                    self._send(keeper, encode(FORGET, stream.handle))

    def _send(self, keeper: str, message: bytes, receipt: object = None) -> None:
        open_ = self._open.get(keeper)
        if open_ is None:
            peer = self.node.member(keeper)
            if peer is None:
                asyncio.get_running_loop().call_soon(self.lost, keeper, "unknown")
                return
            open_ = self._open[keeper] = _Keeper(self, keeper, self._links, peer.status.peer)
        open_.link.send(message, receipt)

    def refused(self, keeper: str, handle: int, why: str) -> None:
        """The keeper would not take something of this stream."""
        stream = self._streams.get(handle)
        if stream is None:
            return
        _log.info("stream %s: keeper %s refuses: %s", stream.ahead.stream, keeper, why)
        self._perform(stream, stream.ahead.refused(keeper, why))
        stream.release()

    def lost(self, keeper: str, why: str) -> None:
        """The link to the keeper is gone: its copies are to be had elsewhere."""
        self._open.pop(keeper, None)
        _log.info("keeper %s is lost: %s", keeper, why)
        self.node.metrics.keeper_losses.labels(why).inc()
        self._lost_at[keeper] = now = asyncio.get_running_loop().time()
        if why in _NOT_MADE:
            self._refused_at[keeper] = now
        self.node.lost(keeper, why)
        for stream in list(self._streams.values()):
            if keeper in stream.ahead.copies:
                stream.ahead.lost(keeper)
                self._review(stream)

    # the ends of streams

    def close(self, stream: KeptStream, *, finished: bool) -> None:
        """See KeptStream. Where no keeper has all of it, or its client may come back, this node keeps it, too."""
        if self._streams.pop(stream.handle, None) is None:
            return
        ahead = stream.ahead
        self._count_gaps(stream)
        if finished:
            for keeper in ahead.copies:
                self._send(keeper, encode(FINISH, stream.handle))
        if not ahead.fenced and not (finished and ahead.synced):
            self._keep_here(ahead, finished)

    def _keep_here(self, ahead: WriteAhead, finished: bool) -> None:
        try:
            self.own.open(ahead.stream, ahead.epoch, ahead.opening, ahead.seq, bytes(ahead.log), self.node.clock())
        except Refused as refused:
            _log.info("stream %s: not kept here: %s", ahead.stream, refused.why)
            return
        self.own.copied(ahead.stream, ahead.epoch, ahead.synced)
        if finished:
            self.own.finish(ahead.stream, ahead.epoch)

    async def send_away(self, within_s: float) -> None:
        """This node goes: each journal that somebody may still need gets a copy elsewhere in its place."""
        sent = [receipt for name, journal in self.own.unfinished() for receipt in self._copy_on(name, journal, 1)]
        if sent:
            await asyncio.wait(sent, timeout=within_s)

    def _copy_orphans(self) -> None:
        for name, journal in self.own.orphans(self.node.clock()):
            alive = {peer.instance_id for peer in self.node.present}
            self._copy_on(name, journal, self._wanted - len(journal.copied_to & alive))

    def _copy_on(self, name: str, journal: KeptJournal, copies: int) -> list[asyncio.Future[None]]:
        """Send a journal that is kept here to the best peers that have it not from here; their receipts."""
        peers = self._reachable()
        having = [peer.pool for peer in peers if peer.instance_id in journal.copied_to]
        new = [peer for peer in peers if peer.instance_id not in journal.copied_to]
        ahead = WriteAhead(name, journal.written_in, journal.opening, log=journal.lines, seq=journal.seq)
        receipts = []
        for peer in choose_keepers(name, new, [self.node.pool, *having], None, self._doubtful())[: max(0, copies)]:
            journal.copied_to.add(peer.instance_id)
            receipts.append(asyncio.get_running_loop().create_future())
            self._send(peer.instance_id, _opened(next(self._handles), ahead), receipts[-1])
        return receipts

    def shut(self) -> None:
        for keeper in self._open.values():
            keeper.link.close()
        self._open.clear()


def _opened(handle: int, ahead: WriteAhead) -> bytes:
    named = orjson.dumps({"stream": ahead.stream, "epoch": ahead.epoch.to_json()})
    return encode(OPEN, handle, ahead.seq, b"\n".join((named, ahead.opening, bytes(ahead.log))))
