"""Store this node's record in the table. The rules of `contract/table_schema` are conditions of the writes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer

from node_agent.adapters.aws import aws_threads, error_code, in_thread
from node_agent.contract.drain_record import DrainRecord
from node_agent.contract.errors import StaleEpoch, StoreUnavailable
from node_agent.contract.items import whole
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import (
    TTL_ATTRIBUTE,
    NodeRecord,
    RecordMissing,
    TimelineStep,
    node_key,
    renewed,
    step_item,
    timeline_from_item,
)

_REFUSED = "ConditionalCheckFailedException"


def _encode(value: dict[str, Any]) -> dict[str, Any]:
    serializer = TypeSerializer()
    return {key: serializer.serialize(item) for key, item in value.items()}


def decode(item: object) -> dict[str, Any]:
    """Return the attributes of an item that can be read; none where it is no item."""
    found = {}
    for name, value in item.items() if isinstance(item, Mapping) else ():
        with contextlib.suppress(TypeError, ValueError, AttributeError, LookupError, ArithmeticError):
            found[name] = TypeDeserializer().deserialize(value)
    return found


class DynamoRecords:
    """The Records port, over a boto3 DynamoDB client."""

    def __init__(self, client: Any, table: str) -> None:
        self._client = client
        self._threads = aws_threads("dynamodb")
        self._table = table

    async def begin(self, record: NodeRecord) -> None:
        """Write the record of a new incarnation, over that of an older one. Raises StoreUnavailable."""
        item = _encode(record.to_item())
        await in_thread(
            "writing this node's record", lambda: self._client.put_item(TableName=self._table, Item=item), self._threads
        )

    async def advance(self, instance_id: str, incarnation: int, state: NodeState, step: TimelineStep) -> None:
        """Add a step once, and move the state if that is forward; both extend the record's expiry.

        A record of another incarnation is not changed: StaleEpoch where a newer one owns it, RecordMissing where it
        has to be created again.

        Raises:
            StoreUnavailable: DynamoDB does not answer, or fails; the step may be written already.
        """
        key = _encode(node_key(instance_id))
        mine = "incarnation = :incarnation"
        life = {":life": renewed(step.at)}
        values = _encode({":incarnation": incarnation, ":step": step_item(step), **life})
        try:
            await self._update(
                key, "SET timeline.#step = :step, #life = :life", f"{mine} AND attribute_not_exists(timeline.#step)",
                {"#step": step.key, "#life": TTL_ATTRIBUTE}, values,
            )  # fmt: skip
        except StoreUnavailable as error:
            if error_code(error) != _REFUSED:
                raise
            # The step is stored already, or the incarnation differs: the second write finds out.
        values = _encode({":incarnation": incarnation, ":state": state.value, ":rank": state.rank, **life})
        try:
            await self._update(
                key, "SET #state = :state, state_rank = :rank, #life = :life", f"{mine} AND state_rank <= :rank",
                {"#state": "state", "#life": TTL_ATTRIBUTE}, values,
            )  # fmt: skip
        except StoreUnavailable as error:
            if error_code(error) != _REFUSED:
                raise
            await self._check_owner(key, incarnation)

    async def put_drain(self, record: DrainRecord) -> None:
        """Write the record of a drain, over the previous one. Raises StoreUnavailable."""
        item = _encode(record.to_item())
        await in_thread(
            "writing this drain's record",
            lambda: self._client.put_item(TableName=self._table, Item=item),
            self._threads,
        )

    async def _check_owner(self, key: dict[str, Any], incarnation: int) -> None:
        item = await in_thread(
            "reading this node's record",
            lambda: decode(self._client.get_item(TableName=self._table, Key=key, ConsistentRead=True).get("Item")),
            self._threads,
        )
        try:
            owner = whole(item, "incarnation")
        except ValueError:  # it is missing, or so damaged that it has no owner
            owner = -1
        if owner > incarnation:
            raise StaleEpoch(f"the record belongs to incarnation {owner}, not to {incarnation}")
        if owner < incarnation:
            raise RecordMissing(f"there is no record of incarnation {incarnation}", timeline_from_item(item))

    async def _update(
        self, key: dict[str, Any], update: str, condition: str, names: dict[str, str], values: dict[str, Any]
    ) -> None:
        await in_thread(
            "advancing this node's record",
            lambda: self._client.update_item(
                TableName=self._table,
                Key=key,
                UpdateExpression=update,
                ConditionExpression=condition,
                ExpressionAttributeNames=names,
                ExpressionAttributeValues=values,
            ),
            self._threads,
        )
