"""The loss of an entry with the deployed Lambdas: its stream is orphaned, resumed, and closed in the table.

The nodes are agents of this process with the fake engine; their table, the rules, the Lambdas and the index are the
embedded AWS's, deployed from the stacks.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from cli.adapters.stream_records import StreamRecords
from local.aws import EmbeddedAws
from node_agent.adapters.stream_records import DynamoStreamRecords
from node_agent.contract.aws_events import INTERRUPTION_EVENT, STATE_CHANGE_EVENT
from node_agent.contract.capacity import SCHEDULED_EVENT
from node_agent.contract.names import DEFAULT_CLUSTER, DRILL_EVENT_SOURCE, function_name, table_name
from node_agent.contract.open_streams import OpenStreams
from node_agent.contract.ownership import Ownership
from node_agent.contract.table_schema import StreamStatus
from node_agent.contract.timestamps import format_instant
from node_agent.core.replication import owned_streams
from node_agent.dependencies import Dependencies
from tests.scenarios.local_fleet import LocalFleet, eventually, local_fleet
from tests.scenarios.test_resume import Reader

CLUSTER = DEFAULT_CLUSTER
WITHIN_S = 30.0

pytestmark = pytest.mark.e2e


@pytest.fixture
def aws(deployed_aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch) -> EmbeddedAws:
    monkeypatch.setattr(owned_streams, "WRITE_EVERY_S", 1.0)
    return deployed_aws


class Table:
    """The deployed table, as nodes and `synkti streams` read it."""

    def __init__(self, aws: EmbeddedAws) -> None:
        self._aws = aws
        self.records = DynamoStreamRecords(aws.client("dynamodb"), table_name(CLUSTER))

    def through(self, outside: Dependencies) -> Dependencies:
        """Give a node of the fleet this table."""
        return replace(outside, stream_records=self.records)

    async def open(self, instance_id: str) -> OpenStreams | None:
        return await self.records.read_open(instance_id)

    async def becomes(self, stream: str, status: StreamStatus) -> Ownership:
        """Wait until the stream has this status."""

        async def reached() -> bool:
            held = await self.records.find(stream)
            return held is not None and held.status is status

        await eventually(f"the stream is {status}", reached, WITHIN_S)
        found = await self.records.find(stream)
        assert found is not None
        return found

    def put(self, kind: str, instance_id: str, detail: dict[str, str]) -> None:
        """Put an event like EC2's, which the deployed rule takes to the deployed Lambda."""
        entry = {
            "Source": DRILL_EVENT_SOURCE,
            "DetailType": kind,
            "Detail": json.dumps({"instance-id": instance_id, **detail}),
            "Resources": [],
        }
        assert self._aws.client("events").put_events(Entries=[entry])["FailedEntryCount"] == 0

    def listed(self, status: StreamStatus) -> list[str]:
        """Return the streams that `synkti streams` finds in the index."""
        found = StreamRecords(self._aws.client("dynamodb"), table_name(CLUSTER)).owned(status)
        return [each.stream for each in found]


def test_a_stream_of_a_killed_entry_is_orphaned_resumed_and_closed(aws: EmbeddedAws, tmp_path: Path) -> None:
    table = Table(aws)

    async def run() -> None:
        async with local_fleet(tmp_path, seconds_per_token=0.05, through=table.through) as fleet:
            await lose_and_resume(fleet, table)

    uvloop.run(run())


async def lose_and_resume(fleet: LocalFleet, table: Table) -> None:
    entry, other = fleet.nodes[:2]
    reader = Reader(fleet)
    reading = asyncio.create_task(reader.request(entry, "chat"))

    async def recorded() -> bool:
        record = await table.open(entry.instance_id)
        return record is not None and any(each.stream == reader.stream and each.replicas for each in record.streams)

    await eventually("the stream is in the entry's record", recorded, WITHIN_S)
    table.put(INTERRUPTION_EVENT, entry.instance_id, {"instance-action": "terminate"})

    async def marked() -> bool:
        record = await table.open(entry.instance_id)
        return record is not None and record.deadline is not None

    await eventually("the Lambda marks the deadline", marked, WITHIN_S)
    await entry.crash()
    await reading
    assert not reader.done
    table.put(STATE_CHANGE_EVENT, entry.instance_id, {"state": "shutting-down"})
    orphan = await table.becomes(reader.stream, StreamStatus.ORPHANED)
    assert (orphan.number, orphan.owner) == (1, entry.instance_id)
    assert set(orphan.replicas) == {node.instance_id for node in fleet.nodes[1:]}
    assert table.listed(StreamStatus.ORPHANED) == [reader.stream]

    assert await reader.resume(other) == 200
    reader.check_whole("chat")
    closed = await table.becomes(reader.stream, StreamStatus.CLOSED)
    assert (closed.number, closed.instance_id) == (2, other.instance_id)
    assert table.listed(StreamStatus.ORPHANED) == []

    table.put(STATE_CHANGE_EVENT, entry.instance_id, {"state": "terminated"})

    async def ended() -> bool:
        record = await table.open(entry.instance_id)
        return record is not None and record.ended_at is not None

    await eventually("the Lambda marks the end", ended, WITHIN_S)
    assert await table.records.find(reader.stream) == closed, "a late event moves nothing back"


def test_the_deployed_check_counts_streams_that_stay_orphaned(aws: EmbeddedAws) -> None:
    table = Table(aws)
    long_ago = Ownership("ab" * 12, 1, "i-00000099", StreamStatus.ORPHANED, 9, 1.0, 2.0, 2**40)
    assert asyncio.run(table.records.advance([long_ago])) == 1
    event = {
        "id": "check-1",
        "detail-type": SCHEDULED_EVENT,
        "source": "aws.events",
        "time": format_instant(time.time()),
    }
    answer: Any = aws.client("lambda").invoke(
        FunctionName=function_name(CLUSTER, "fleet_checked"), Payload=json.dumps({**event, "detail": {}}).encode()
    )
    result = json.loads(answer["Payload"].read())
    assert result["streams"]["reason"] == "1 streams are orphaned for more than 300 s", result
