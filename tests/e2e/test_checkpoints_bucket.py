"""Journals and contexts in the checkpoints bucket of the embedded AWS: multipart, ranges, conditional records."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import Any

import pytest

from local.aws import EmbeddedAws
from node_agent.adapters.block_store import S3BlockStore
from node_agent.adapters.checkpoints import AwsCheckpoints
from node_agent.contract.table_schema import PARTITION_KEY, SORT_KEY, StreamRecord, StreamStatus
from node_agent.core.kv.blocks import block_name, chain, chain_root
from node_agent.core.kv.index import Index, blocks_key, plan_batches

pytestmark = pytest.mark.e2e

BUCKET, TABLE, STREAM = "synkti-checkpoints-test", "synkti-records-test", "ab" * 12
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def aws(deployed_aws: EmbeddedAws) -> EmbeddedAws:
    """Add a bucket and a table, which are not those of the stacks."""
    deployed_aws.client("s3").create_bucket(Bucket=BUCKET)
    _make_table(deployed_aws)
    return deployed_aws


def _make_table(aws: EmbeddedAws) -> None:
    schema: Any = [{"AttributeName": PARTITION_KEY, "KeyType": "HASH"}, {"AttributeName": SORT_KEY, "KeyType": "RANGE"}]
    attributes: Any = [{"AttributeName": name, "AttributeType": "S"} for name in (PARTITION_KEY, SORT_KEY)]
    aws.client("dynamodb").create_table(
        TableName=TABLE, KeySchema=schema, AttributeDefinitions=attributes, BillingMode="PAY_PER_REQUEST"
    )


def test_a_context_is_uploaded_in_parts_and_downloaded_in_ranges(aws: EmbeddedAws) -> None:
    made = bytes(16)
    names = tuple(map(block_name, chain(chain_root(made), range(40), 4)))
    blocks = {name: os.urandom(3 * MIB) for name in names}
    s3 = aws.client("s3")
    store = S3BlockStore(s3, BUCKET)

    async def scenario() -> dict[str, bytes]:
        assert await store.index(made, STREAM) is None
        await store.keep(STREAM, Index(made, names, (3 * MIB,) * len(names)), blocks.get)
        index = await store.index(made, STREAM)
        assert index is not None
        batches = list(plan_batches(index, lambda _: True))
        ranges = await asyncio.gather(*(store.fetch(index, batch) for batch in batches))
        found: dict[str, bytes] = {}
        for batch, data in zip(batches, ranges, strict=True):
            assert len(data) == batch.end - batch.start
            found |= {name: data[at * 3 * MIB : (at + 1) * 3 * MIB] for at, name in enumerate(batch.names)}
        return found

    assert asyncio.run(scenario()) == blocks
    assert s3.head_object(Bucket=BUCKET, Key=blocks_key(made, STREAM))["ETag"].strip('"').endswith("-4")


def test_a_checkpoint_is_found_and_an_older_record_does_not_replace_it(aws: EmbeddedAws) -> None:
    store = AwsCheckpoints(aws.client("s3"), BUCKET, aws.client("dynamodb"), TABLE)
    record = StreamRecord(STREAM, 2, "i-1", 40, StreamStatus.HANDED_OFF, "journals/i-1/7-0", 3, 4, "digest", 99)

    async def scenario() -> None:
        assert await store.find(STREAM) is None
        assert await store.write(record.object_key, b"abcdefghi", [record]) == 1
        assert await store.find(STREAM) == record
        assert await store.read(record) == b"defg"
        assert await store.write(record.object_key, b"abcdefghi", [replace(record, number=1, seq=99)]) == 0
        assert await store.find(STREAM) == record
        assert await store.read(replace(record, object_key="journals/gone")) is None

    asyncio.run(scenario())
