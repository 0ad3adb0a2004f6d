"""`synkti streams`: open streams by node, and those that lost nodes have left."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import boto3
import pytest

from cli.core.streams import streams_of
from cli.exit_codes import ExitCode
from node_agent.contract.names import table_name
from node_agent.contract.open_streams import OpenStream, OpenStreams
from node_agent.contract.ownership import CHANGED_ATTRIBUTE, STATUS_ATTRIBUTE, STATUS_INDEX, Ownership
from node_agent.contract.table_schema import PARTITION_KEY, SORT_KEY, StreamStatus
from tests.unit.cli.conftest import DeployedFleet, Run

NOW = 1_000_000.0
LIFE = 2**40
OPEN = OpenStreams("i-1", 7, (OpenStream("a" * 24, 1, "i-1", 40, NOW - 60, ("i-2",)),), LIFE, {"i-2": "10.0.0.2:8001"})
ORPHAN = Ownership("b" * 24, 1, "i-9", StreamStatus.ORPHANED, 7, NOW - 90, NOW - 30, LIFE, {"i-1": "10.0.0.1:8001"})
EVERY = tuple(StreamStatus)


def table_with_index(cluster: str = "synkti") -> Any:
    """Make the table as the state stack does."""
    keys = ((PARTITION_KEY, "HASH"), (SORT_KEY, "RANGE"))
    index: Any = {
        "IndexName": STATUS_INDEX,
        "KeySchema": [
            {"AttributeName": STATUS_ATTRIBUTE, "KeyType": "HASH"},
            {"AttributeName": CHANGED_ATTRIBUTE, "KeyType": "RANGE"},
        ],
        "Projection": {"ProjectionType": "ALL"},
    }
    kinds = {PARTITION_KEY: "S", SORT_KEY: "S", STATUS_ATTRIBUTE: "S", CHANGED_ATTRIBUTE: "N"}
    attributes: Any = [{"AttributeName": name, "AttributeType": kind} for name, kind in kinds.items()]
    schema: Any = [{"AttributeName": name, "KeyType": kind} for name, kind in keys]
    return boto3.resource("dynamodb").create_table(
        TableName=table_name(cluster),
        KeySchema=schema,
        AttributeDefinitions=attributes,
        GlobalSecondaryIndexes=[index],
        BillingMode="PAY_PER_REQUEST",
    )


def test_orphaned_streams_come_first() -> None:
    found = streams_of([OPEN], [ORPHAN], EVERY, NOW)
    assert [(each.stream[0], each.status, each.node) for each in found] == [
        ("b", StreamStatus.ORPHANED, "i-9"),
        ("a", StreamStatus.OPEN, "i-1"),
    ]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"status": StreamStatus.ORPHANED}, StreamStatus.ORPHANED),
        ({"number": 2, "owner": "i-2+0a", "status": StreamStatus.CLOSED}, StreamStatus.CLOSED),
        ({"number": 2, "owner": "i-2+0a", "status": StreamStatus.OPEN}, StreamStatus.OPEN),
        ({"expires_at": 0}, StreamStatus.OPEN),
    ],
    ids=str,
)
def test_of_one_stream_the_furthest_record_counts(change: dict[str, Any], status: StreamStatus) -> None:
    owned = replace(ORPHAN, **{"stream": "a" * 24, "owner": "i-1", **change})
    (found,) = streams_of([OPEN], [owned], EVERY, NOW)
    assert found.status is status
    assert streams_of([OPEN], [owned], set(EVERY) - {status}, NOW) == ()


def test_an_expired_record_is_left_out() -> None:
    assert streams_of([replace(OPEN, expires_at=int(NOW))], [], EVERY, NOW) == ()


def test_the_command_lists_open_and_orphaned_streams(run: Run, fleet: DeployedFleet) -> None:
    table, first, now = table_with_index(), fleet.ids[0], time.time()
    mine = (OpenStream("a" * 24, 1, first, 40, now - 90, ("i-2",)),)
    table.put_item(Item=replace(OPEN, instance_id=first, streams=mine, expires_at=int(now) + 99).to_item())
    table.put_item(Item=replace(ORPHAN, changed_at=now - 200, expires_at=int(now) + 99).to_item())
    table.put_item(Item={PARTITION_KEY: "x", SORT_KEY: "y", STATUS_ATTRIBUTE: "orphaned", CHANGED_ATTRIBUTE: 1})
    done = run("streams")
    assert done.code == 0
    assert done.table == [
        ["synkti in us-east-1: 1 open, 1 orphaned"],
        ["STREAM", "STATUS", "NODE", "EPOCH", "EVENTS", "AGE", "REPLICAS"],
        ["b" * 24, "orphaned", "i-9", "1", "7", "3 min", "i-1"],
        ["a" * 24, "open", first, "1", "40", "1 min", "i-2"],
    ]
    only = run("streams", "--status", "orphaned", "--json").document
    assert [(each["stream"], each["status"]) for each in only["streams"]] == [("b" * 24, "orphaned")]


def test_a_cluster_without_streams_says_so(run: Run, fleet: DeployedFleet) -> None:
    table_with_index()
    assert "no streams are recorded" in run("streams").out


def test_a_cluster_without_the_table_or_the_index_is_an_error_with_advice(run: Run, fleet: DeployedFleet) -> None:
    done = run("streams")
    assert done.code == ExitCode.NOT_FOUND
    assert "no index of streams" in done.err
    assert "synkti bootstrap" in done.err
