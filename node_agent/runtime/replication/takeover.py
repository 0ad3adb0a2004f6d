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
from node_agent.core.journal.stream_header import StreamHeader, parse_stream_header
from node_agent.core.replication import replica_store as keeping
from node_agent.core.replication.placement import RANKS, rendezvous_rank
from node_agent.core.replication.replica_store import JournalSnapshot, ReplicaStore
from node_agent.core.replication.replicated_log import ReplicatedLog
from node_agent.core.streams.factory import Machine, restore_stream
from node_agent.ports import ExchangeLost, Http
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.replication.checkpointer import Checkpointer

TAKE_TARGET = "/peer/v1/take"
_QUERY_TIMEOUT_S = 1.0
_GRACE_S = 0.1
"""For the other keepers, once one was found that has all that the client has: they may be gone with the entry."""

_MAX_JOURNAL_BYTES = 2 * keeping.MAX_JOURNAL_BYTES
_MAX_CONCURRENCY = 32
_log = logging.getLogger(__name__)


class JournalBehind(TransientError):
    """The copies that can be reached end before what the client has."""


@dataclass(frozen=True)
class Takeover:
    """A stream as its new owner has it; replay: the events that the client lacks; durable: as its client wants it."""

    machine: Machine
    log: ReplicatedLog
    replay: bytes
    request_id: str | None
    durable: bool


@dataclass(frozen=True)
class _Found:
    """silent: how many peers did not answer."""

    journals: Sequence[JournalSnapshot]
    expired: bool
    unanswered: int


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
        self._store = own
        self._release = give_up
        self._checkpointer = checkpointer
        self._gate = asyncio.Semaphore(_MAX_CONCURRENCY)

    async def take_over(self, event: EventId) -> Takeover:
        """Own the stream. Raises RequestRejected (404, 410), JournalBehind."""
        owner = f"{self._node.instance_id}+{secrets.token_hex(4)}"
        found = await self._find(event, owner)
        _log.debug(
            "stream %s for %s: %d journals found, %d peers silent",
            event.stream, owner, len(found.journals), found.unanswered,
        )  # fmt: skip
        if not found.journals:
            if found.expired:
                message = f"Stream {event.stream} has expired: its journal is kept for {keeping.RETENTION_S:.0f} s."
                raise RequestRejected(410, "stream_expired", message)
            if not self._node.members.discovery_done:
                raise JournalBehind("This node does not know the others yet; ask again, or another node.")
            if found.unanswered:
                message = f"No node that answers has stream {event.stream}; {found.unanswered} nodes do not answer."
                raise JournalBehind(message)
            raise RequestRejected(404, "stream_not_found", f"No node knows a stream {event.stream}.")
        journal = keeping.newest(found.journals)
        number = max(one.next_number for one in found.journals)
        try:
            return _restore(event, journal, Epoch(number, owner))
        except ValueError as error:
            _log.error("stream %s cannot be made again: %s", event.stream, error)
            raise RequestRejected(
                410, "stream_unreadable", f"The journal of this stream is damaged: {error}."
            ) from error

    def take_over_locally(self, stream: str, owner: str) -> JournalSnapshot | None:
        """This node's own copy, or the stream itself, for a new owner."""
        self._release(stream)
        return self._store.take_over(stream, owner, self._node.clock())

    def handle_request(self, raw: bytes) -> tuple[int, bytes]:
        """A peer's question for a journal: (status, body). Raises ValueError, KeyError where it is none."""
        asked = orjson.loads(raw)
        stream = str(asked["stream"])
        taken = self.take_over_locally(stream, str(asked["owner"]))
        if taken is None:
            return 404, orjson.dumps({"expired": self._store.has_expired(stream)})
        named = {"written_in": taken.written_epoch.to_json(), "number": taken.next_number, "seq": taken.seq}
        return 200, b"\n".join((orjson.dumps(named), taken.header, taken.lines))

    async def _find(self, event: EventId, owner: str) -> _Found:
        stream = event.stream
        here = self.take_over_locally(stream, owner)
        members = self._node.members
        ranked = [(node.instance_id, node.peer_address) for node in rendezvous_rank(stream, self._node.present)]
        near = await self._query_all(ranked[:RANKS], event, owner, here)
        if any(_covers(journal, event) for journal in near.journals):
            return near
        known = dict([*members.not_joined, *((node.instance_id, node.peer_address) for node in members.view.known)])
        asked = dict(ranked[:RANKS])
        others = [(name, address) for name, address in known.items() if name not in asked]
        far = await self._query_all(others, event, owner, None)
        expired = near.expired or far.expired or self._store.has_expired(stream)
        found = _Found([*near.journals, *far.journals], expired, near.unanswered + far.unanswered)
        if any(_covers(journal, event) for journal in found.journals):
            return found
        return await self._add_checkpoint(found, event)

    async def _add_checkpoint(self, found: _Found, event: EventId) -> _Found:
        """What was found, and what a node that went may have left."""
        left = await self._checkpointer.find(event.stream)
        if isinstance(left, JournalSnapshot):
            return _Found([*found.journals, left], found.expired, found.unanswered)
        return _Found(found.journals, found.expired or left is True, found.unanswered + (left is None))

    async def _query_all(
        self, peers: Sequence[tuple[str, str]], event: EventId, owner: str, here: JournalSnapshot | None
    ) -> _Found:
        """Their answers, and this node's own. Once one has what the client needs, the others get a moment only."""
        found, expired, silent = [here] if here is not None else [], False, 0
        asking = {asyncio.ensure_future(self._query(name, address, event.stream, owner)) for name, address in peers}
        clock = asyncio.get_running_loop().time
        give_up_at = clock() + _QUERY_TIMEOUT_S
        while asking and clock() < give_up_at:
            if any(_covers(journal, event) for journal in found):
                give_up_at = min(give_up_at, clock() + _GRACE_S)
            done, asking = await asyncio.wait(asking, timeout=give_up_at - clock(), return_when=asyncio.FIRST_COMPLETED)
            answers = [task.result() for task in done]
            found += [answer for answer in answers if isinstance(answer, JournalSnapshot)]
            expired = expired or True in answers
            silent += answers.count(None)
        for task in asking:
            task.cancel()
        return _Found(found, expired, silent + len(asking))

    async def _query(self, name: str, address: str, stream: str, owner: str) -> JournalSnapshot | bool | None:
        """The peer's copy; else whether it knew one that has expired; None where it does not answer."""
        body = orjson.dumps({"stream": stream, "owner": owner})
        async with self._gate:
            stamp = sign(self._key, "POST", TAKE_TARGET, body, self._node.clock(), secrets.token_hex(12))
            headers = {"content-type": "application/json", AUTH_HEADER: stamp}
            try:
                exchange = await self._client.open(
                    parse_address(address),
                    "POST",
                    TAKE_TARGET,
                    headers=headers,
                    body=body,
                    read_timeout_s=_QUERY_TIMEOUT_S,
                )
                try:
                    answer = await exchange.read_all(_MAX_JOURNAL_BYTES)
                    return _parse_answer(exchange.status, answer)
                finally:
                    exchange.close()
            except ExchangeLost as lost:
                self._node.lost(name, lost.why)
            except (ValueError, KeyError, TypeError) as error:
                _log.warning("peer %s answers nonsense: %r", name, error)
        return None


def _parse_answer(status: int, answer: bytes) -> JournalSnapshot | bool:
    """Raises ValueError, also for any answer that is about the peer: that it refused says nothing of the stream."""
    if status == 404:
        return bool(orjson.loads(answer)["expired"])
    if status != 200:
        raise ValueError(f"status {status}")
    named, opening, lines = answer.split(b"\n", 2)
    told = orjson.loads(named)
    return JournalSnapshot(epoch_from_json(told["written_in"]), int(told["number"]), opening, int(told["seq"]), lines)


def _covers(journal: JournalSnapshot, event: EventId) -> bool:
    """Whether the journal has all that the client of `event` has, in the same owners' words."""
    try:
        return event.seq <= journal.seq and was_sent_by(event, parse_stream_header(journal.header).ranges)
    except ValueError:
        return False


def _restore(event: EventId, journal: JournalSnapshot, epoch: Epoch) -> Takeover:
    opening = parse_stream_header(journal.header)
    if not _covers(journal, event):
        message = f"The copies of the journal that can be reached do not have event {event.seq}, which you have."
        raise JournalBehind(message)
    runs = (*opening.ranges, EpochRange(journal.seq, epoch))
    machine, replay = restore_stream(opening.generation, event.stream, journal.lines, event.seq, runs)
    written = StreamHeader(opening.generation, runs, opening.request_id, opening.durable).to_bytes()
    ahead = ReplicatedLog(event.stream, epoch, written, lines=machine.journal, seq=journal.seq)
    ahead.committed = journal.seq
    return Takeover(machine, ahead, replay, opening.request_id, opening.durable)
