"""Interrupts a node while a stream is read, and verifies what the Lambdas record about it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from boto3.dynamodb.types import TypeDeserializer

from local.demo.context import DemoContext
from local.demo.timeline import steps_by_cause
from local.emulated_instance import EmulatedInstance
from local.errors import LocalRunError
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import NodeRecord, node_key, record_from_item
from node_agent.contract.tags import STATE_TAG

_POLL_INTERVAL_S = 0.2
_RECORD_TIMEOUT_S = 20.0
_EXPECTED_STEPS = {
    "notice": {"interruption-notice@eventbridge", "terminated@eventbridge"},
    "sigkill": {"terminated@eventbridge"},
    "entry-sigkill": {"terminated@eventbridge"},
}
"""By kind: the steps that the deployed Lambdas must write into the node's record."""

_FINAL_STATE_TAGS: dict[str, set[str | None]] = {
    "notice": {None, NodeState.GONE},
    "sigkill": {NodeState.GONE},
    "entry-sigkill": {NodeState.GONE},
}
"""By kind: the final state tags. A drained node removes its own tag; only a Lambda can tag a killed one."""

FaultAction = Callable[[EmulatedInstance], Awaitable[None]]
"""Ends an instance, or gives it notice."""


class Interruption:
    """One fault, injected by `start`. From then on the node's tags are watched; `target` is None before."""

    def __init__(self, context: DemoContext, kind: str, action: FaultAction) -> None:
        self.target: EmulatedInstance | None = None
        self._context = context
        self.kind = kind
        self._action = action
        self._tags: list[tuple[float, dict[str, str]]] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, instance: EmulatedInstance) -> None:
        """Inject the fault into the instance and begin to watch its tags."""
        self.target = instance
        self._tasks = [asyncio.create_task(self._run_action(instance)), asyncio.create_task(self._watch_tags(instance))]

    async def verify(self) -> None:
        """Wait for the record that the Lambdas write, and print it. Raises LocalRunError if it stays incomplete."""
        if self.target is None:
            raise AssertionError("nothing was interrupted")
        try:
            await self._tasks[0]
            record = await self._complete_record(self.target)
        finally:
            await self.stop()
        tags = [(at, found) for at, found in self._tags if STATE_TAG in found or not found]
        self._context.screen.timeline(record, steps_by_cause(record.timeline.values()), tags)

    async def stop(self) -> None:
        """Stop watching, and cancel a fault that is not over."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run_action(self, instance: EmulatedInstance) -> None:
        await self._action(instance)

    async def _watch_tags(self, instance: EmulatedInstance) -> None:
        while True:
            current_tags = await asyncio.to_thread(self._context.emulator.tags, instance.instance_id)
            if not self._tags or self._tags[-1][1] != current_tags:
                self._tags.append((time.time(), current_tags))
            await asyncio.sleep(_POLL_INTERVAL_S)

    async def _complete_record(self, instance: EmulatedInstance) -> NodeRecord:
        expected = _EXPECTED_STEPS[self.kind]
        give_up_at = time.monotonic() + _RECORD_TIMEOUT_S
        while True:
            item = await asyncio.to_thread(self._read_item, instance)
            record = record_from_item(item) if item is not None else None
            state = self._tags[-1][1].get(STATE_TAG) if self._tags else None
            if record is not None and expected <= set(record.timeline) and state in _FINAL_STATE_TAGS[self.kind]:
                return record
            if time.monotonic() > give_up_at:
                has = sorted(record.timeline) if record is not None else "nothing"
                raise LocalRunError(
                    f"the Lambdas did not write {sorted(expected)} for {instance.instance_id} and tag it; "
                    f"the record has {has}, the tag says {state}"
                )
            await asyncio.sleep(_POLL_INTERVAL_S)

    def _read_item(self, instance: EmulatedInstance) -> dict[str, Any] | None:
        key = {name: {"S": value} for name, value in node_key(instance.instance_id).items()}
        table = self._context.deployed.table
        item = self._context.aws.client("dynamodb").get_item(TableName=table, Key=key).get("Item")
        reader = TypeDeserializer()
        return {name: reader.deserialize(value) for name, value in item.items()} if item is not None else None
