"""The owner's side of all journals: this node's streams, their copies at peers, and one connection to each keeper.

The decisions are `core/write_ahead`'s for each stream; here are the connections, the timers and the waiting.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable, Sequence

import orjson

from node_agent.contract.errors import StaleEpoch
from node_agent.contract.states import NodeState
from node_agent.core.addresses import parse_address
from node_agent.core.epochs import Epoch
from node_agent.core.fleet import Pool
from node_agent.core.journal_wire import ACK, APPEND, FINISH, FORGET, OPEN, REFUSED, Message, encode
from node_agent.core.keeper import Keeper, KeptJournal, Refused
from node_agent.core.placement import choose_keepers
from node_agent.core.write_ahead import LAG_S, WANTED, Append, Forget, Instruction, Open, WriteAhead
from node_agent.ports import JournalLink, JournalLinks
from node_agent.tasks.node import Node

REVIEW_EVERY_S = 0.25
CONFIRM_WITHIN_S = 2.0
"""How long a new owner waits for one keeper to take its word, before it tells the client anything."""

_GONE = frozenset({"refused", "unreachable"})
_log = logging.getLogger(__name__)


class KeptStream:
    """One stream's journal, at its owner. avoid: the pools of its entry and its engine, as they change."""

    def __init__(self, keepers: Keepers, ahead: WriteAhead, handle: int, avoid: list[Pool]) -> None:
        self.ahead = ahead
        self.handle = handle
        self.avoid = avoid
        self._keepers = keepers
        self._waiter: asyncio.Future[None] | None = None
        self._clock = asyncio.get_running_loop().time

    @property
    def epoch(self) -> Epoch:
        return self.ahead.epoch

    async def write(self, lines: Sequence[bytes]) -> None:
        """Returns when the events of these lines may be delivered. Raises StaleEpoch when they never may."""
        ahead, keepers = self.ahead, self._keepers
        keepers.perform(self, ahead.write(lines, self._clock()), lines)
        until = ahead.wait_until(self._clock())
        while until is not None and not ahead.fenced:
            await self._wait(until)
            until = ahead.wait_until(self._clock())
        self._check_owner()
        gaps = ahead.gaps
        ahead.deliver()
        if ahead.gaps != gaps:
            keepers.node.metrics.gaps.inc()
            _log.debug("stream %s: event %d is at no keeper: %s", ahead.stream, ahead.seq, ahead.copies)

    async def confirm(self) -> None:
        """Wait until a keeper takes this owner's word, where there is any. Raises StaleEpoch."""
        give_up_at = self._clock() + CONFIRM_WITHIN_S
        while not self.ahead.fenced and self.ahead.copies and not self.ahead.synced and self._clock() < give_up_at:
            await self._wait(give_up_at)
        self._check_owner()

    def _check_owner(self) -> None:
        if self.ahead.fenced:
            raise StaleEpoch("another node owns this stream now")

    async def _wait(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_at(until, self.wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fence(self) -> None:
        """Somebody else takes the stream over."""
        self.ahead.fenced = True
        self.wake()

    def close(self, *, finished: bool) -> None:
        """This node is done with the stream: its client has all of it, or is gone and may come back for the rest."""
        self._keepers.close(self, finished=finished)


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
        self._open: dict[str, JournalLink] = {}

    def begin(self, ahead: WriteAhead, avoid: list[Pool], *, durable: bool = True) -> KeptStream:
        """Take a stream's journal in, and send it to its keepers. durable: whether the client wants copies."""
        ahead.wanted = self._wanted if durable else 0
        ahead.lag_s = self._lag_s
        stream = KeptStream(self, ahead, next(self._handles), avoid)
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
        if not stream.ahead.wanted:
            return
        peers = self.node.fleet.alive(self.node.clock())
        ranked = [peer.instance_id for peer in choose_keepers(stream.ahead.stream, peers, stream.avoid)]
        fit = [p.instance_id for p in peers if p.state in (NodeState.READY, NodeState.STARTING)]
        now = asyncio.get_running_loop().time()
        self.perform(stream, stream.ahead.review(ranked, fit, now), ())
        stream.wake()

    def perform(self, stream: KeptStream, instructions: Iterable[Instruction], lines: Sequence[bytes]) -> None:
        """Send what the machine says; lines: those of an Append."""
        append = b""
        for instruction in instructions:
            if not isinstance(instruction, Append):
                _log.debug("stream %s: %s, of %s", stream.ahead.stream, instruction, stream.ahead.copies)
            match instruction:
                case Append(keeper, first):
                    append = append or encode(Message(APPEND, stream.handle, first, b"".join(lines)))
                    self._send(keeper, append)
                case Open(keeper):
                    self._send(keeper, _opened(stream.handle, stream.ahead))
                case Forget(keeper):
                    self._send(keeper, encode(Message(FORGET, stream.handle, 0)))

    def _send(self, keeper: str, message: bytes) -> None:
        link = self._open.get(keeper)
        if link is None:
            peer = self.node.fleet.peers.get(keeper)
            if peer is None:
                asyncio.get_running_loop().call_soon(self._lost, keeper, "unknown")
                return
            link = self._links.connect(
                parse_address(peer.address),
                lambda message: self._received(keeper, message),
                lambda why: self._lost(keeper, why),
            )
            self._open[keeper] = link
        link.send(message)

    def _received(self, keeper: str, message: Message) -> None:
        stream = self._streams.get(message.handle)
        if stream is None:
            return
        now = asyncio.get_running_loop().time()
        if message.kind == ACK:
            stream.ahead.acknowledged(keeper, message.number, now)
        elif message.kind == REFUSED:
            why = message.body.decode("ascii", "replace")
            _log.info("stream %s: keeper %s refuses: %s", stream.ahead.stream, keeper, why)
            self.perform(stream, stream.ahead.refused(keeper, why, now), ())
        stream.wake()

    def _lost(self, keeper: str, why: str) -> None:
        self._open.pop(keeper, None)
        _log.info("keeper %s is lost: %s", keeper, why)
        self.node.metrics.keeper_losses.labels(why).inc()
        if why in _GONE:
            self.node.fleet.failed(keeper)
        for stream in list(self._streams.values()):
            if keeper in stream.ahead.copies:
                stream.ahead.lost(keeper)
                self._review(stream)

    def close(self, stream: KeptStream, *, finished: bool) -> None:
        """See KeptStream. Where no keeper has all of it, this node keeps it itself."""
        if self._streams.pop(stream.handle, None) is None:
            return
        ahead = stream.ahead
        if finished:
            for keeper in ahead.copies:
                self._send(keeper, encode(Message(FINISH, stream.handle, 0)))
        if not ahead.fenced and not (finished and ahead.synced):
            self._keep_here(ahead, finished)

    def _keep_here(self, ahead: WriteAhead, finished: bool) -> None:
        try:
            self.own.open(ahead.stream, ahead.epoch, ahead.opening, ahead.seq, bytes(ahead.log), self.node.clock())
        except Refused as refused:
            _log.info("stream %s: not kept here: %s", ahead.stream, refused.why)
            return
        if finished:
            self.own.finish(ahead.stream, ahead.epoch)

    def send_away(self) -> None:
        """This node goes: give the journals that it keeps for others, and that somebody may need, to other peers."""
        for stream, journal in self.own.unfinished():
            if journal.epoch == journal.written_in:  # else its new owner sends it where it wants it
                self._copy_on(stream, journal, 1)

    def _copy_orphans(self) -> None:
        for stream, journal in self.own.orphans(self.node.clock()):
            self._copy_on(stream, journal, self._wanted)

    def _copy_on(self, stream: str, journal: KeptJournal, copies: int) -> None:
        """Send a journal that is kept here to the best peers, those that had it from here left out."""
        peers = choose_keepers(stream, self.node.fleet.alive(self.node.clock()), [])
        ahead = WriteAhead(stream, journal.epoch, journal.opening, log=journal.lines, seq=journal.seq)
        for peer in peers[:copies]:
            if peer.instance_id not in journal.copied_to:
                journal.copied_to.add(peer.instance_id)
                self._send(peer.instance_id, _opened(next(self._handles), ahead))

    def shut(self) -> None:
        for link in self._open.values():
            link.close()
        self._open.clear()


def _opened(handle: int, ahead: WriteAhead) -> bytes:
    named = orjson.dumps({"stream": ahead.stream, "epoch": ahead.epoch.to_json()})
    return encode(Message(OPEN, handle, ahead.seq, b"\n".join((named, ahead.opening, bytes(ahead.log)))))
