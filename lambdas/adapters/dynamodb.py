"""Read and write the Lambdas' records in DynamoDB.

Every write is conditional on what was read before, and extends the record's expiry. A record that cannot be parsed
counts as absent: the next write replaces it, if it has not changed since it was read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from aws_lambda_powertools import Logger
from botocore.exceptions import ClientError

from lambdas.adapters.ports import RecordChanged
from lambdas.adapters.responses import error_code
from lambdas.core.decisions import Action, Decision, append_interruption
from node_agent.contract.capacity import CapacityRecord, capacity_from_item, group_key
from node_agent.contract.items import whole
from node_agent.contract.launch_breaker import BreakerRecord, breaker_from_item, breaker_key
from node_agent.contract.table_schema import (
    PARTITION_KEY,
    TTL_ATTRIBUTE,
    NodeRecord,
    node_key,
    pool_key,
    record_from_item,
    renewed,
    step_item,
)

logger = Logger(child=True)
_T = TypeVar("_T")


class DynamoRecords:
    """Implements the Records port with a boto3 DynamoDB Table resource."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def find(self, instance_id: str) -> NodeRecord | None:
        """Read the node's record, consistently; None where there is none, or none that can be parsed."""
        return read_record(self._table, node_key(instance_id), record_from_item)

    def write(self, decision: Decision) -> None:
        """Write what the decision has, if the record is as it was read. Raises RecordChanged, botocore's errors."""
        record, step = decision.record, decision.step
        if record is None or step is None:
            raise AssertionError(f"nothing to write in {decision}")
        if decision.action is Action.CREATE:
            write_conditionally(
                lambda: self._table.put_item(
                    Item=record.to_item(),
                    # An item without an incarnation was not written by a node and cannot be parsed.
                    ConditionExpression=f"attribute_not_exists({PARTITION_KEY}) OR attribute_not_exists(incarnation)",
                )
            )
            return
        update = "SET timeline.#step = :step, #life = :life"
        condition = "incarnation = :incarnation AND attribute_not_exists(timeline.#step) AND state_rank = :was"
        names = {"#step": step.key, "#life": TTL_ATTRIBUTE}
        values: dict[str, Any] = {
            ":step": step_item(step),
            ":incarnation": record.incarnation,
            ":was": record.state.rank,
            ":life": max(record.expires_at, renewed(step.at)),
        }
        if decision.state is not None:
            update += ", #state = :state, state_rank = :rank"
            names["#state"] = "state"
            values |= {":state": decision.state.value, ":rank": decision.state.rank}
        write_conditionally(
            lambda: self._table.update_item(
                Key=node_key(record.instance_id),
                UpdateExpression=update,
                ConditionExpression=condition,
                ExpressionAttributeNames=names,
                ExpressionAttributeValues=values,
            )
        )

    def record_interruption(self, zone: str, instance_type: str, at: float, now: float) -> None:
        """Add the interruption, if the others are as they were read. Raises RecordChanged, botocore's errors."""
        held = self._table.get_item(Key=pool_key(zone, instance_type), ConsistentRead=True).get("Item", {})
        after = append_interruption(_readable_interruptions(held), at)
        condition = "recent = :before" if "recent" in held else "attribute_not_exists(recent)"
        values: dict[str, Any] = {":after": list(after), ":expires": renewed(now)}
        if "recent" in held:
            values[":before"] = held["recent"]
        write_conditionally(
            lambda: self._table.update_item(
                Key=pool_key(zone, instance_type),
                UpdateExpression=f"SET recent = :after, {TTL_ATTRIBUTE} = :expires",
                ConditionExpression=condition,
                ExpressionAttributeValues=values,
            )
        )

    def recent_interruptions(self, zone: str, instance_type: str) -> tuple[int, ...]:
        """Read the pool's interruptions, consistently; those that cannot be parsed are skipped."""
        item = self._table.get_item(Key=pool_key(zone, instance_type), ConsistentRead=True).get("Item", {})
        return _readable_interruptions(item)


def _readable_interruptions(item: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the interruptions (unix milliseconds) that can be parsed; others are skipped."""
    held = item.get("recent")
    found = []
    for at in held if isinstance(held, list) else ():
        with contextlib.suppress(ValueError):
            found.append(whole({"recent": at}, "recent"))
    return tuple(found)


def read_record(table: Any, key: dict[str, str], read: Callable[[Mapping[str, Any]], _T]) -> _T | None:
    """Return the parsed item; None where there is none, or none that can be parsed."""
    item = table.get_item(Key=key, ConsistentRead=True).get("Item")
    if item is None:
        return None
    try:
        return read(item)
    except ValueError as error:
        logger.warning("a record cannot be parsed; it counts as absent", extra={**key, "why": str(error)})
        return None


class DynamoCapacity:
    """Implements the CapacityRecords port with the same table."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def find(self, group: str) -> CapacityRecord | None:
        """Read the group's record, consistently; None where there is none, or none that can be parsed."""
        return read_record(self._table, group_key(group), capacity_from_item)

    def write(self, record: CapacityRecord) -> None:
        """Replace the version before. Raises RecordChanged, botocore's errors."""
        _replace_version(self._table, record.to_item(), record.version)


class DynamoBreaker:
    """Implements the BreakerRecords port with the same table."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def find(self, group: str) -> BreakerRecord | None:
        """Read the group's record, consistently; None where there is none, or none that can be parsed."""
        return read_record(self._table, breaker_key(group), breaker_from_item)

    def write(self, record: BreakerRecord) -> None:
        """Replace the version before. Raises RecordChanged, botocore's errors."""
        _replace_version(self._table, record.to_item(), record.version)


def _replace_version(table: Any, item: Mapping[str, Any], version: int) -> None:
    """Write the item if the table has the version before; 1 means that there was no readable record."""
    if version == 1:
        condition, values = f"attribute_not_exists({PARTITION_KEY}) OR attribute_not_exists(version)", {}
    else:
        condition, values = "version = :before", {":before": version - 1}
    write_conditionally(
        lambda: table.put_item(
            Item=item, ConditionExpression=condition, **({"ExpressionAttributeValues": values} if values else {})
        )
    )


def write_conditionally(write: Callable[[], object]) -> None:
    """Write. Raises RecordChanged where the condition is not met, botocore's errors."""
    try:
        write()
    except ClientError as error:
        if error_code(error) == "ConditionalCheckFailedException":
            raise RecordChanged from error
        raise
