"""One interruption of a stream that is being read: the node that loses, and what AWS comes to know about it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from boto3.dynamodb.types import TypeDeserializer

from local.demo.context import DemoContext
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
}
"""By kind: what the deployed Lambdas must write into the node's record."""

_FINAL_STATE_TAGS: dict[str, set[str | None]] = {"notice": {None, NodeState.GONE}, "sigkill": {NodeState.GONE}}
"""By kind: the state tag in the end. A drained node has untagged itself; a killed one only a Lambda can tag."""

FaultAction = Callable[[EmulatedInstance], Awaitable[None]]
"""Takes a machine away, or says that it will be."""


class Interruption:
    """Happens once, at `strike`; from then on the node's tags are watched. victim: None until then."""

    def __init__(self, stage: DemoContext, kind: str, take: FaultAction) -> None:
        self.target: EmulatedInstance | None = None
        self._context = stage
        self._kind = kind
        self._action = take
        self._tags: list[tuple[float, dict[str, str]]] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, machine: EmulatedInstance) -> None:
        self.target = machine
        self._tasks = [asyncio.create_task(self._run_action(machine)), asyncio.create_task(self._watch_tags(machine))]

    async def verify(self) -> None:
        """Wait for what the Lambdas write, and show it. Raises LocalRunError where it does not come."""
        if self.target is None:
            raise AssertionError("nothing was interrupted")
        try:
            await self._tasks[0]
            record = await self._complete_record(self.target)
        finally:
            await self.stop()
        self._context.screen.timeline(record, [(at, seen) for at, seen in self._tags if STATE_TAG in seen or not seen])

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run_action(self, machine: EmulatedInstance) -> None:
        await self._action(machine)

    async def _watch_tags(self, machine: EmulatedInstance) -> None:
        while True:
            seen = await asyncio.to_thread(self._context.emulator.tags, machine.instance_id)
            if not self._tags or self._tags[-1][1] != seen:
                self._tags.append((time.time(), seen))
            await asyncio.sleep(_POLL_INTERVAL_S)

    async def _complete_record(self, machine: EmulatedInstance) -> NodeRecord:
        expected = _EXPECTED_STEPS[self._kind]
        give_up_at = time.monotonic() + _RECORD_TIMEOUT_S
        while True:
            item = await asyncio.to_thread(self._read_item, machine)
            record = record_from_item(item) if item is not None else None
            state = self._tags[-1][1].get(STATE_TAG) if self._tags else None
            if record is not None and expected <= set(record.timeline) and state in _FINAL_STATE_TAGS[self._kind]:
                return record
            if time.monotonic() > give_up_at:
                has = sorted(record.timeline) if record is not None else "nothing"
                raise LocalRunError(
                    f"the Lambdas did not write {sorted(expected)} for {machine.instance_id} and tag it; "
                    f"the record has {has}, the tag says {state}"
                )
            await asyncio.sleep(_POLL_INTERVAL_S)

    def _read_item(self, machine: EmulatedInstance) -> dict[str, Any] | None:
        key = {name: {"S": value} for name, value in node_key(machine.instance_id).items()}
        table = self._context.deployed.table
        item = self._context.aws.client("dynamodb").get_item(TableName=table, Key=key).get("Item")
        reader = TypeDeserializer()
        return {name: reader.deserialize(value) for name, value in item.items()} if item is not None else None
