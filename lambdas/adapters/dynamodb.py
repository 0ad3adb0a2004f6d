"""The table, as the Lambdas write it: every write depends on what was read before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from lambdas.adapters.ports import RecordChanged
from lambdas.core.decisions import Action, Decision, with_interruption
from node_agent.contract.capacity import CapacityRecord, capacity_from_item, group_key
from node_agent.contract.records import (
    PARTITION_KEY,
    RECORD_LIFE_S,
    TTL_ATTRIBUTE,
    NodeRecord,
    node_key,
    pool_key,
    record_from_item,
    step_item,
)


class DynamoRecords:
    """The Records port, over a boto3 DynamoDB Table resource."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def find(self, instance_id: str) -> NodeRecord | None:
        item = self._table.get_item(Key=node_key(instance_id), ConsistentRead=True).get("Item")
        return record_from_item(item) if item is not None else None

    def write(self, decision: Decision) -> None:
        record, step = decision.record, decision.step
        if record is None or step is None:
            raise AssertionError(f"nothing to write in {decision}")
        if decision.action is Action.CREATE:
            _conditionally(
                lambda: self._table.put_item(
                    Item=record.to_item(), ConditionExpression=f"attribute_not_exists({PARTITION_KEY})"
                )
            )
            return
        update = "SET timeline.#step = :step"
        condition = "incarnation = :incarnation AND attribute_not_exists(timeline.#step) AND state_rank = :was"
        names = {"#step": step.key}
        values: dict[str, Any] = {
            ":step": step_item(step),
            ":incarnation": record.incarnation,
            ":was": record.state.rank,
        }
        if decision.state is not None:
            update += ", #state = :state, state_rank = :rank"
            names["#state"] = "state"
            values |= {":state": decision.state.value, ":rank": decision.state.rank}
        _conditionally(
            lambda: self._table.update_item(
                Key=node_key(record.instance_id),
                UpdateExpression=update,
                ConditionExpression=condition,
                ExpressionAttributeNames=names,
                ExpressionAttributeValues=values,
            )
        )

    def note_interruption(self, zone: str, instance_type: str, at: float, now: float) -> None:
        before = self.recent_interruptions(zone, instance_type)
        after = with_interruption(before, at)
        condition = "recent = :before" if before else f"attribute_not_exists({PARTITION_KEY})"
        values: dict[str, Any] = {":after": list(after), ":expires": int(now) + RECORD_LIFE_S}
        if before:
            values[":before"] = list(before)
        _conditionally(
            lambda: self._table.update_item(
                Key=pool_key(zone, instance_type),
                UpdateExpression=f"SET recent = :after, {TTL_ATTRIBUTE} = :expires",
                ConditionExpression=condition,
                ExpressionAttributeValues=values,
            )
        )

    def recent_interruptions(self, zone: str, instance_type: str) -> tuple[int, ...]:
        item = self._table.get_item(Key=pool_key(zone, instance_type), ConsistentRead=True).get("Item", {})
        return tuple(int(at) for at in item.get("recent", ()))


class DynamoCapacity:
    """The CapacityRecords port, over the same table."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def find(self, group: str) -> CapacityRecord | None:
        item = self._table.get_item(Key=group_key(group), ConsistentRead=True).get("Item")
        return capacity_from_item(item) if item is not None else None

    def write(self, record: CapacityRecord) -> None:
        """The version says which one was read: 1 stands on nothing."""
        if record.version == 1:
            condition, values = f"attribute_not_exists({PARTITION_KEY})", {}
        else:
            condition, values = "version = :before", {":before": record.version - 1}
        _conditionally(
            lambda: self._table.put_item(
                Item=record.to_item(),
                ConditionExpression=condition,
                **({"ExpressionAttributeValues": values} if values else {}),
            )
        )


def _conditionally(write: Callable[[], object]) -> None:
    try:
        write()
    except ClientError as error:
        if error.response["Error"]["Code"] == "ConditionalCheckFailedException":
            raise RecordChanged from error
        raise
