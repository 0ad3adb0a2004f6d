"""One suite over the adapters and their twins in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import boto3
import pytest

from lambdas.adapters.dynamodb import DynamoRecords
from lambdas.adapters.ec2 import Ec2Instances
from lambdas.adapters.memory import MemoryInstances, MemoryRecords
from lambdas.adapters.ports import Instances, RecordChanged, Records
from lambdas.core.decisions import Action, Decision, InstanceSeen
from node_agent.contract.records import NodeRecord, TimelineStep
from node_agent.contract.states import NodeState
from node_agent.contract.tags import NodeTags, decode_tags

STEP = TimelineStep("interruption-notice", "eventbridge", 1000.0)
NODE = "i-0123456789abcdef0"
RECORD = NodeRecord(NODE, "us-east-1a", "g5.xlarge", NodeState.READY, 7, 99)
CREATE = Decision(Action.CREATE, "", NodeState.READY, STEP, RECORD)
ADVANCE = Decision(Action.ADVANCE, "", NodeState.DRAINING, STEP, RECORD)


@pytest.fixture(params=["memory", "dynamodb"])
def records(request: pytest.FixtureRequest) -> Records:
    return MemoryRecords() if request.param == "memory" else DynamoRecords(request.getfixturevalue("table"))


def test_a_record_is_created_once(records: Records) -> None:
    assert records.find(NODE) is None
    records.write(CREATE)
    assert records.find(NODE) == RECORD
    with pytest.raises(RecordChanged):
        records.write(CREATE)


def test_a_record_moves_forward_with_its_step(records: Records) -> None:
    records.write(CREATE)
    records.write(ADVANCE)
    assert records.find(NODE) == replace(RECORD, state=NodeState.DRAINING, timeline={STEP.key: STEP})


@pytest.mark.parametrize(
    "stale",
    [replace(RECORD, incarnation=6), replace(RECORD, state=NodeState.AT_RISK)],
    ids=["another incarnation", "another state than was read"],
)
def test_a_write_depends_on_what_was_read(records: Records, stale: NodeRecord) -> None:
    records.write(CREATE)
    with pytest.raises(RecordChanged):
        records.write(replace(ADVANCE, record=stale))
    assert records.find(NODE) == RECORD


def test_a_step_is_told_once(records: Records) -> None:
    records.write(CREATE)
    note = replace(ADVANCE, action=Action.NOTE, state=None)
    records.write(note)
    with pytest.raises(RecordChanged):
        records.write(note)


def test_an_unknown_record_cannot_be_advanced(records: Records) -> None:
    with pytest.raises(RecordChanged):
        records.write(ADVANCE)


def test_a_pools_interruptions_add_up(records: Records) -> None:
    assert records.recent_interruptions("us-east-1a", "g5.xlarge") == ()
    for at in (3.0, 1.0, 2.0, 2.0):
        records.note_interruption("us-east-1a", "g5.xlarge", at, now=10.0)
    assert records.recent_interruptions("us-east-1a", "g5.xlarge") == (1000, 2000, 3000)
    assert records.recent_interruptions("us-east-1b", "g5.xlarge") == ()


@pytest.fixture(params=["memory", "ec2"])
def found(request: pytest.FixtureRequest) -> tuple[Instances, str]:
    tags = NodeTags("synkti", NodeState.READY).encode()
    if request.param == "memory":
        return MemoryInstances({NODE: InstanceSeen(NODE, "us-east-1a", "g5.xlarge", tags)}), NODE
    instance_id = request.getfixturevalue("run_instance")(tags)
    return Ec2Instances(boto3.client("ec2")), instance_id


def test_an_instance_is_found_and_tagged(found: tuple[Instances, str]) -> None:
    instances, instance_id = found
    seen = instances.find(instance_id)
    assert seen is not None
    assert (seen.zone, seen.instance_type) == ("us-east-1a", "g5.xlarge")
    instances.tag(instance_id, NodeTags("synkti", NodeState.DRAINING, deadline=5.0))
    tagged: Any = instances.find(instance_id)
    assert decode_tags(tagged.tags) == NodeTags("synkti", NodeState.DRAINING, deadline=5.0)


def test_an_unknown_instance_is_none(found: tuple[Instances, str]) -> None:
    assert found[0].find("i-00000000000000000") is None
