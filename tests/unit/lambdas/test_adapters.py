"""One suite over the adapters and their twins in memory."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from lambdas.adapters.autoscaling import AutoScalingGroups
from lambdas.adapters.dynamodb import DynamoBreaker, DynamoCapacity, DynamoRecords
from lambdas.adapters.ec2 import Ec2Instances
from lambdas.adapters.memory import MemoryBreaker, MemoryCapacity, MemoryGroups, MemoryInstances, MemoryRecords
from lambdas.adapters.ports import BreakerRecords, CapacityRecords, Groups, Instances, RecordChanged, Records
from lambdas.core.decisions import Action, Decision, InstanceDescription
from lambdas.core.on_demand_fallback import GroupDescription
from node_agent.contract.capacity import CapacityChange, CapacityRecord, group_key
from node_agent.contract.launch_breaker import BreakerRecord, GiveUp
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import RECORD_LIFE_S, NodeRecord, TimelineStep, node_key, pool_key
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
    held = replace(RECORD, state=NodeState.DRAINING, timeline={STEP.key: STEP}, expires_at=1000 + RECORD_LIFE_S)
    assert records.find(NODE) == held, "and its life is renewed"


@pytest.mark.parametrize(
    "stale",
    [replace(RECORD, incarnation=6), replace(RECORD, state=NodeState.AT_RISK)],
    ids=["another incarnation", "another state than was read"],
)
def test_a_write_depends_on_the_version_that_was_read(records: Records, stale: NodeRecord) -> None:
    records.write(CREATE)
    with pytest.raises(RecordChanged):
        records.write(replace(ADVANCE, record=stale))
    assert records.find(NODE) == RECORD


def test_a_step_is_recorded_once(records: Records) -> None:
    records.write(CREATE)
    note = replace(ADVANCE, action=Action.APPEND_STEP, state=None)
    records.write(note)
    with pytest.raises(RecordChanged):
        records.write(note)


def test_an_unknown_record_cannot_be_advanced(records: Records) -> None:
    with pytest.raises(RecordChanged):
        records.write(ADVANCE)


def test_the_interruptions_of_a_pool_add_up(records: Records) -> None:
    assert records.recent_interruptions("us-east-1a", "g5.xlarge") == ()
    for at in (3.0, 1.0, 2.0, 2.0):
        records.record_interruption("us-east-1a", "g5.xlarge", at, now=10.0)
    assert records.recent_interruptions("us-east-1a", "g5.xlarge") == (1000, 2000, 3000)
    assert records.recent_interruptions("us-east-1b", "g5.xlarge") == ()


HALF = {"state": "ready", "expires_at": 9, "timeline": {"x": 1, "y": {"step": "a", "source": "b", "at_ms": "c"}}}


def test_an_incomplete_record_counts_as_absent_and_is_replaced(table: Any) -> None:
    """As a write leaves it that came after the table had deleted the rest."""
    table.put_item(Item={**node_key(NODE), **HALF})
    records = DynamoRecords(table)
    assert records.find(NODE) is None
    records.write(CREATE)
    assert records.find(NODE) == RECORD


def test_unreadable_steps_are_left_out(table: Any) -> None:
    table.put_item(Item={**RECORD.to_item(), "timeline": HALF["timeline"]})
    assert DynamoRecords(table).find(NODE) == RECORD


@pytest.mark.parametrize("recent", [None, "x", ["x", None, 5], [5], []])
def test_an_invalid_record_of_a_pool_is_counted_on(table: Any, recent: object) -> None:
    table.put_item(Item={**pool_key("z", "t"), "recent": recent})
    records = DynamoRecords(table)
    records.record_interruption("z", "t", 9.0, 10.0)
    assert records.recent_interruptions("z", "t")[-1] == 9000


def test_an_incomplete_capacity_record_counts_as_absent_and_is_replaced(table: Any) -> None:
    table.put_item(Item={**group_key(GROUP), "base": "two"})
    first = CapacityRecord(GROUP, 1, 5.0, 6.0, "e-1", 1, 99)
    capacity = DynamoCapacity(table)
    assert capacity.find(GROUP) is None
    capacity.write(first)
    assert capacity.find(GROUP) == first


@pytest.fixture(params=["memory", "ec2"])
def found(request: pytest.FixtureRequest) -> tuple[Instances, str]:
    tags = NodeTags("synkti", NodeState.READY).encode()
    if request.param == "memory":
        return MemoryInstances({NODE: InstanceDescription(NODE, "us-east-1a", "g5.xlarge", tags)}), NODE
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
    assert found[0].is_spot("i-00000000000000000") is None


def test_an_instance_is_spot_or_not(aws: None, run_instance: Any) -> None:
    on_demand = run_instance({"Name": "on demand"})
    spot = boto3.client("ec2").run_instances(
        ImageId="ami-12c6146b", MinCount=1, MaxCount=1, InstanceMarketOptions={"MarketType": "spot"}
    )["Instances"][0]["InstanceId"]
    real = Ec2Instances(boto3.client("ec2"))
    seen = InstanceDescription(spot, "us-east-1a", "g5.xlarge", {})
    twin = MemoryInstances({spot: seen, on_demand: replace(seen, instance_id=on_demand)}, frozenset({spot}))
    for instances in (real, twin):
        assert (instances.is_spot(spot), instances.is_spot(on_demand)) == (True, False)


GROUP = "synkti-fleet"


@pytest.fixture(params=["memory", "autoscaling"])
def groups(request: pytest.FixtureRequest) -> Groups:
    """A group of three, all there, one of them on demand."""
    if request.param == "memory":
        return MemoryGroups({GROUP: GroupDescription(GROUP, 1, 3, 3)})
    request.getfixturevalue("aws")
    ec2, autoscaling = boto3.client("ec2"), boto3.client("autoscaling")
    template = ec2.create_launch_template(
        LaunchTemplateName="t", LaunchTemplateData={"ImageId": "ami-12c6146b", "InstanceType": "g5.xlarge"}
    )["LaunchTemplate"]
    specification: Any = {"LaunchTemplateId": template["LaunchTemplateId"], "Version": "1"}
    autoscaling.create_auto_scaling_group(
        AutoScalingGroupName=GROUP,
        MinSize=0,
        MaxSize=6,
        DesiredCapacity=3,
        AvailabilityZones=["us-east-1a"],
        MixedInstancesPolicy={
            "LaunchTemplate": {
                "LaunchTemplateSpecification": specification,
                "Overrides": [{"InstanceType": "g5.xlarge"}, {"InstanceType": "g6.xlarge"}],
            },
            "InstancesDistribution": {"OnDemandBaseCapacity": 1, "OnDemandPercentageAboveBaseCapacity": 0},
        },
    )
    return AutoScalingGroups(autoscaling)


def test_a_group_is_described(groups: Groups) -> None:
    assert groups.find(GROUP) == GroupDescription(GROUP, on_demand_base=1, desired=3, present=3)
    assert groups.find("another") is None


def test_setting_a_base_changes_nothing_else() -> None:
    """moto wants the whole policy; botocore checks the request against EC2 Auto Scaling's own model."""
    client = boto3.client("autoscaling", "us-east-1", aws_access_key_id="test", aws_secret_access_key="test")
    expected = {
        "AutoScalingGroupName": GROUP,
        "MixedInstancesPolicy": {"InstancesDistribution": {"OnDemandBaseCapacity": 2}},
    }
    with Stubber(client) as stub:
        stub.add_response("update_auto_scaling_group", {}, expected)
        AutoScalingGroups(client).set_on_demand_base(GROUP, 2)
        stub.assert_no_pending_responses()


def test_a_base_in_memory_can_be_set_repeatedly() -> None:
    twin = MemoryGroups({GROUP: GroupDescription(GROUP, 1, 3, 3)})
    twin.set_on_demand_base(GROUP, 2)
    twin.set_on_demand_base(GROUP, 2)
    assert twin.find(GROUP) == GroupDescription(GROUP, 2, 3, 3)


def test_launches_are_suspended_and_resumed_and_nothing_else(aws: None, groups: Groups) -> None:
    assert isinstance(groups, MemoryGroups | AutoScalingGroups)
    groups.suspend_launches(GROUP)
    seen = groups.find(GROUP)
    assert seen is not None
    assert seen.launches_suspended
    groups.resume_launches(GROUP)
    assert groups.find(GROUP) == GroupDescription(GROUP, on_demand_base=1, desired=3, present=3)


def test_only_the_launch_process_is_suspended_and_the_version_is_that_of_the_tag() -> None:
    client = boto3.client("autoscaling", "us-east-1", aws_access_key_id="test", aws_secret_access_key="test")
    request = {"AutoScalingGroupName": GROUP, "ScalingProcesses": ["Launch"]}
    group = {
        "AutoScalingGroupName": GROUP, "MinSize": 0, "MaxSize": 6, "DesiredCapacity": 3, "DefaultCooldown": 300,
        "AvailabilityZones": ["us-east-1a"], "HealthCheckType": "EC2",
        "CreatedTime": datetime(2026, 11, 30, tzinfo=UTC), "Tags": [{"Key": "SynktiVersion", "Value": "v2"}],
        "SuspendedProcesses": [{"ProcessName": "Launch", "SuspensionReason": "User suspended"}],
    }  # fmt: skip
    with Stubber(client) as stub:
        stub.add_response("suspend_processes", {}, request)
        stub.add_response("resume_processes", {}, request)
        stub.add_response("describe_auto_scaling_groups", {"AutoScalingGroups": [group]})
        groups = AutoScalingGroups(client)
        groups.suspend_launches(GROUP)
        groups.resume_launches(GROUP)
        assert groups.find(GROUP) == GroupDescription(GROUP, 0, 3, 0, "v2", launches_suspended=True)


@pytest.fixture(params=["memory", "dynamodb"])
def breaker(request: pytest.FixtureRequest) -> BreakerRecords:
    return MemoryBreaker() if request.param == "memory" else DynamoBreaker(request.getfixturevalue("table"))


def test_a_breakers_record_is_written_over_the_version_that_was_read(breaker: BreakerRecords) -> None:
    first = BreakerRecord(GROUP, "v2", (GiveUp("i-1", 5.0, "why"),), 6.0, "e-1", 1, 99)
    assert breaker.find(GROUP) is None
    breaker.write(first)
    assert breaker.find(GROUP) == first
    with pytest.raises(RecordChanged):
        breaker.write(first)
    breaker.write(replace(first, opened_at=0.0, version=2))
    assert breaker.find(GROUP) == replace(first, opened_at=0.0, version=2)


@pytest.fixture(params=["memory", "dynamodb"])
def capacity(request: pytest.FixtureRequest) -> CapacityRecords:
    return MemoryCapacity() if request.param == "memory" else DynamoCapacity(request.getfixturevalue("table"))


def test_a_capacity_record_is_written_over_the_version_that_was_read(capacity: CapacityRecords) -> None:
    first = CapacityRecord(GROUP, 1, 5.0, 6.0, "e-1", 1, 99, (CapacityChange(1, 5.0, "why"),))
    assert capacity.find(GROUP) is None
    capacity.write(first)
    assert capacity.find(GROUP) == first
    with pytest.raises(RecordChanged):
        capacity.write(replace(first, base=9))
    second = replace(first, base=2, version=2)
    capacity.write(second)
    with pytest.raises(RecordChanged):
        capacity.write(replace(first, base=9, version=2))
    assert capacity.find(GROUP) == second
