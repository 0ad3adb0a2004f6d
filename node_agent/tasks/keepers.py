"""The owner's side of all journals: this node's streams, their copies at peers, and one connection to each keeper.

The decisions are `core/write_ahead`'s for each stream; here are the connections and the timer.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson

from node_agent.contract.states import NodeState
from node_agent.core.addresses import parse_address
from node_agent.core.fleet import Pool
from node_agent.core.journal_wire import APPEND, FINISH, FORGET, OPEN, encode
from node_agent.core.keeper import Keeper, KeptJournal, Refused
from node_agent.core.placement import choose_keepers
from node_agent.core.write_ahead import LAG_S, WANTED, Copy, Forget, Instruction, Open, WriteAhead
from node_agent.ports import JournalLink, JournalLinks
from node_agent.tasks.kept_stream import KeptStream
from node_agent.tasks.node import Node

REVIEW_EVERY_S = 0.25
_GONE = frozenset({"refused", "unreachable"})
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Receipt:
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
        now = asyncio.get_running_loop().time()
        for receipt in receipts:
            if isinstance(receipt, _Receipt):
                receipt.stream.ahead.acknowledged(receipt.copy, receipt.seq, now)
                receipt.stream.release()
            elif receipt is not None and not receipt.done():
                receipt.set_result(None)

    def refused(self, handle: int, why: str) -> None:
        self._keepers.refused(self._name, handle, why)

    def lost(self, why: str) -> None:
        self._keepers.lost(self._name, why)


class Keepers:
    """All streams that this node owns. wanted: copies of each, 0 for none; lag_s: how long an event may wait."""

    def __init__(
        self, node: Node, links: JournalLinks, own: Keeper, wanted: int = WANTED, lag_s: float = LAG_S
    ) -> None:
        self.node = node
        self.own = own
        self._links = links
        self._wanted = wanted
        self._lag_s = lag_s
        self._handles = itertools.count(1)
        self._streams: dict[int, KeptStream] = {}
        self._open: dict[str, _Keeper] = {}
        self._due: list[tuple[float, int, KeptStream]] = []  # a heap: when to look at which stream
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, ahead: WriteAhead, engine: Pool | None, *, durable: bool = True) -> KeptStream:
        """Take a stream's journal in, and send it to its keepers. durable: whether the client wants copies."""
        ahead.wanted = self._wanted if durable else 0
        ahead.lag_s = self._lag_s
        stream = KeptStream(self, ahead, next(self._handles), engine)
        self._streams[stream.handle] = stream
        self._review(stream)
        return stream

    async def run(self) -> None:
        """Look after all copies, and let old journals of others go; until cancelled."""
        while True:
            await asyncio.sleep(REVIEW_EVERY_S)
            for stream in list(self._streams.values()):
                self._review(stream)
            self._copy_orphans()
            self.own.expire(self.node.clock())
            self.node.metrics.kept_bytes.set(self.own.held_bytes)

    def _review(self, stream: KeptStream) -> None:
        ahead = stream.ahead
        if not ahead.wanted:
            return
        peers = self.node.fleet.alive(self.node.clock())
        fit = [p.instance_id for p in peers if p.state in (NodeState.READY, NodeState.STARTING)]
        staying = [p.pool for p in peers if p.instance_id in ahead.copies and p.instance_id in fit]
        chosen = choose_keepers(ahead.stream, peers, [self.node.pool, *staying], stream.engine)
        now = asyncio.get_running_loop().time()
        self._perform(stream, ahead.review([peer.instance_id for peer in chosen], fit, now))
        stream.release()

    # lines and their time

    def append(self, stream: KeptStream, first: int, lines: Sequence[bytes]) -> None:
        """Send new lines to all copies of a stream."""
        ahead = stream.ahead
        if not ahead.copies:
            return
        body = lines[0] if len(lines) == 1 else b"".join(lines)
        message = encode(APPEND, stream.handle, first, body)
        for name, copy in list(ahead.copies.items()):
            self._send(name, message, _Receipt(stream, copy, ahead.seq))

    def time(self, stream: KeptStream) -> None:
        """See that no event of the stream waits for longer than it may."""
        until = stream.ahead.wait_until()
        if until is None:
            return
        stream.is_timed = True
        heapq.heappush(self._due, (until, stream.handle, stream))
        if self._timer is None or self._due[0][2] is stream:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(self._due[0][0], self._on_timer) if self._due else None

    def _on_timer(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._due and self._due[0][0] <= now:
            _, _, stream = heapq.heappop(self._due)
            stream.is_timed = False
            stream.expire(now)
            self.time(stream)
        self._set_timer()

    def count_gap(self, stream: KeptStream) -> None:
        """An event goes out that no keeper has."""
        self.node.metrics.gaps.inc()
        _log.debug("stream %s: event %d is at no keeper", stream.ahead.stream, stream.ahead.delivered)

    # keepers

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
            peer = self.node.fleet.peers.get(keeper)
            if peer is None:
                asyncio.get_running_loop().call_soon(self.lost, keeper, "unknown")
                return
            open_ = self._open[keeper] = _Keeper(self, keeper, self._links, peer.address)
        open_.link.send(message, receipt)

    def refused(self, keeper: str, handle: int, why: str) -> None:
        """The keeper would not take something of this stream."""
        stream = self._streams.get(handle)
        if stream is None:
            return
        _log.info("stream %s: keeper %s refuses: %s", stream.ahead.stream, keeper, why)
        now = asyncio.get_running_loop().time()
        self._perform(stream, stream.ahead.refused(keeper, why, now))
        stream.release()

    def lost(self, keeper: str, why: str) -> None:
        """The link to the keeper is gone: its copies are to be had elsewhere."""
        self._open.pop(keeper, None)
        _log.info("keeper %s is lost: %s", keeper, why)
        self.node.metrics.keeper_losses.labels(why).inc()
        if why in _GONE:
            self.node.fleet.failed(keeper)
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
            self._copy_on(name, journal, self._wanted - len(journal.copied_to))

    def _copy_on(self, name: str, journal: KeptJournal, copies: int) -> list[asyncio.Future[None]]:
        """Send a journal that is kept here to the best peers that have it not from here; their receipts."""
        peers = self.node.fleet.alive(self.node.clock())
        having = [peer.pool for peer in peers if peer.instance_id in journal.copied_to]
        new = [peer for peer in peers if peer.instance_id not in journal.copied_to]
        ahead = WriteAhead(name, journal.written_in, journal.opening, log=journal.lines, seq=journal.seq)
        receipts = []
        for peer in choose_keepers(name, new, [self.node.pool, *having])[: max(0, copies)]:
            journal.copied_to.add(peer.instance_id)
            receipts.append(asyncio.get_running_loop().create_future())
            self._send(peer.instance_id, _opened(next(self._handles), ahead), receipts[-1])
        return receipts

    def shut(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for keeper in self._open.values():
            keeper.link.close()
        self._open.clear()


def _opened(handle: int, ahead: WriteAhead) -> bytes:
    named = orjson.dumps({"stream": ahead.stream, "epoch": ahead.epoch.to_json()})
    return encode(OPEN, handle, ahead.seq, b"\n".join((named, ahead.opening, bytes(ahead.log))))
