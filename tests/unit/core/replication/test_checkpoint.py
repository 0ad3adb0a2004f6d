"""Test checkpoints: what a terminating node writes of its journals, and that no other body is accepted."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from node_agent.contract.table_schema import CHECKPOINT_LIFE_S, StreamStatus, stream_record_from_item
from node_agent.core.journal.epochs import Epoch, EpochRange
from node_agent.core.journal.stream_header import StreamHeader, is_durable, parse_stream_header
from node_agent.core.openai.generation_request import ApiRoute, read_generation
from node_agent.core.replication import checkpoint
from node_agent.core.replication.checkpoint import (
    MAX_OBJECT_BYTES,
    CheckpointObject,
    build_objects,
    read_journal,
    status_of,
)
from node_agent.core.replication.replica_store import EndReason, JournalReplica

ME, NOW = "i-1", 1_000.0
GENERATION = read_generation(ApiRoute.COMPLETION, b'{"model":"m","prompt":"p"}')


def opening(*, durable: bool = True, owner: str = ME) -> bytes:
    return StreamHeader(GENERATION, (EpochRange(0, Epoch(1, owner)),), None, durable).to_bytes()


def journal(owner: str = ME, number: int = 1, lines: bytes = b"0 1 a\n0 2 b\n", **fields: object) -> JournalReplica:
    epoch = Epoch(number, owner)
    replica = JournalReplica(epoch, epoch, opening(owner=owner), lines.count(b"\n"), bytearray(lines), NOW)
    return replace(replica, **fields)  # type: ignore[arg-type] # fields of it


def left(*journals: JournalReplica) -> list[CheckpointObject]:
    return list(build_objects([(f"s{number}", one) for number, one in enumerate(journals)], ME, 7, NOW))


@pytest.mark.parametrize(
    ("replica", "status"),
    [
        (journal(), StreamStatus.HANDED_OFF),
        (journal(f"{ME}+1f"), StreamStatus.HANDED_OFF),
        (journal("i-2"), None),
        (journal("i-2", orphaned_at=NOW), StreamStatus.ORPHANED),
        (journal(end_reason=EndReason.FINISHED), None),
        (journal("i-2", orphaned_at=NOW, end_reason=EndReason.FINISHED), None),
        (journal(header=opening(durable=False)), None),
        (journal(header=b"{"), None),
        (journal(header=b"[]"), None),
    ],
    ids=["own", "own, taken over", "of one alive", "orphan", "finished", "finished orphan", "private", "half", "none"],
)
def test_only_journals_without_another_replica_are_checkpointed(
    replica: JournalReplica, status: StreamStatus | None
) -> None:
    assert status_of(replica, ME) is status
    assert len(left(replica)) == (status is not None)


def test_a_journal_round_trips_and_its_owner_has_a_higher_epoch() -> None:
    replica = journal("i-1+ab", number=3)
    (parcel,) = left(journal(), replica, journal("i-2"))
    first, second = parcel.records
    assert (first.stream, second.stream) == ("s0", "s1")
    assert first.expires_at == NOW + CHECKPOINT_LIFE_S
    snapshot = read_journal(second, parcel.body[second.start : second.start + second.length])
    assert (snapshot.written_epoch, snapshot.next_number, snapshot.seq) == (Epoch(3, "i-1+ab"), 4, 2)
    assert (snapshot.header, snapshot.lines) == (replica.header, bytes(replica.lines))


def test_a_record_round_trips_through_its_item() -> None:
    (parcel,) = left(journal())
    (record,) = parcel.records
    assert stream_record_from_item(record.to_item()) == record
    with pytest.raises(ValueError, match="epoch_number"):
        stream_record_from_item({"stream": "s"})


def test_objects_are_bounded_and_named_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "MAX_OBJECT_BYTES", 500)
    journals = [journal(lines=b"0 1 x\n" * 20) for _ in range(7)]
    found = left(*journals)
    assert len(found) > 2
    assert all(len(parcel.body) <= 500 for parcel in found)
    assert len({parcel.key for parcel in found}) == len(found)
    assert [record.stream for parcel in found for record in parcel.records] == [f"s{n}" for n in range(7)]
    for parcel in found:
        assert parcel.key.startswith(f"journals/{ME}/7-")
        for record in parcel.records:
            assert record.object_key == parcel.key
            read_journal(record, parcel.body[record.start : record.start + record.length])


def test_a_journal_larger_than_an_object_has_one_to_itself() -> None:
    big = journal(lines=b"x" * MAX_OBJECT_BYTES + b"\n")
    assert [len(parcel.records) for parcel in left(journal(), big, journal())] == [1, 1, 1]


def test_a_body_that_does_not_match_its_record_is_refused() -> None:
    (parcel,) = left(journal(), journal())
    first, second = parcel.records
    one, two = (parcel.body[record.start : record.start + record.length] for record in parcel.records)
    for body in (b"", one[:-1], one + b" ", two, one.replace(b"0 2 b", b"0 2 c")):
        with pytest.raises(ValueError, match="not that of"):
            read_journal(first, body)
    with pytest.raises(ValueError, match="another stream"):
        read_journal(replace(second, seq=9), two)
    with pytest.raises(ValueError, match="another stream"):
        read_journal(replace(second, number=9), two)


def test_an_opening_states_whether_its_client_wants_it_kept() -> None:
    assert is_durable(opening())
    assert not is_durable(opening(durable=False))
    assert "durable" not in orjson.loads(opening()), "what every stream has costs no bytes"
    assert parse_stream_header(opening(durable=False)).durable is False
    assert parse_stream_header(opening()).durable is True
