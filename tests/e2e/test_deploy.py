"""The stacks on the embedded AWS: deployed twice, and events that go through their rules into their Lambdas.

Where the embedded AWS keeps only records (docs/architecture.md), the templates are tested instead.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from local.aws import EmbeddedAws, run_tool
from local.deploy import ROOT, synthesize
from node_agent.contract.aws_events import INTERRUPTION_EVENT
from node_agent.contract.capacity import LAUNCH_FAILED_EVENT, group_key
from node_agent.contract.names import DEFAULT_CLUSTER, DRILL_EVENT_SOURCE, auto_scaling_group_name, table_name
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import node_key
from node_agent.contract.tags import NodeTags

CLUSTER = DEFAULT_CLUSTER
WITHIN_S = 30.0
NO_SPOT = "Could not launch Spot Instances. UnfulfillableCapacity - Unable to fulfill capacity"

pytestmark = pytest.mark.e2e
_T = TypeVar("_T")


@pytest.fixture
def aws(deployed_aws: EmbeddedAws) -> EmbeddedAws:
    return deployed_aws


def until(look: Callable[[], _T | None], what: str) -> _T:
    give_up_at = time.monotonic() + WITHIN_S
    while (found := look()) is None:
        assert time.monotonic() < give_up_at, f"{what} did not happen within {WITHIN_S:.0f} s"
        time.sleep(0.1)
    return found


def put(aws: EmbeddedAws, kind: str, detail: dict[str, str]) -> None:
    entry = {"Source": DRILL_EVENT_SOURCE, "DetailType": kind, "Detail": json.dumps(detail), "Resources": []}
    assert aws.client("events").put_events(Entries=[entry])["FailedEntryCount"] == 0


def item(aws: EmbeddedAws, key: dict[str, str]) -> dict[str, Any] | None:
    typed = {name: {"S": value} for name, value in key.items()}
    found: dict[str, Any] | None = aws.client("dynamodb").get_item(TableName=table_name(CLUSTER), Key=typed).get("Item")
    return found


def test_a_second_deployment_changes_nothing(aws: EmbeddedAws, tmp_path: Path) -> None:
    command = [str(ROOT / "node_modules/.bin/cdk"), "deploy", "--all", "--app", str(synthesize(CLUSTER))]
    command += ["--require-approval", "never", "--progress", "events"]
    before = versions(aws)
    quiet = {"CDK_DISABLE_CLI_TELEMETRY": "true", "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "1"}
    run_tool([*command], tmp_path, {**aws.environ(), **quiet}, "cdk deploy")
    assert versions(aws) == before


def versions(aws: EmbeddedAws) -> dict[str, Any]:
    """Return the last update time of each stack."""
    stacks = aws.client("cloudformation").describe_stacks()["Stacks"]
    mine = [stack for stack in stacks if stack["StackName"].startswith(CLUSTER)]
    assert len(mine) == 4
    return {stack["StackName"]: (stack["CreationTime"], stack.get("LastUpdatedTime")) for stack in mine}


def test_a_lack_of_spot_capacity_is_recorded_by_the_deployed_lambda(aws: EmbeddedAws) -> None:
    group = auto_scaling_group_name(CLUSTER)
    put(aws, LAUNCH_FAILED_EVENT, {"AutoScalingGroupName": group, "StatusMessage": NO_SPOT, "EC2InstanceId": ""})
    record = until(lambda: item(aws, group_key(group)), "the record of the group's capacity")
    assert record["base"] == {"N": "2"}
    assert record["history"]["L"][0]["M"]["why"] == {"S": "UnfulfillableCapacity: 3 of 3 missing"}


def test_an_interruption_is_recorded_by_the_deployed_lambda(aws: EmbeddedAws) -> None:
    tags = [{"Key": key, "Value": value} for key, value in NodeTags(CLUSTER, NodeState.READY).encode().items()]
    ec2 = aws.client("ec2")
    node = ec2.run_instances(
        ImageId="ami-00000000000000000",
        MinCount=1,
        MaxCount=1,
        InstanceType="g5.xlarge",
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )["Instances"][0]["InstanceId"]
    put(aws, INTERRUPTION_EVENT, {"instance-id": node, "instance-action": "terminate"})
    record = until(lambda: item(aws, node_key(node)), "the node's record")
    assert record["state"] == {"S": "draining"}

    def draining() -> bool | None:
        held = ec2.describe_instances(InstanceIds=[node])["Reservations"][0]["Instances"][0]["Tags"]
        return {"Key": "SynktiState", "Value": "draining"} in held or None

    assert until(draining, "the node's tag")
