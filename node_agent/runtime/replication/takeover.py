"""Taking a stream over: find its journal at the keepers, fence whoever owned it, and make it again from there.

The keepers are asked in the order in which every node ranks them: the first four at once, then, where views of the
fleet differ, every other peer that this node ever heard of, once. Whoever has a copy refuses the old owner from then
on. That nobody knows the stream is said only when everybody was heard; else the client is to ask again.

Where none of them has what the client needs, a node that went may have left it (`runtime/replication/checkpointer`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import orjson

from node_agent.contract.errors import RequestRejected, TransientError
from node_agent.core.common.address import parse_address
from node_agent.core.common.request_auth import AUTH_HEADER, sign
from node_agent.core.journal.epochs import Epoch, EpochRange, EventId, epoch_from_json, was_sent_by
from node_agent.core.journal.stream_header import StreamHeader, read_opening
from node_agent.core.replication import replica_store as keeping
from node_agent.core.replication.placement import RANKS, rendezvous_rank
from node_agent.core.replication.replica_store import JournalSnapshot, ReplicaStore
from node_agent.core.replication.replicated_log import ReplicatedLog
from node_agent.core.streams.factory import Machine, restore_stream
from node_agent.ports import ExchangeLost, Http
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.replication.checkpointer import Checkpointer

TAKE_TARGET = "/peer/v1/take"
_WITHIN_S = 1.0
_MOMENT_S = 0.1
"""For the other keepers, once one was found that has all that the client has: they may be gone with the entry."""

_MAX_JOURNAL_BYTES = 2 * keeping.MAX_JOURNAL_BYTES
_MAX_AT_ONCE = 32
_log = logging.getLogger(__name__)


class JournalBehind(TransientError):
    """The copies that can be reached end before what the client has."""


@dataclass(frozen=True)
class Takeover:
    """A stream as its new owner has it; replay: the events that the client lacks; durable: as its client wants it."""

    machine: Machine
    ahead: ReplicatedLog
    replay: bytes
    request_id: str | None
    durable: bool


@dataclass(frozen=True)
class _Found:
    """silent: how many peers did not answer."""

    journals: Sequence[JournalSnapshot]
    expired: bool
    silent: int


class Takeovers:
    """give_up: lets go of a stream that this node owns itself, so that its journal is in `own`."""

    def __init__(
        self,
        node: NodeContext,
        client: Http,
        key: bytes,
        own: ReplicaStore,
        give_up: Callable[[str], None],
        checkpointer: Checkpointer,
    ) -> None:
        self._node = node
        self._client = client
        self._key = key
        self._own = own
        self._give_up = give_up
        self._checkpointer = checkpointer
        self._gate = asyncio.Semaphore(_MAX_AT_ONCE)

    async def take(self, event: EventId) -> Takeover:
        """Own the stream. Raises RequestRejected (404, 410), JournalBehind."""
        owner = f"{self._node.instance_id}+{secrets.token_hex(4)}"
        found = await self._find(event, owner)
        _log.debug(
            "stream %s for %s: %d journals found, %d peers silent",
            event.stream, owner, len(found.journals), found.silent,
        )  # fmt: skip
        if not found.journals:
            if found.expired:
                message = f"Stream {event.stream} has expired: its journal is kept for {keeping.LIFE_S:.0f} s."
                raise RequestRejected(410, "stream_expired", message)
            if not self._node.members.discovery_done:
                raise JournalBehind("This node does not know the others yet; ask again, or another node.")
            if found.silent:
                raise JournalBehind(f"Nobody who answers knows stream {event.stream}, but {found.silent} nodes do not.")
            raise RequestRejected(404, "stream_not_found", f"No node knows a stream {event.stream}.")
        journal = keeping.newest(found.journals)
        number = max(one.number for one in found.journals)
        try:
            return _taken_over(event, journal, Epoch(number, owner))
        except ValueError as error:
            _log.error("stream %s cannot be made again: %s", event.stream, error)
            raise RequestRejected(
                410, "stream_unreadable", f"The journal of this stream is damaged: {error}."
            ) from error

    def take_here(self, stream: str, owner: str) -> JournalSnapshot | None:
        """This node's own copy, or the stream itself, for a new owner."""
        self._give_up(stream)
        return self._own.take(stream, owner, self._node.clock())

    def answer(self, raw: bytes) -> tuple[int, bytes]:
        """A peer's question for a journal: (status, body). Raises ValueError, KeyError where it is none."""
        asked = orjson.loads(raw)
        stream = str(asked["stream"])
        taken = self.take_here(stream, str(asked["owner"]))
        if taken is None:
            return 404, orjson.dumps({"expired": self._own.has_expired(stream)})
        named = {"written_in": taken.written_in.to_json(), "number": taken.number, "seq": taken.seq}
        return 200, b"\n".join((orjson.dumps(named), taken.opening, taken.lines))

    async def _find(self, event: EventId, owner: str) -> _Found:
        stream = event.stream
        here = self.take_here(stream, owner)
        members = self._node.members
        ranked = [(node.instance_id, node.peer) for node in rendezvous_rank(stream, self._node.present)]
        near = await self._ask_all(ranked[:RANKS], event, owner, here)
        if any(_has(journal, event) for journal in near.journals):
            return near
        known = dict([*members.not_joined, *((node.instance_id, node.peer) for node in members.view.known)])
        asked = dict(ranked[:RANKS])
        others = [(name, address) for name, address in known.items() if name not in asked]
        far = await self._ask_all(others, event, owner, None)
        expired = near.expired or far.expired or self._own.has_expired(stream)
        found = _Found([*near.journals, *far.journals], expired, near.silent + far.silent)
        return found if any(_has(journal, event) for journal in found.journals) else await self._with_left(found, event)

    async def _with_left(self, found: _Found, event: EventId) -> _Found:
        """What was found, and what a node that went may have left."""
        left = await self._checkpointer.find(event.stream)
        if isinstance(left, JournalSnapshot):
            return _Found([*found.journals, left], found.expired, found.silent)
        return _Found(found.journals, found.expired or left is True, found.silent + (left is None))

    async def _ask_all(
        self, peers: Sequence[tuple[str, str]], event: EventId, owner: str, here: JournalSnapshot | None
    ) -> _Found:
        """Their answers, and this node's own. Once one has what the client needs, the others get a moment only."""
        found, expired, silent = [here] if here is not None else [], False, 0
        asking = {asyncio.ensure_future(self._ask(name, address, event.stream, owner)) for name, address in peers}
        clock = asyncio.get_running_loop().time
        give_up_at = clock() + _WITHIN_S
        while asking and clock() < give_up_at:
            if any(_has(journal, event) for journal in found):
                give_up_at = min(give_up_at, clock() + _MOMENT_S)
            done, asking = await asyncio.wait(asking, timeout=give_up_at - clock(), return_when=asyncio.FIRST_COMPLETED)
            answers = [task.result() for task in done]
            found += [answer for answer in answers if isinstance(answer, JournalSnapshot)]
            expired = expired or True in answers
            silent += answers.count(None)
        for task in asking:
            task.cancel()
        return _Found(found, expired, silent + len(asking))

    async def _ask(self, name: str, address: str, stream: str, owner: str) -> JournalSnapshot | bool | None:
        """The peer's copy; else whether it knew one that has expired; None where it does not answer."""
        body = orjson.dumps({"stream": stream, "owner": owner})
        async with self._gate:
            stamp = sign(self._key, "POST", TAKE_TARGET, body, self._node.clock(), secrets.token_hex(12))
            headers = {"content-type": "application/json", AUTH_HEADER: stamp}
            try:
                exchange = await self._client.open(
                    parse_address(address), "POST", TAKE_TARGET, headers=headers, body=body, silence_s=_WITHIN_S
                )
                try:
                    answer = await exchange.read_all(_MAX_JOURNAL_BYTES)
                    return _read_answer(exchange.status, answer)
                finally:
                    exchange.close()
            except ExchangeLost as lost:
                self._node.lost(name, lost.why)
            except (ValueError, KeyError, TypeError) as error:
                _log.warning("peer %s answers nonsense: %r", name, error)
        return None


def _read_answer(status: int, answer: bytes) -> JournalSnapshot | bool:
    """Raises ValueError, also for any answer that is about the peer: that it refused says nothing of the stream."""
    if status == 404:
        return bool(orjson.loads(answer)["expired"])
    if status != 200:
        raise ValueError(f"status {status}")
    named, opening, lines = answer.split(b"\n", 2)
    told = orjson.loads(named)
    return JournalSnapshot(epoch_from_json(told["written_in"]), int(told["number"]), opening, int(told["seq"]), lines)


def _has(journal: JournalSnapshot, event: EventId) -> bool:
    """Whether the journal has all that the client of `event` has, in the same owners' words."""
    try:
        return event.seq <= journal.seq and was_sent_by(event, read_opening(journal.opening).runs)
    except ValueError:
        return False


def _taken_over(event: EventId, journal: JournalSnapshot, epoch: Epoch) -> Takeover:
    opening = read_opening(journal.opening)
    if not _has(journal, event):
        message = f"The copies of the journal that can be reached do not have event {event.seq}, which you have."
        raise JournalBehind(message)
    runs = (*opening.runs, EpochRange(journal.seq, epoch))
    machine, replay = restore_stream(opening.generation, event.stream, journal.lines, event.seq, runs)
    written = StreamHeader(opening.generation, runs, opening.request_id, opening.durable).to_bytes()
    ahead = ReplicatedLog(event.stream, epoch, written, log=machine.log, seq=journal.seq)
    ahead.delivered = journal.seq
    return Takeover(machine, ahead, replay, opening.request_id, opening.durable)
