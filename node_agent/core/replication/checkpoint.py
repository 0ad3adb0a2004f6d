"""Encode checkpoints, the unfinished journals that a terminating node writes to the bucket, and decode them.

Rules kept here:

* a checkpoint has the unfinished journals of this node's own streams, and its replicas whose owners are gone. An owner
  that is alive replicates its journals itself;
* a stream whose client wants no copies has no checkpoint;
* many journals share an object, because a terminating node has seconds; a record for each has its place in the object;
* a journal is accepted only if its digest is the record's and its own stream, epoch and last event are the record's.

A journal in an object: a line of JSON that identifies it, its header's line, its records.
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
"""The largest journal's size: so one object holds at least one journal, and 2,000 streams need a few objects."""


@dataclass(frozen=True)
class CheckpointObject:
    """An object of the checkpoints bucket, and the table's records of the journals in it."""

    key: str
    body: bytes
    records: tuple[StreamRecord, ...]


def status_of(journal: JournalReplica, instance_id: str) -> StreamStatus | None:
    """Return the status with which the node with this id writes the journal; None where it does not write it."""
    if journal.is_finished or not is_durable(journal.header):
        return None
    if journal.written_epoch.owner.partition("+")[0] == instance_id:
        return StreamStatus.HANDED_OFF
    return StreamStatus.ORPHANED if journal.orphaned_at is not None else None


def build_objects(
    journals: Iterable[tuple[str, JournalReplica]], instance_id: str, incarnation: int, now: float
) -> Iterator[CheckpointObject]:
    """Pack the journals that the node has to write into objects.

    Args:
        journals: with their stream ids; those that the node does not write (`status_of`) are left out.
        instance_id: of this node.
        incarnation: of this node, a part of the objects' keys.
        now: unix seconds, from which the records' expiry counts.

    Yields:
        Objects of at most MAX_OBJECT_BYTES, or of a single journal; none where there is nothing to write.
    """
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
    identity = orjson.dumps({"stream": stream, "epoch": journal.written_epoch.to_json(), "seq": journal.seq})
    return b"\n".join((identity, journal.header, bytes(journal.lines)))


def read_journal(record: StreamRecord, body: bytes) -> JournalSnapshot:
    """Decode the journal of a record, for a new owner. Raises ValueError where the body is another's or damaged."""
    if hashlib.sha256(body).hexdigest() != record.digest:
        raise ValueError(f"the digest of {len(body)} bytes is not that of the record's {record.length}")
    identity, header, lines = body.split(b"\n", 2)
    fields = orjson.loads(identity)
    epoch = epoch_from_json(fields["epoch"])
    if (fields["stream"], epoch.number, epoch.owner, fields["seq"]) != (record.stream, *record.progress):
        raise ValueError("the journal of another stream or epoch")
    return JournalSnapshot(epoch, epoch.number + 1, header, record.seq, lines)
