"""Checkpoints: what a node that goes leaves of the journals that somebody may still need, and how it is read again.

Rules kept here:

* left are the unfinished journals of this node's own streams, and those that it keeps for owners that are gone. An
  owner that is alive looks after its copies itself;
* what a client wanted kept nowhere is not left;
* many journals share an object, because a node that goes has seconds; a record for each says where it lies;
* a journal counts only if its digest is the record's, and it says itself which stream, epoch and event it ends with.

A journal in an object: a line of JSON that names it, its opening, its lines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import orjson

from node_agent.contract.names import JOURNALS_PREFIX
from node_agent.contract.table_schema import CHECKPOINT_LIFE_S, StreamRecord, StreamStatus
from node_agent.core.journal.epochs import epoch_from_json
from node_agent.core.journal.stream_header import is_durable
from node_agent.core.replication.replica_store import JournalReplica, JournalSnapshot

MAX_OBJECT_BYTES = 8 * 1024 * 1024
"""As much as one journal may have: so one object holds at least one journal, and 2,000 streams need a few objects."""


@dataclass(frozen=True)
class CheckpointObject:
    """One object of the checkpoints bucket, and the records of the journals in it."""

    key: str
    body: bytes
    records: tuple[StreamRecord, ...]


def status_of(journal: JournalReplica, instance_id: str) -> StreamStatus | None:
    """Why the node with this id leaves a checkpoint of the journal; None where it does not."""
    if journal.is_finished or not is_durable(journal.header):
        return None
    if journal.written_epoch.owner.partition("+")[0] == instance_id:
        return StreamStatus.HANDED_OFF
    return StreamStatus.ORPHANED if journal.orphaned_at is not None else None


def build_objects(
    journals: Iterable[tuple[str, JournalReplica]], instance_id: str, incarnation: int, now: float
) -> Iterator[CheckpointObject]:
    """What the node leaves of its journals, by stream id. now: unix seconds."""
    number = 0
    parts: list[bytes] = []
    records: list[StreamRecord] = []
    size = 0
    for stream, journal in journals:
        status = status_of(journal, instance_id)
        if status is None:
            continue
        written = _serialize(stream, journal)
        if parts and size + len(written) > MAX_OBJECT_BYTES:
            yield CheckpointObject(records[0].object_key, b"".join(parts), tuple(records))
            number, parts, records, size = number + 1, [], [], 0
        records.append(
            StreamRecord(
                stream=stream,
                number=journal.written_epoch.number,
                owner=journal.written_epoch.owner,
                seq=journal.seq,
                status=status,
                object_key=f"{JOURNALS_PREFIX}{instance_id}/{incarnation}-{number}",
                start=size,
                length=len(written),
                digest=hashlib.sha256(written).hexdigest(),
                expires_at=int(now) + CHECKPOINT_LIFE_S,
            )
        )
        parts.append(written)
        size += len(written)
    if parts:
        yield CheckpointObject(records[0].object_key, b"".join(parts), tuple(records))


def _serialize(stream: str, journal: JournalReplica) -> bytes:
    named = orjson.dumps({"stream": stream, "epoch": journal.written_epoch.to_json(), "seq": journal.seq})
    return b"\n".join((named, journal.header, bytes(journal.lines)))


def read_journal(record: StreamRecord, body: bytes) -> JournalSnapshot:
    """The journal that a record speaks of, for a new owner. Raises ValueError where the body is another or damaged."""
    if hashlib.sha256(body).hexdigest() != record.digest:
        raise ValueError(f"{len(body)} bytes that are not the {record.length} of the record")
    named, opening, lines = body.split(b"\n", 2)
    told = orjson.loads(named)
    epoch = epoch_from_json(told["epoch"])
    if (told["stream"], epoch.number, epoch.owner, told["seq"]) != (record.stream, *record.progress):
        raise ValueError("the journal of something else")
    return JournalSnapshot(epoch, epoch.number + 1, opening, record.seq, lines)
