"""Store in the table which streams a node has open, and what became of single streams.

The rules of `contract/open_streams` and `contract/ownership` are conditions of the writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from boto3.dynamodb.types import TypeSerializer

from node_agent.adapters.aws import error_code, in_thread
from node_agent.adapters.dynamodb import decode
from node_agent.contract.errors import StaleEpoch, StoreUnavailable
from node_agent.contract.open_streams import OpenStreams, open_streams_from_item, open_streams_key
from node_agent.contract.ownership import Ownership, forward_condition, ownership_from_item, ownership_key
from node_agent.contract.table_schema import PARTITION_KEY, SORT_KEY

MAX_CONCURRENCY = 16
"""Concurrent writes. A draining node has seconds for up to 2,000 streams."""

_REFUSED = "ConditionalCheckFailedException"


class DynamoStreamRecords:
    """The StreamRecords port. client: boto3's of DynamoDB, for MAX_CONCURRENCY connections."""

    def __init__(self, client: Any, table: str) -> None:
        self._client = client
        self._table = table
        self._threads = ThreadPoolExecutor(MAX_CONCURRENCY, thread_name_prefix="stream-records")

    async def write_open(self, record: OpenStreams) -> None:
        """Write the record; what a Lambda added for this incarnation stays. Raises StoreUnavailable as `in_thread`.

        Raises:
            StaleEpoch: A newer incarnation has written its own.
        """
        if not await self._write(lambda: self._update(record)) and not await self._write(lambda: self._replace(record)):
            raise StaleEpoch(f"a newer incarnation than {record.incarnation} has a record of open streams")

    async def _write(self, write: Any) -> bool:
        """Write; return False where the condition is not met."""
        try:
            await in_thread("writing this node's open streams", write, self._threads)
        except StoreUnavailable as error:
            if error_code(error) != _REFUSED:
                raise
            return False
        return True

    def _update(self, record: OpenStreams) -> None:
        """Set this record's attributes, and no others: a Lambda may have set the deadline and the end."""
        fields = {name: value for name, value in record.to_item().items() if name not in (PARTITION_KEY, SORT_KEY)}
        self._client.update_item(
            TableName=self._table,
            Key=_encode(open_streams_key(record.instance_id)),
            UpdateExpression="SET " + ", ".join(f"#{name} = :{name}" for name in fields),
            ConditionExpression="attribute_not_exists(incarnation) OR incarnation = :incarnation",
            ExpressionAttributeNames={f"#{name}": name for name in fields},
            ExpressionAttributeValues=_encode({f":{name}": value for name, value in fields.items()}),
        )

    def _replace(self, record: OpenStreams) -> None:
        """Write over the record of an older incarnation."""
        self._client.put_item(
            TableName=self._table,
            Item=_encode(record.to_item()),
            ConditionExpression="incarnation < :incarnation",
            ExpressionAttributeValues=_encode({":incarnation": record.incarnation}),
        )

    async def read_open(self, instance_id: str) -> OpenStreams | None:
        """Return a node's record; None where there is none, or none that can be parsed. Raises StoreUnavailable."""
        item = await self._read(open_streams_key(instance_id))
        try:
            record = open_streams_from_item(item)
        except ValueError:
            return None
        return record if record.instance_id == instance_id else None

    async def advance(self, changes: Sequence[Ownership]) -> int:
        """Write those that move their stream forward.

        Raises StoreUnavailable where one could not be written; those before it may be.

        Returns:
            How many were written.
        """
        written = 0
        for first in range(0, len(changes), MAX_CONCURRENCY):  # so that a failure is not repeated for each of them
            some = changes[first : first + MAX_CONCURRENCY]
            written += sum(await asyncio.gather(*(self._write(lambda each=each: self._put(each)) for each in some)))
        return written

    def _put(self, change: Ownership) -> None:
        condition, values = forward_condition(change)
        self._client.put_item(
            TableName=self._table,
            Item=_encode(change.to_item()),
            ConditionExpression=condition,
            ExpressionAttributeValues=_encode(values),
        )

    async def find(self, stream: str) -> Ownership | None:
        """Return a stream's ownership; None where there is none that can be parsed. Raises StoreUnavailable."""
        item = await self._read(ownership_key(stream))
        try:
            found = ownership_from_item(item)
        except ValueError:
            return None
        return found if found.stream == stream else None

    async def _read(self, key: Mapping[str, str]) -> dict[str, Any]:
        return await in_thread(
            "reading the records of streams",
            lambda: decode(
                self._client.get_item(TableName=self._table, Key=_encode(key), ConsistentRead=True).get("Item")
            ),
            self._threads,
        )


def _encode(value: Mapping[str, Any]) -> dict[str, Any]:
    serialize = TypeSerializer().serialize
    return {name: serialize(item) for name, item in value.items()}
