"""Read the records of the cluster's table: of nodes, of drains, of the group's capacity."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from boto3.dynamodb.types import TypeDeserializer

from node_agent.contract.capacity import CapacityRecord, capacity_from_item, group_key
from node_agent.contract.drain_record import DRAIN_KIND, DrainRecord, drain_from_item
from node_agent.contract.table_schema import (
    PARTITION_KEY,
    SORT_KEY,
    NodeRecord,
    TimelineStep,
    node_key,
    record_from_item,
    timeline_from_item,
)

MAX_PAGES = 64
"""Of a scan, with 1 MB each: the table has a record for each open stream, too."""

_NODE_PREFIX = node_key("")[PARTITION_KEY]


@dataclass(frozen=True)
class NodeRecords:
    """Records of all nodes. is_complete: False where the table is larger than what was read."""

    nodes: tuple[NodeRecord, ...]
    drains: tuple[DrainRecord, ...]
    is_complete: bool


class Records:
    """Reads one table. client: boto3's of DynamoDB. Methods raise BotoCoreError and ClientError.

    A record that cannot be parsed counts as absent: another version wrote it, or a person edited it.
    """

    def __init__(self, client: Any, table: str) -> None:
        self._client = client
        self._table = table

    def timeline(self, instance_id: str) -> dict[str, TimelineStep]:
        """Return the timeline of a node's record; empty where it has none."""
        item = self._item(node_key(instance_id))
        return timeline_from_item(item) if item is not None else {}

    def of_nodes(self) -> NodeRecords:
        """Return the records and the drains of all nodes of the last week; of a large table its first MAX_PAGES."""
        pages = self._client.get_paginator("scan").paginate(
            TableName=self._table,
            FilterExpression="begins_with(#pk, :node) AND (#sk = :record OR begins_with(#sk, :drain))",
            ExpressionAttributeNames={"#pk": PARTITION_KEY, "#sk": SORT_KEY},
            ExpressionAttributeValues={
                ":node": {"S": _NODE_PREFIX},
                ":record": {"S": node_key("")[SORT_KEY]},
                ":drain": {"S": f"{DRAIN_KIND}#"},
            },
        )
        nodes: list[NodeRecord] = []
        drains: list[DrainRecord] = []
        for number, page in enumerate(pages):
            if number == MAX_PAGES:
                return NodeRecords(tuple(nodes), tuple(drains), is_complete=False)
            for item in map(_plain, page["Items"]):
                with suppress(ValueError):
                    if item.get(SORT_KEY) == node_key("")[SORT_KEY]:
                        nodes.append(record_from_item(item))
                    else:
                        drains.append(drain_from_item(item))
        return NodeRecords(tuple(nodes), tuple(drains), is_complete=True)

    def drain(self, instance_id: str) -> DrainRecord | None:
        """Return the record of a node's last drain; None where it has not drained."""
        partition = node_key(instance_id)[PARTITION_KEY]
        answer = self._client.query(
            TableName=self._table,
            KeyConditionExpression="#pk = :pk AND begins_with(#sk, :kind)",
            ExpressionAttributeNames={"#pk": PARTITION_KEY, "#sk": SORT_KEY},
            ExpressionAttributeValues={":pk": {"S": partition}, ":kind": {"S": f"{DRAIN_KIND}#"}},
            ScanIndexForward=False,
            Limit=1,
        )
        try:
            return next((drain_from_item(_plain(item)) for item in answer["Items"]), None)
        except ValueError:
            return None

    def capacity(self, group: str) -> CapacityRecord | None:
        """Return the record of the changes of a group's on-demand base; None where there is none."""
        item = self._item(group_key(group))
        try:
            return capacity_from_item(item) if item is not None else None
        except ValueError:
            return None

    def _item(self, key: Mapping[str, str]) -> dict[str, Any] | None:
        typed = {name: {"S": value} for name, value in key.items()}
        item = self._client.get_item(TableName=self._table, Key=typed, ConsistentRead=True).get("Item")
        return _plain(item) if item else None


def _plain(item: Mapping[str, Any]) -> dict[str, Any]:
    read = TypeDeserializer().deserialize
    return {name: read(value) for name, value in item.items()}
