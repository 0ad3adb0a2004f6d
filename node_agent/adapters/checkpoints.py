"""Store journals of terminating nodes: objects of the checkpoints bucket, and a record for each in the table.

The record is written after the object and read before it, so that only existing objects are read: without the right to
list the bucket, S3 refuses access to a missing one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from boto3.dynamodb.types import TypeSerializer

from node_agent.adapters.aws import error_code, in_pool, in_thread
from node_agent.adapters.dynamodb import decode
from node_agent.contract.errors import StoreUnavailable
from node_agent.contract.table_schema import StreamRecord, stream_key, stream_record_from_item
from node_agent.core.replication.checkpoint import MAX_OBJECT_BYTES
from node_agent.core.replication.replica_store import MAX_JOURNAL_BYTES

MAX_CONCURRENCY = 16
"""Concurrent writes of records. A terminating node has seconds for up to 2,000 of them."""

_FORWARD = (
    "attribute_not_exists(epoch_number) OR epoch_number < :number OR (epoch_number = :number AND "
    "(epoch_owner < :owner OR (epoch_owner = :owner AND seq <= :seq)))"
)
_GONE = frozenset({"NoSuchKey", "404"})
_REFUSED = "ConditionalCheckFailedException"


class AwsCheckpoints:
    """The Checkpoints port. s3, dynamodb: boto3 clients for MAX_CONCURRENCY connections each."""

    def __init__(self, s3: Any, bucket: str, dynamodb: Any, table: str) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._dynamodb = dynamodb
        self._table = table
        self._pool = ThreadPoolExecutor(MAX_CONCURRENCY, thread_name_prefix="checkpoints")
        self._s3_threads = ThreadPoolExecutor(MAX_CONCURRENCY, thread_name_prefix="checkpoints-s3")

    async def write(self, key: str, body: bytes, records: Sequence[StreamRecord]) -> int:
        """Write the object, then each record that does not move its stream back.

        Raises StoreUnavailable where the object or a record cannot be written; other records may be written then.

        Returns:
            The number of records written; the table has newer ones of the other streams.
        """
        await in_thread(
            f"writing s3://{self._bucket}/{key}",
            lambda: self._s3.put_object(Bucket=self._bucket, Key=key, Body=body, ChecksumAlgorithm="SHA256"),
            self._s3_threads,
        )
        writing = [self._write(record) for record in records]
        return sum(await asyncio.gather(*writing))

    async def _write(self, record: StreamRecord) -> bool:
        """Write a record; return False where the table has a newer one."""
        try:
            await in_pool(self._pool, f"writing the record of stream {record.stream}", lambda: self._put(record))
        except StoreUnavailable as error:
            if error_code(error) == _REFUSED:
                return False
            raise
        return True

    def _put(self, record: StreamRecord) -> None:
        serialize = TypeSerializer().serialize
        values = {":number": record.number, ":owner": record.owner, ":seq": record.seq}
        self._dynamodb.put_item(
            TableName=self._table,
            Item={name: serialize(value) for name, value in record.to_item().items()},
            ConditionExpression=_FORWARD,
            ExpressionAttributeValues={name: serialize(value) for name, value in values.items()},
        )

    async def find(self, stream: str) -> StreamRecord | None:
        """Return a stream's record, None where there is none. Raises StoreUnavailable, also for an unreadable one."""
        key = {name: {"S": value} for name, value in stream_key(stream).items()}

        def read() -> StreamRecord | None:
            answer = self._dynamodb.get_item(TableName=self._table, Key=key, ConsistentRead=True)
            if "Item" not in answer:
                return None
            record = stream_record_from_item(decode(answer["Item"]))
            if record.stream != stream or not 0 < record.length <= MAX_OBJECT_BYTES + MAX_JOURNAL_BYTES:
                raise ValueError(f"it is of stream {record.stream[:80]}, {record.length} bytes")
            return record

        return await in_thread(f"reading the record of stream {stream}", read, self._pool)

    async def read(self, record: StreamRecord) -> bytes | None:
        """Return the bytes that a record points at, None where the object is gone. Raises StoreUnavailable."""
        first, last = record.start, record.start + record.length - 1
        what = f"reading s3://{self._bucket}/{record.object_key}"
        try:
            return await in_thread(what, lambda: self._read(record.object_key, first, last), self._s3_threads)
        except StoreUnavailable as error:
            if error_code(error) in _GONE:
                return None
            raise

    def _read(self, key: str, first: int, last: int) -> bytes:
        answer = self._s3.get_object(Bucket=self._bucket, Key=key, Range=f"bytes={first}-{last}")
        body: bytes = answer["Body"].read(last - first + 2)  # one more than asked for tells of too many
        if len(body) != last - first + 1:
            raise ValueError(f"{len(body)} bytes or more, not {last - first + 1}")
        return body
