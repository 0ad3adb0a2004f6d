"""One suite over the checkpoints in S3 and DynamoDB (moto) and their twin in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from node_agent.adapters.checkpoints import AwsCheckpoints
from node_agent.contract.errors import StoreUnavailable
from node_agent.contract.table_schema import StreamRecord, StreamStatus, stream_key
from node_agent.ports import Checkpoints
from node_agent.testing.fakes import MemoryCheckpoints
from tests.unit.adapters.conftest import BUCKET, TABLE

RECORD = StreamRecord("s1", 2, "i-1", 40, StreamStatus.HANDED_OFF, "journals/i-1/7-0", 3, 4, "digest", 99)
_T = TypeVar("_T")


@pytest.fixture(params=["memory", "aws"])
def store(request: pytest.FixtureRequest) -> Checkpoints:
    if request.param == "memory":
        return MemoryCheckpoints()
    return AwsCheckpoints(request.getfixturevalue("s3"), BUCKET, request.getfixturevalue("dynamodb"), TABLE)


def told(story: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    return asyncio.run(story())


def test_a_journal_is_found_and_read_where_its_record_says(store: Checkpoints) -> None:
    async def story() -> tuple[int, StreamRecord | None, bytes | None, StreamRecord | None]:
        other = replace(RECORD, stream="s2", start=0, length=3)
        written = await store.write(RECORD.object_key, b"abcdefghi", [RECORD, other])
        return written, await store.find("s1"), await store.read(RECORD), await store.find("nobody")

    assert told(story) == (2, RECORD, b"defg", None)


@pytest.mark.parametrize(
    ("change", "forward"),
    [
        ({}, True),
        ({"seq": 41}, True),
        ({"seq": 39}, False),
        ({"number": 3, "seq": 1}, True),
        ({"number": 1, "seq": 99}, False),
        ({"owner": "i-2", "seq": 1}, True),
        ({"owner": "i-0", "seq": 99}, False),
    ],
    ids=str,
)
def test_a_streams_record_moves_forward_only(store: Checkpoints, change: dict[str, Any], forward: bool) -> None:
    changed = replace(RECORD, object_key="journals/other", **change)

    async def story() -> tuple[int, StreamRecord | None]:
        await store.write(RECORD.object_key, b"x", [RECORD])
        return await store.write("journals/other", b"y", [changed]), await store.find("s1")

    assert told(story) == (int(forward), changed if forward else RECORD)


def test_an_object_that_is_gone_is_none(store: Checkpoints) -> None:
    async def story() -> bytes | None:
        return await store.read(RECORD)

    assert told(story) is None


def test_a_store_that_does_not_answer_says_so(s3: Any, dynamodb: Any) -> None:
    nowhere = AwsCheckpoints(s3, "no-such-bucket", dynamodb, TABLE)
    no_table = AwsCheckpoints(s3, BUCKET, dynamodb, "no-such-table")
    memory = MemoryCheckpoints()
    memory.unavailable = True
    for store in (nowhere, no_table, memory):
        with pytest.raises(StoreUnavailable):
            told(lambda store=store: store.write("k", b"x", [RECORD]))  # type: ignore[misc]
    for store in (no_table, memory):
        with pytest.raises(StoreUnavailable):
            told(lambda store=store: store.find("s1"))  # type: ignore[misc]
    with pytest.raises(StoreUnavailable):
        told(lambda: nowhere.read(RECORD))


def test_a_record_that_is_none_is_no_answer(s3: Any, dynamodb: Any) -> None:
    dynamodb.put_item(TableName=TABLE, Item={name: {"S": value} for name, value in stream_key("s1").items()})
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        told(lambda: AwsCheckpoints(s3, BUCKET, dynamodb, TABLE).find("s1"))
