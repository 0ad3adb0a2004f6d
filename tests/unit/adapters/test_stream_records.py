"""One suite over the records of streams in DynamoDB (moto) and their fake in memory."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from node_agent.adapters.stream_records import DynamoStreamRecords
from node_agent.contract.errors import StaleEpoch, StoreUnavailable
from node_agent.contract.open_streams import OpenStream, OpenStreams, open_streams_key
from node_agent.contract.ownership import Ownership, moves_forward, ownership_key
from node_agent.contract.table_schema import StreamStatus
from node_agent.ports import StreamRecords
from node_agent.testing.fakes import MemoryStreamRecords
from tests.unit.adapters.conftest import TABLE

NODE, STREAM = "i-0123456789abcdef0", "ab" * 12
RECORD = OpenStreams(NODE, 7, (OpenStream(STREAM, 1, NODE, 40, 1.5, ("i-1",)),), 99, {"i-1": "10.0.0.1:8001"})
OWNED = Ownership(STREAM, 2, NODE, StreamStatus.OPEN, 40, 1.5, 2.5, 99, {"i-1": "10.0.0.1:8001"})
_T = TypeVar("_T")


@pytest.fixture(params=["memory", "dynamodb"])
def store(request: pytest.FixtureRequest) -> StreamRecords:
    if request.param == "memory":
        return MemoryStreamRecords()
    return DynamoStreamRecords(request.getfixturevalue("dynamodb"), TABLE)


def run(story: Coroutine[Any, Any, _T]) -> _T:
    return asyncio.run(story)


def test_a_node_replaces_its_own_record(store: StreamRecords) -> None:
    async def story() -> None:
        assert await store.read_open(NODE) is None
        await store.write_open(RECORD)
        assert await store.read_open(NODE) == RECORD
        later = replace(RECORD, streams=(), addresses={}, expires_at=100)
        await store.write_open(later)
        assert await store.read_open(NODE) == later

    run(story())


def test_a_newer_incarnation_replaces_the_record_and_an_older_one_does_not(store: StreamRecords) -> None:
    async def story() -> None:
        await store.write_open(replace(RECORD, deadline=5.0))
        newer = replace(RECORD, incarnation=8, streams=())
        await store.write_open(newer)
        assert await store.read_open(NODE) == newer, "without the deadline of the older one"
        with pytest.raises(StaleEpoch):
            await store.write_open(RECORD)
        assert await store.read_open(NODE) == newer

    run(story())


def test_a_write_keeps_the_deadline_and_the_end_that_a_lambda_added(dynamodb: Any) -> None:
    async def story() -> None:
        store = DynamoStreamRecords(dynamodb, TABLE)
        await store.write_open(RECORD)
        dynamodb.update_item(
            TableName=TABLE,
            Key={name: {"S": value} for name, value in open_streams_key(NODE).items()},
            UpdateExpression="SET deadline_ms = :d, ended_ms = :e",
            ExpressionAttributeValues={":d": {"N": "5000"}, ":e": {"N": "6000"}},
        )
        await store.write_open(replace(RECORD, streams=()))
        assert await store.read_open(NODE) == replace(RECORD, streams=(), deadline=5.0, ended_at=6.0)
        await store.write_open(replace(RECORD, deadline=4.0))
        assert await store.read_open(NODE) == replace(RECORD, deadline=4.0, ended_at=6.0), "its own is exact"

    run(story())


SOME = [
    replace(OWNED, number=number, owner=owner, status=status)
    for number, owner, status in itertools.product((1, 2), (NODE, f"{NODE}+0a"), StreamStatus)
]


def test_a_stream_moves_forward_only_exactly_as_the_contract_has_it(store: StreamRecords) -> None:
    async def story() -> None:
        for number, (first, second) in enumerate(itertools.product(SOME, SOME)):
            name = f"{number:024x}"
            held, new = replace(first, stream=name), replace(second, stream=name, expires_at=100)
            assert await store.advance([held]) == 1
            forward = moves_forward(held, new)
            assert await store.advance([new]) == int(forward), (held, new)
            assert await store.find(name) == (new if forward else held)

    run(story())


def test_many_changes_are_written_together(store: StreamRecords) -> None:
    changes = [replace(OWNED, stream=f"{number:024x}") for number in range(100)]

    async def story() -> None:
        assert await store.advance(changes[:50]) == 50
        assert await store.advance([replace(each, status=StreamStatus.CLOSED) for each in changes]) == 100
        assert await store.advance(changes) == 0
        assert await store.advance([]) == 0
        assert await store.find("f" * 24) is None

    run(story())


def test_a_store_that_does_not_answer_is_unavailable(dynamodb: Any) -> None:
    memory = MemoryStreamRecords()
    memory.unavailable = True
    for store in (DynamoStreamRecords(dynamodb, "no-such-table"), memory):
        for call in (store.write_open(RECORD), store.read_open(NODE), store.advance([OWNED]), store.find(STREAM)):
            with pytest.raises(StoreUnavailable):
                run(call)


def test_an_invalid_record_counts_as_absent(dynamodb: Any) -> None:
    for key in (open_streams_key(NODE), ownership_key(STREAM)):
        dynamodb.put_item(TableName=TABLE, Item={name: {"S": value} for name, value in key.items()})
    store = DynamoStreamRecords(dynamodb, TABLE)
    assert run(store.read_open(NODE)) is None
    assert run(store.find(STREAM)) is None
    assert run(store.advance([OWNED])) == 1
