"""Read the records of streams in the cluster's table, which nodes and Lambdas write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer

from node_agent.contract.open_streams import OpenStreams, open_streams_from_item, open_streams_key
from node_agent.contract.ownership import STATUS_ATTRIBUTE, STATUS_INDEX, Ownership, ownership_from_item
from node_agent.contract.table_schema import StreamStatus

_KEYS_PER_CALL = 100
"""DynamoDB's bound of one BatchGetItem."""

MAX_STREAMS = 10_000
"""The most streams of one status that are read."""

_T = TypeVar("_T")


class StreamRecords:
    """Reads the records. client: boto3's of DynamoDB. Methods raise BotoCoreError and ClientError."""

    def __init__(self, client: Any, table: str) -> None:
        self._client = client
        self._table = table

    def open_streams(self, instance_ids: Sequence[str]) -> list[OpenStreams]:
        """Return the records of these nodes; those that are missing, or cannot be parsed, are left out."""
        keys = [_encode(open_streams_key(instance_id)) for instance_id in instance_ids]
        found: list[OpenStreams] = []
        for first in range(0, len(keys), _KEYS_PER_CALL):
            request: dict[str, Any] = {self._table: {"Keys": keys[first : first + _KEYS_PER_CALL]}}
            while request:  # an answer has 16 MB at most, and names the keys that it left out
                answer = self._client.batch_get_item(RequestItems=request)
                found += _parsed(answer["Responses"].get(self._table, ()), open_streams_from_item)
                request = answer.get("UnprocessedKeys") or {}
        return found

    def owned(self, status: StreamStatus) -> list[Ownership]:
        """Return the streams of this status, the oldest first, MAX_STREAMS at most."""
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            IndexName=STATUS_INDEX,
            KeyConditionExpression="#status = :status",
            ExpressionAttributeNames={"#status": STATUS_ATTRIBUTE},
            ExpressionAttributeValues={":status": {"S": status.value}},
        )
        found: list[Ownership] = []
        for page in pages:
            found += _parsed(page["Items"], ownership_from_item)
            if len(found) >= MAX_STREAMS:
                break
        return found[:MAX_STREAMS]


def _parsed(items: Sequence[Mapping[str, Any]], read: Callable[[Mapping[str, Any]], _T]) -> Iterator[_T]:
    decode = TypeDeserializer().deserialize
    for item in items:
        try:
            yield read({name: decode(value) for name, value in item.items()})
        except ValueError:
            continue


def _encode(key: Mapping[str, str]) -> dict[str, Any]:
    serialize = TypeSerializer().serialize
    return {name: serialize(value) for name, value in key.items()}
