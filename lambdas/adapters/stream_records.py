"""Read and write the records of streams in DynamoDB. Every write is conditional: forward, or on what was read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

from boto3.dynamodb.conditions import Attr, Key
from botocore.exceptions import ClientError

from lambdas.adapters.dynamodb import read_record, write_conditionally
from lambdas.adapters.responses import error_code
from node_agent.contract.open_streams import (
    OpenStreams,
    open_streams_from_item,
    open_streams_key,
    open_streams_life,
)
from node_agent.contract.ownership import (
    CHANGED_ATTRIBUTE,
    STATUS_ATTRIBUTE,
    STATUS_INDEX,
    Ownership,
    forward_condition,
)
from node_agent.contract.table_schema import TTL_ATTRIBUTE, StreamStatus

MAX_CONCURRENCY = 16
"""Concurrent writes: one node's record has up to 2,000 streams, and a Lambda has seconds."""

MAX_PAGES = 50
"""Of a count, 1 MB each. Beyond it the count is a lower bound."""


class DynamoStreams:
    """Implements the StreamRecords port with a boto3 DynamoDB Table resource."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def find(self, instance_id: str) -> OpenStreams | None:
        """Read the node's record, consistently; None where there is none, or none that can be parsed."""
        return read_record(self._table, open_streams_key(instance_id), open_streams_from_item)

    def advance(self, changes: Sequence[Ownership]) -> int:
        """Write those that move their stream forward, concurrently. Returns how many; raises botocore's errors."""
        if not changes:
            return 0
        with ThreadPoolExecutor(min(MAX_CONCURRENCY, len(changes))) as threads:
            return sum(threads.map(self._put, changes))

    def _put(self, change: Ownership) -> bool:
        condition, values = forward_condition(change)
        try:
            # The resource's client: unlike the resource itself it may be used by several threads.
            self._table.meta.client.put_item(
                TableName=self._table.name,
                Item=change.to_item(),
                ConditionExpression=condition,
                ExpressionAttributeValues=values,
            )
        except ClientError as error:
            if error_code(error) != "ConditionalCheckFailedException":
                raise
            return False
        return True

    def mark_deadline(self, record: OpenStreams, deadline: float) -> None:
        """Add the deadline, and renew the record. Raises RecordChanged, botocore's errors."""
        life = max(record.expires_at, open_streams_life(deadline))
        self._mark(record, "deadline_ms", deadline, {TTL_ATTRIBUTE: life})

    def mark_ended(self, record: OpenStreams, at: float) -> None:
        """Add when the node ended. Raises RecordChanged, botocore's errors."""
        self._mark(record, "ended_ms", at, {})

    def _mark(self, record: OpenStreams, name: str, at: float, more: Mapping[str, int]) -> None:
        """Set an instant that the record, of the same incarnation, does not have yet."""
        values = {name: round(at * 1000), **more}
        write_conditionally(
            lambda: self._table.update_item(
                Key=open_streams_key(record.instance_id),
                UpdateExpression="SET " + ", ".join(f"#{each} = :{each}" for each in values),
                ConditionExpression=f"incarnation = :incarnation AND attribute_not_exists(#{name})",
                ExpressionAttributeNames={f"#{each}": each for each in values},
                ExpressionAttributeValues={
                    ":incarnation": record.incarnation,
                    **{f":{each}": value for each, value in values.items()},
                },
            )
        )

    def orphaned(self, before: float, now: float) -> int:
        """Count the orphaned streams in the index, over at most MAX_PAGES. Raises botocore's errors."""
        is_orphaned = Key(STATUS_ATTRIBUTE).eq(StreamStatus.ORPHANED.value)
        query: dict[str, Any] = {
            "IndexName": STATUS_INDEX,
            "Select": "COUNT",
            "KeyConditionExpression": is_orphaned & Key(CHANGED_ATTRIBUTE).lt(Decimal(round(before * 1000))),
            "FilterExpression": Attr(TTL_ATTRIBUTE).gt(Decimal(int(now))),
        }
        count = 0
        for _ in range(MAX_PAGES):
            page = self._table.query(**query)
            count += page["Count"]
            if "LastEvaluatedKey" not in page:
                break
            query["ExclusiveStartKey"] = page["LastEvaluatedKey"]
        return count
