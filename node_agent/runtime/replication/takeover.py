"""Take a stream over: fetch its journal from the replicas, fence its old owner, and restore the stream.

The peers are queried in the order in which every node ranks them: the first four at once, then, where views of the
fleet differ, every other peer that this node knows, once. A peer that has a copy refuses the old owner from then on.
The stream is reported as unknown only when every peer has answered; else the client is to retry.

A stream belongs to the client that began it (`core/journal/stream_claim`). Each node checks the claim of a request
before it fences an owner; a foreign one is answered as for an unknown stream.

Where none of them has what the client needs, the table may name replicas that this node does not know
(`runtime/replication/stream_recorder`), or a terminated node may have written a checkpoint
(`runtime/replication/checkpointer`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace

import orjson

from node_agent.contract.errors import RequestRejected, TransientError
from node_agent.core.common.address import parse_address
from node_agent.core.journal.epochs import Epoch, EpochRange, EventId, epoch_from_json, was_sent_by
from node_agent.core.journal.stream_claim import ResumeToken, StreamClaim, parse_claim, read_claim
from node_agent.core.journal.stream_header import parse_stream_header
from node_agent.core.replication import replica_store
from node_agent.core.replication.placement import RANKS, rendezvous_rank
from node_agent.core.replication.replica_store import JournalSnapshot, ReplicaStore
from node_agent.core.replication.replicated_log import ReplicatedLog
from node_agent.core.streams.factory import restore_stream
from node_agent.core.streams.stream_machine import StreamMachine
from node_agent.ports import ExchangeLost, Http
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.replication.checkpointer import Checkpointer
from node_agent.runtime.replication.stream_recorder import StreamRecorder

TAKE_TARGET = "/peer/v1/take"
_QUERY_TIMEOUT_S = 1.0
_GRACE_S = 0.1
"""The wait for the other replicas once one has all that the client has: they may be gone with the entry."""

_MAX_JOURNAL_BYTES = 2 * replica_store.MAX_JOURNAL_BYTES
_MAX_CONCURRENCY = 32
_log = logging.getLogger(__name__)


class JournalBehind(TransientError):
    """The copies that can be reached end before what the client has received."""


@dataclass(frozen=True)
class Takeover:
    """A restored stream, for its new owner."""

    machine: StreamMachine
    log: ReplicatedLog
    replay: bytes
    """The events that the client has not received."""

    request_id: str | None
    durable: bool
    """Whether the client wants copies of the journal."""


@dataclass(frozen=True)
class _Wanted:
    """A stream that a client resumes.

    token: with which it does; event: the last one that it has; claim: who it is; owner: the new one's name.
    """

    token: ResumeToken
    event: EventId
    claim: StreamClaim
    owner: str

    @property
    def stream(self) -> str:
        """The stream's id."""
        return self.token.stream

    def has_all(self, journals: Sequence[JournalSnapshot]) -> bool:
        """Return whether one of the journals has all that the client has."""
        return any(_covers(journal, self.event) for journal in journals)


@dataclass(frozen=True)
class _Found:
    """What the queried peers have of a stream."""

    journals: Sequence[JournalSnapshot]
    expired: bool
    unanswered: int
    """How many peers did not answer."""


class Takeovers:
    """Takes streams over, and hands this node's journals to other owners.

    Args:
        node: this node and its view of the fleet.
        client: of peer APIs, which signs requests.
        store: this node's replicas.
        release: ends a client's stream that this node owns itself, so that its journal is in `store`.
        checkpointer: reads the checkpoints of terminated nodes.
        recorder: finds the replicas of a stream in the table.
    """

    def __init__(
        self,
        node: NodeContext,
        client: Http,
        store: ReplicaStore,
        release: Callable[[str, StreamClaim], None],
        checkpointer: Checkpointer,
        recorder: StreamRecorder,
    ) -> None:
        self._node = node
        self._client = client
        self._store = store
        self._release = release
        self._checkpointer = checkpointer
        self._recorder = recorder
        self._gate = asyncio.Semaphore(_MAX_CONCURRENCY)

    async def take_over(self, token: ResumeToken, event: EventId, key_id: str = "") -> Takeover:
        """Take the stream over.

        Args:
            token: what the client resumes it with.
            event: the last one that the client has.
            key_id: of the client's key, "" where keys are off.

        Returns:
            The restored stream, in a new epoch of this node.

        Raises:
            RequestRejected: no node has the stream, or it is another client's (404); it has expired, or its journal is
                damaged (410).
            JournalBehind: nodes that cannot be reached now may have it, or more of it; the client is to retry.
        """
        owner = f"{self._node.instance_id}+{secrets.token_hex(4)}"
        wanted = _Wanted(token, event, token.claim(key_id), owner)
        found = await self._find(wanted)
        _log.debug(
            "stream %s for %s: %d journals found, %d peers do not answer",
            wanted.stream, owner, len(found.journals), found.unanswered,
        )  # fmt: skip
        if not found.journals:
            if found.expired:
                message = (
                    f"Stream {wanted.stream} has expired: its journal is kept for {replica_store.RETENTION_S:.0f} s."
                )
                raise RequestRejected(410, "stream_expired", message)
            if not self._node.members.discovery_done:
                raise JournalBehind("This node does not know the others yet; retry, or use another node.")
            if found.unanswered:
                message = f"No node that answers has stream {wanted.stream}; {found.unanswered} nodes do not answer."
                raise JournalBehind(message)
            raise RequestRejected(404, "stream_not_found", f"No node knows a stream {wanted.stream[:100]}.")
        await self._node.turns.wait()
        journal = replica_store.newest(found.journals)
        number = max(one.next_number for one in found.journals)
        try:
            return _restore(wanted, journal, Epoch(number, owner))
        except ValueError as error:
            _log.error("stream %s cannot be restored: %s", wanted.stream, error)
            raise RequestRejected(
                410, "stream_unreadable", f"The journal of this stream is damaged: {error}."
            ) from error

    def take_over_locally(self, stream: str, owner: str, claim: StreamClaim) -> JournalSnapshot | None:
        """Return this node's copy, or the journal of a stream that it owns, for a new owner; None for another client.

        claim: of the client that resumes the stream.
        """
        self._release(stream, claim)
        return self._store.take_over(stream, owner, self._node.wall_clock(), claim)

    def handle_request(self, raw: bytes) -> tuple[int, bytes]:
        """Answer a peer's request for a journal: (status, body). Raises ValueError, KeyError where it is none."""
        request = orjson.loads(raw)
        stream = str(request["stream"])
        claim = parse_claim(request.get("key", ""), request.get("token", ""))
        taken = self.take_over_locally(stream, str(request["owner"]), claim)
        if taken is None:
            return 404, orjson.dumps({"expired": self._store.has_expired(stream, claim)})
        fields = {"written_in": taken.written_epoch.to_json(), "number": taken.next_number, "seq": taken.seq}
        return 200, b"\n".join((orjson.dumps(fields), taken.header, taken.lines))

    async def _find(self, wanted: _Wanted) -> _Found:
        stream = wanted.stream
        here = self.take_over_locally(stream, wanted.owner, wanted.claim)
        members = self._node.members
        ranked = [(node.instance_id, node.peer_address) for node in rendezvous_rank(stream, self._node.present)]
        near = await self._query_all(ranked[:RANKS], wanted, here)
        if wanted.has_all(near.journals):
            return near
        known = dict([*members.not_joined, *((node.instance_id, node.peer_address) for node in members.view.known)])
        queried = dict(ranked[:RANKS])
        others = [(name, address) for name, address in known.items() if name not in queried]
        far = await self._query_all(others, wanted, None)
        expired = near.expired or far.expired or self._store.has_expired(stream, wanted.claim)
        found = _Found([*near.journals, *far.journals], expired, near.unanswered + far.unanswered)
        if wanted.has_all(found.journals):
            return found
        return await self._add_recorded(found, wanted, {*queried, *dict(others)})

    async def _add_recorded(self, found: _Found, wanted: _Wanted, queried: Container[str]) -> _Found:
        """Add what the table leads to: replicas that were not queried yet, and the checkpoint of a terminated node."""
        replicas, checkpoint = await asyncio.gather(
            self._recorder.find(wanted.stream), self._checkpointer.find(wanted.stream)
        )
        unknown = [(name, address) for name, address in (replicas or {}).items() if name not in queried]
        recorded = await self._query_all(unknown, wanted, None)
        journals = [*found.journals, *recorded.journals]
        unavailable = checkpoint is None or replicas is None
        if isinstance(checkpoint, JournalSnapshot) and _is_of(checkpoint, wanted):
            journals.append(checkpoint)
        return _Found(
            journals,
            found.expired or recorded.expired or checkpoint is True,
            found.unanswered + recorded.unanswered + unavailable,
        )

    async def _query_all(
        self, peers: Sequence[tuple[str, str]], wanted: _Wanted, here: JournalSnapshot | None
    ) -> _Found:
        """Query the peers concurrently; add this node's copy. Once one covers the event, the others get _GRACE_S."""
        found, expired, unanswered = [here] if here is not None else [], False, 0
        queries = {asyncio.ensure_future(self._query(name, address, wanted)) for name, address in peers}
        clock = asyncio.get_running_loop().time
        deadline = clock() + _QUERY_TIMEOUT_S
        while queries and clock() < deadline:
            if wanted.has_all(found):
                deadline = min(deadline, clock() + _GRACE_S)
            done, queries = await asyncio.wait(queries, timeout=deadline - clock(), return_when=asyncio.FIRST_COMPLETED)
            answers = [task.result() for task in done]
            found += [answer for answer in answers if isinstance(answer, JournalSnapshot) and _is_of(answer, wanted)]
            expired = expired or True in answers
            unanswered += answers.count(None)
        for task in queries:
            task.cancel()
        return _Found(found, expired, unanswered + len(queries))

    async def _query(self, name: str, address: str, wanted: _Wanted) -> JournalSnapshot | bool | None:
        """Request a peer's copy. Returns it, or whether it expired there; None where the peer does not answer."""
        claim = wanted.claim
        body = orjson.dumps(
            {"stream": wanted.stream, "owner": wanted.owner, "key": claim.key_id, "token": claim.token_digest}
        )
        async with self._gate:
            headers = {"content-type": "application/json"}
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
                self._node.on_connection_lost(name, lost.loss.reason)
            except (ValueError, KeyError, TypeError) as error:
                _log.warning("peer %s sent an invalid answer: %r", name, error)
        return None


def _parse_answer(status: int, answer: bytes) -> JournalSnapshot | bool:
    """Decode a peer's answer. Raises ValueError, also where the peer refused: that is no answer about the stream."""
    if status == 404:
        return bool(orjson.loads(answer)["expired"])
    if status != 200:
        raise ValueError(f"status {status}")
    identity, header, lines = answer.split(b"\n", 2)
    fields = orjson.loads(identity)
    written_epoch = epoch_from_json(fields["written_in"])
    return JournalSnapshot(written_epoch, int(fields["number"]), header, int(fields["seq"]), lines)


def _covers(journal: JournalSnapshot, event: EventId) -> bool:
    """Return whether the journal has all events up to `event`, sent by the same owners."""
    try:
        return event.seq <= journal.seq and was_sent_by(event, parse_stream_header(journal.header).ranges)
    except ValueError:
        return False


def _is_of(journal: JournalSnapshot, wanted: _Wanted) -> bool:
    """Return whether the journal is of the client that wants it: an older agent, and the bucket, check no claim."""
    return read_claim(journal.header).admits(wanted.claim)


def _restore(wanted: _Wanted, journal: JournalSnapshot, epoch: Epoch) -> Takeover:
    header, event = parse_stream_header(journal.header), wanted.event
    if not _covers(journal, event):
        message = f"The copies of the journal that can be reached do not have event {event.seq}, which you have."
        raise JournalBehind(message)
    runs = (*header.ranges, EpochRange(journal.seq, epoch))
    machine, replay = restore_stream(header.generation, wanted.token.text, journal.lines, event.seq, runs)
    log = ReplicatedLog(
        wanted.stream, epoch, replace(header, ranges=runs).to_bytes(), lines=machine.journal, seq=journal.seq
    )
    log.committed = journal.seq
    return Takeover(machine, log, replay, header.request_id, header.durable)
