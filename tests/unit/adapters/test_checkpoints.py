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


def run_story(story: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    return asyncio.run(story())


def test_a_journal_is_found_and_read_at_the_place_in_its_record(store: Checkpoints) -> None:
    async def story() -> tuple[int, StreamRecord | None, bytes | None, StreamRecord | None]:
        other = replace(RECORD, stream="s2", start=0, length=3)
        written = await store.write(RECORD.object_key, b"abcdefghi", [RECORD, other])
        return written, await store.find("s1"), await store.read(RECORD), await store.find("nobody")

    assert run_story(story) == (2, RECORD, b"defg", None)


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

    assert run_story(story) == (int(forward), changed if forward else RECORD)


def test_a_missing_object_is_none(store: Checkpoints) -> None:
    async def story() -> bytes | None:
        return await store.read(RECORD)

    assert run_story(story) is None


def test_a_store_that_does_not_answer_is_unavailable(s3: Any, dynamodb: Any) -> None:
    nowhere = AwsCheckpoints(s3, "no-such-bucket", dynamodb, TABLE)
    no_table = AwsCheckpoints(s3, BUCKET, dynamodb, "no-such-table")
    memory = MemoryCheckpoints()
    memory.unavailable = True
    for store in (nowhere, no_table, memory):
        with pytest.raises(StoreUnavailable):
            run_story(lambda store=store: store.write("k", b"x", [RECORD]))  # type: ignore[misc]
    for store in (no_table, memory):
        with pytest.raises(StoreUnavailable):
            run_story(lambda store=store: store.find("s1"))  # type: ignore[misc]
    with pytest.raises(StoreUnavailable):
        run_story(lambda: nowhere.read(RECORD))


def test_an_invalid_record_is_no_answer(s3: Any, dynamodb: Any) -> None:
    dynamodb.put_item(TableName=TABLE, Item={name: {"S": value} for name, value in stream_key("s1").items()})
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        run_story(lambda: AwsCheckpoints(s3, BUCKET, dynamodb, TABLE).find("s1"))
